"""What every corpus may yield, and what stage 1 makes of it."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest
import tiny_corpora

from adakd import corpora
from adakd.corpora import Rejected, Utterance, marker
from adakd.data import manifest
from adakd.data.prepare import Clips, prepare
from adakd.errors import UserError


def test_kinds_are_corpora_and_nothing_else() -> None:
    assert {"kaldi_dir", "aishell2", "audio_cmn", "fsdd", "espeak"} <= set(corpora.kinds())
    for kind in corpora.kinds():
        module = corpora.module(kind)
        assert all(hasattr(module, name) for name in ("Options", "fetch", "utterances")), kind
    with pytest.raises(UserError, match="did you mean 'kaldi_dir'"):
        corpora.module("kaldidir")


@pytest.mark.parametrize("content", [b"", b'{"source": "/da', b"[]", b"null", b'"\xff"'])
def test_a_damaged_marker_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    for kind in corpora.kinds():
        module = corpora.module(kind)
        path = tmp_path / kind / ("corpus.json" if kind == "espeak" else "fetched.json")
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(UserError) as raised:
            next(module.utterances(module.Options(), path.parent, None))
        assert (
            str(raised.value)
            == f"{path} is damaged: delete it, and what it stands for is made anew."
        ), kind
    with pytest.raises(UserError, match="fetched.json is damaged"):
        marker.described(tmp_path / "fsdd")


# As each kind leaves it, with what it needs of it.
MARKERS = {
    "common_voice": {"source": "/a", "name": "hi", "folder": "/a/hi", "release": None},
    "fleurs": {"source": "google/fleurs", "name": "hi_in", "folder": "/b", "archives": {}},
    "fsdd": {"source": "/c", "settings": {"seed": 1}},
    "audio_cmn": {"source": "/d", "settings": {"seed": 1, "dev_words": 500}, "recordings": "e"},
    "kaldi_dir": {"source": "/f", "settings": {"train": "train"}, "begin": {}, "sha256": {}},
}


@pytest.mark.parametrize(
    ("kind", "before"),
    # A FLEURS marker is told from Common Voice's by its tables.
    sorted(set(itertools.permutations(MARKERS, 2)) - {("common_voice", "fleurs")}),
)
def test_the_marker_of_another_kind_is_none(tmp_path: Path, kind: str, before: str) -> None:
    (tmp_path / "fetched.json").write_text(json.dumps(MARKERS[before]), encoding="utf-8")
    module = corpora.module(kind)
    with pytest.raises(UserError, match="run stage 0"):
        next(module.utterances(module.Options(), tmp_path, None))
    language = {"fsdd": "en", "audio_cmn": "zh"}.get(kind, "hi")
    options = module.Options(corpus=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        module.fetch(options, tmp_path, language)


def test_conditions_and_rejected_rows_go_through_stage_1(tmp_path: Path) -> None:
    rows: list[Utterance | Rejected] = []
    for number, split in enumerate(("train", "dev", "test")):
        path = tmp_path / f"{split}.wav"
        tiny_corpora.clip(path, number)
        rows.append(Utterance(split, split, path, "赵孟𫖯!", "s", "", condition="Mic"))
    rows[0] = Utterance("train", "train", tmp_path / "train.wav", "赵孟𫖯!", "s", "")
    rows.insert(1, Rejected("bad", "train", "id twice: here\tand there", "trans.txt:7"))
    clips = Clips(tmp_path / "data/audio", tmp_path, "zh", 0.1, 30.0, normalise=True)
    counts = prepare(rows, tmp_path / "data", clips, [], 0.5, 1)
    assert {split: count["rejected"] for split, count in counts.items()} == {
        "train": 1, "dev": 0, "test": 0,
    }  # fmt: skip
    (train,), (dev,) = (manifest.read(tmp_path / "data" / f"{s}.jsonl") for s in ("train", "dev"))
    assert (train.text, train.raw, train.condition) == ("赵孟頫", "赵孟𫖯!", "")
    assert (dev.text, dev.raw, dev.condition) == ("赵孟頫", "赵孟𫖯!", "Mic")
    with open(tmp_path / "data" / "rejected.tsv", encoding="utf-8", newline="") as file:
        (bad,) = csv.DictReader(file, delimiter="\t")
    assert list(bad.values()) == ["bad", "train", "id twice: here and there", "trans.txt:7"]


def test_a_manifest_of_before_has_no_condition(tmp_path: Path) -> None:
    old = {"id": "a", "audio": "a.wav", "seconds": 1.0, "text": "x", "raw": "x"}
    old |= {"speaker": "s", "language": "en"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(old) + "\n")
    assert manifest.read(tmp_path / "dev.jsonl")[0].condition == ""
