"""The synthetic corpus: nothing shared between splits, the same bytes for the same seed."""

import dataclasses
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adakd import corpora
from adakd.corpora import espeak, grammar
from adakd.errors import UserError

pytest.importorskip("espeakng_loader")

GRAMMAR = """\
words:
  person: [राम, सीता, मोहन, गीता, मेरा भाई, मेरी बहन]
  thing: [चाय, दूध, पानी, किताब, गाड़ी, रोटी, चावल, कलम]
  time: [आज, कल, अभी, सुबह, शाम को, रात में]
patterns:
  - "{person} को {time} {thing} चाहिए।"
  - "{time} {person} के पास {thing} है।"
"""


@pytest.fixture
def options(tmp_path: Path) -> espeak.Options:
    path = tmp_path / "grammar.yaml"
    path.write_text(GRAMMAR, encoding="utf-8")
    return espeak.Options(hours=60 / 3600, dev_minutes=0.5, test_minutes=0.5, grammar=str(path))


def fetch(options: espeak.Options, folder: Path, language: str = "hi") -> None:
    espeak.fetch(options, folder, language)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "corpus.json"  # it holds the path of the grammar
    }


def test_module_of_a_kind() -> None:
    assert corpora.module("espeak") is espeak
    with pytest.raises(UserError, match="did you mean 'espeak'"):
        corpora.module("espaek")


def test_without_the_package_it_is_a_sentence(
    options: espeak.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(importlib.metadata, "version", None)  # which would raise an error, too
    for cached in (espeak._loader, espeak.variants, espeak.espeak_code):
        cached.cache_clear()
    for needs_it in (
        lambda: fetch(options, tmp_path / "corpus"),
        espeak.variants,
        lambda: espeak.espeak_code("hi"),
    ):
        with pytest.raises(UserError, match="need the package espeakng-loader: pip install"):
            needs_it()
    assert not (tmp_path / "corpus").exists()


def test_library_keeps_no_state_between_utterances() -> None:
    """Without unloading, flutter and breath noise make every A of A, B, A different."""
    for variant in ("f1", "whisper", "klatt2", "Reed"):
        first = espeak.speak("आज मौसम अच्छा है", "hi", variant)
        espeak.speak("मुझे चाय चाहिए", "ta", "m3", 220, 60)
        again = espeak.speak("आज मौसम अच्छा है", "hi", variant)
        assert len(first) > 8000 and np.array_equal(first, again)


def test_rate_does_something() -> None:
    slow = espeak.speak("आज मौसम अच्छा है", "hi", "m3", rate=110)
    fast = espeak.speak("आज मौसम अच्छा है", "hi", "m3", rate=220)
    assert len(slow) > 1.4 * len(fast)


def test_same_seed_same_bytes(options: espeak.Options, tmp_path: Path) -> None:
    fetch(options, tmp_path / "one")
    fetch(options, tmp_path / "two")
    first = digests(tmp_path / "one")
    assert len(first) > 30 and first == digests(tmp_path / "two")
    fetch(dataclasses.replace(options, seed=2), tmp_path / "two")
    assert digests(tmp_path / "two") != first


def test_splits_share_no_speaker_and_no_sentence(options: espeak.Options, tmp_path: Path) -> None:
    import soundfile

    fetch(options, tmp_path / "corpus")
    found = list(espeak.utterances(options, tmp_path / "corpus", None))
    assert len({u.id for u in found}) == len(found)
    assert found == list(espeak.utterances(options, tmp_path / "corpus", None))
    longer = dataclasses.replace(options, hours=2.0)
    with pytest.raises(UserError, match=r"made with corpus.hours .*, but now it is 2.0; run stage"):
        next(espeak.utterances(longer, tmp_path / "corpus", None))
    seconds = dict.fromkeys(corpora.SPLITS, 0.0)
    for utterance in found:
        info = soundfile.info(utterance.audio)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert utterance.language == "hi"
        assert grammar.split_of(utterance.text) == utterance.split
        seconds[utterance.split] += info.duration
    for split, wanted in (("train", 60), ("dev", 30), ("test", 30)):
        assert wanted <= seconds[split] < wanted + 6
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        for what in ("speaker", "text"):
            left = {getattr(u, what) for u in found if u.split == one}
            right = {getattr(u, what) for u in found if u.split == other}
            assert left and right and not left & right


def test_finished_is_left_alone_interrupted_goes_on_changed_is_made_anew(
    options: espeak.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    calls: list[str] = []
    speak = espeak.speak

    def counted(text: str, *rest: object) -> np.ndarray:
        calls.append(text)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return speak(text, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(espeak, "speak", counted)
    stop = 35  # in dev: train is complete by then
    with pytest.raises(KeyboardInterrupt):
        fetch(options, folder)
    with pytest.raises(UserError, match="run stage 0"):
        list(espeak.utterances(options, folder, None))
    assert (folder / "train-hi.jsonl").exists() and not (folder / "dev-hi.jsonl").exists()
    stop = -1
    told: list[float | None] = []

    def progress(items: Iterable[Any], total: float | None, what: str) -> list[Any]:
        told.append(total)
        made = list(items)
        told.append(len(made))
        return made

    with monkeypatch.context() as watched:
        watched.setattr(espeak, "track", progress)
        fetch(options, folder)
    assert told == [60, 60]  # seconds of dev and test alone
    monkeypatch.setattr(espeak, "speak", speak)
    fetch(options, tmp_path / "whole")
    assert digests(folder) == digests(tmp_path / "whole")

    monkeypatch.setattr(espeak, "speak", counted)
    calls.clear()
    fetch(options, folder)
    assert not calls
    fetch(dataclasses.replace(options, hours=20 / 3600), folder)
    assert calls and len(list((folder / "train").iterdir())) < 20


def test_a_corpus_that_is_cut_while_it_is_removed_is_made_anew(
    options: espeak.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    options = dataclasses.replace(options, hours=20 / 3600)
    fetch(options, folder)

    def cut(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(espeak.shutil, "rmtree", cut)
        fetch(dataclasses.replace(options, seed=2), folder)
    with pytest.raises(UserError, match="no finished corpus there; run stage 0"):
        next(espeak.utterances(options, folder, None))
    fetch(dataclasses.replace(options, seed=2), folder)
    fetch(dataclasses.replace(options, seed=2), tmp_path / "whole")
    assert digests(folder) == digests(tmp_path / "whole")


def test_stage_1_is_of_the_sentences_and_voices_of_stage_0(
    options: espeak.Options, tmp_path: Path
) -> None:
    folder, given = tmp_path / "corpus", str(options.grammar)
    options = dataclasses.replace(options, hours=20 / 3600)
    fetch(options, folder)
    text = tmp_path / "mine.txt"
    text.write_text("यह मेरा वाक्य है", encoding="utf-8")
    voices = tmp_path / "voices.tsv"
    table = espeak._find(options.voices, "voices").read_text("utf-8")
    voices.write_text(table.replace("\tdev\t", "\ttest\t", 1), encoding="utf-8")
    for what, changes in {
        "sentences": {"text": str(text)},
        "sentences ": {"grammar": None},
        " sentences": {"languages": {"hi": given, "ta": given}},
        "voices": {"voices": str(voices)},
    }.items():
        other = dataclasses.replace(options, **changes)
        with pytest.raises(UserError, match=f"made with other {what.strip()} than .* run stage 0"):
            next(espeak.utterances(other, folder, None))
    state = json.loads((folder / "corpus.json").read_text("utf-8"))
    more = {**state, "sentences": {"de": "of another language", **state["sentences"]}}
    (folder / "corpus.json").write_text(json.dumps(more), encoding="utf-8")
    with pytest.raises(UserError, match="made with other sentences than .* run stage 0"):
        next(espeak.utterances(options, folder, None))
    (folder / "corpus.json").write_text(json.dumps(state), encoding="utf-8")
    copy = tmp_path / "copy.yaml"
    copy.write_text(GRAMMAR, encoding="utf-8")  # contents count, not paths
    for same in (options, dataclasses.replace(options, grammar=str(copy))):
        assert next(espeak.utterances(same, folder, None)).split == "train"
    del state["sentences"], state["voices"]  # as in a marker from before they stood there
    (folder / "corpus.json").write_text(json.dumps(state), encoding="utf-8")
    fetch(options, folder)
    assert json.loads((folder / "corpus.json").read_text("utf-8")) == state
    assert next(espeak.utterances(options, folder, None)).split == "train"


def test_without_its_marker_a_corpus_is_made_anew(options: espeak.Options, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(dataclasses.replace(options, seed=2, hours=20 / 3600), folder)
    (folder / "corpus.json").unlink()  # as one is told where it is damaged
    options = dataclasses.replace(options, hours=20 / 3600)
    fetch(options, folder)
    fetch(options, tmp_path / "whole")
    assert digests(tmp_path / "whole").items() <= digests(folder).items()
    found = list(espeak.utterances(options, folder, None))
    assert [u.text for u in found] == [
        u.text for u in espeak.utterances(options, tmp_path / "whole", None)
    ]


def test_noise_is_as_drawn(options: espeak.Options) -> None:
    dry = espeak.speak("आज मौसम अच्छा है", "hi", "m3")
    draws = []
    for number in range(20):
        mixture = espeak.degrade(dry, options, espeak.generator(1, str(number)))
        speech, noise = (
            np.mean(part.astype(np.float64) ** 2) for part in (mixture.speech, mixture.noise)
        )
        assert 10 * np.log10(speech / noise) == pytest.approx(mixture.snr_db, abs=1e-3)
        assert options.snr_db[0] <= mixture.snr_db <= options.snr_db[1]
        level = 10 * np.log10(speech)
        assert options.level_db[0] - 1e-3 <= level <= options.level_db[1] + 1e-3
        assert np.abs(mixture.samples()).max() <= 0.99
        power = np.abs(np.fft.rfft(mixture.noise)) ** 2
        frequency = np.fft.rfftfreq(len(mixture.noise), 1 / 16_000)
        # Slope by octaves: mean power in 4..8 kHz over that in 500..1000 Hz is three octaves down
        high = power[(frequency > 4000) & (frequency < 7900)].mean()
        low = power[(frequency > 500) & (frequency < 1000)].mean()
        assert np.log2(low / high) / 3 == pytest.approx(mixture.slope, abs=0.35)
        draws.append((mixture.snr_db, mixture.rt60, mixture.slope, level))
    assert all(np.std(column) > 0 for column in np.array(draws).T)


def test_no_reverberation_leaves_the_shape(options: espeak.Options) -> None:
    dry = espeak.speak("आज मौसम अच्छा है", "hi", "m3")
    plain = dataclasses.replace(options, reverb=[0.0, 0.0])
    mixture = espeak.degrade(dry, plain, espeak.generator(1, "a"))
    assert np.corrcoef(mixture.speech, dry)[0, 1] == pytest.approx(1.0, abs=1e-5)
    echo = dataclasses.replace(options, reverb=[0.3, 0.3])
    mixture = espeak.degrade(dry, echo, espeak.generator(1, "a"))
    assert np.corrcoef(mixture.speech[: len(dry)], dry)[0, 1] < 0.99


def test_users_own_text(options: espeak.Options, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    lines = [f"यह वाक्य संख्या {n} है" for n in range(120)]
    path.write_text("\n".join(lines), encoding="utf-8")
    own = dataclasses.replace(
        options, text=str(path), hours=15 / 3600, dev_minutes=0.1, test_minutes=0.1
    )
    fetch(own, tmp_path / "corpus")
    assert {u.text for u in espeak.utterances(own, tmp_path / "corpus", None)} <= set(lines)


def test_too_few_sentences_say_how_many_there_are(options: espeak.Options, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("घर\nचाय पीजिए\nनमस्ते\n", encoding="utf-8")
    own = dataclasses.replace(options, text=str(path))
    with pytest.raises(UserError, match=r"only 0 distinct sentences for test \(at most 3 in all.*"):
        fetch(own, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    path.write_text("\n".join(f"वाक्य {n}" for n in range(30)), encoding="utf-8")
    with pytest.raises(UserError, match=r"sentences for train .* of 3\.0 minutes; add .*hours"):
        fetch(dataclasses.replace(own, hours=0.05), tmp_path / "corpus")


def test_a_mistake_leaves_a_finished_corpus(options: espeak.Options, tmp_path: Path) -> None:
    folder, path = tmp_path / "corpus", tmp_path / "mine.txt"
    small = dataclasses.replace(options, hours=10 / 3600, dev_minutes=0.05, test_minutes=0.05)
    fetch(small, folder)
    before = digests(folder)
    path.write_text("घर\nचाय पीजिए\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"only . distinct sentences for .* too few for 30\.0 minu"):
        fetch(dataclasses.replace(small, text=str(path), hours=0.5), folder)
    with pytest.raises(UserError, match="no language 'xx'"):
        fetch(small, folder, "xx")
    assert digests(folder) == before
    assert list(espeak.utterances(small, folder, None))


def test_pretraining_joins_sentences_and_makes_no_test_set(
    options: espeak.Options, tmp_path: Path
) -> None:
    tamil = tmp_path / "ta.yaml"
    tamil.write_text(
        "words: {a: [நான், நீ, அவன், அவள்], b: [வீடு, பால், மரம், பூ, கடல்]}\n"
        "patterns: ['{a} {b} பார்த்தேன்', '{b} {a} கேட்டேன்', '{a} {a} {b}', '{b} {b} {a}']\n",
        encoding="utf-8",
    )
    many = dataclasses.replace(
        options,
        languages={"hi": options.grammar or "", "ta": str(tamil)},
        sentences_per_utterance=[1, 3],
        max_seconds=6.0,
        hours=40 / 3600,
        dev_minutes=0.1,
    )
    folder = tmp_path / "corpus"
    fetch(many, folder)
    found = list(espeak.utterances(many, folder, None))
    assert {(u.language, u.split) for u in found} == {
        (language, split) for language in ("hi", "ta") for split in ("train", "dev")
    }
    voices = {r.variant: r.split for r in espeak.read_voices(espeak._find(many.voices, "voices"))}
    assert all(voices[u.speaker.replace("_", " ")] == u.split for u in found)
    rows = [json.loads(x) for x in (folder / "train-hi.jsonl").read_text("utf-8").splitlines()]
    assert any(row["text"].count("।") > 1 for row in rows)
    for row in rows:
        # the tail of reverberation may add 0.2 s
        assert row["seconds"] <= 6.2
        for sentence in row["text"].split("।")[:-1]:
            assert grammar.split_of(sentence) == "train"


def test_unknown_names(options: espeak.Options, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no language 'rw': give a code that it has, such as 'hi'"):
        espeak.espeak_code("rw")
    with pytest.raises(UserError, match="no language 'hin': did you mean 'hi'"):
        fetch(options, tmp_path / "corpus", "hin")
    assert espeak.espeak_code("zh") == "cmn"
    assert espeak.espeak_code("zh-HK") == "yue"
    with pytest.raises(UserError, match="no voice variant 'f77'"):
        espeak.speak("घर", "hi", "f77")
    with pytest.raises(UserError, match="corpus.snr_db"):
        dataclasses.replace(options, snr_db=[9.0, 1.0])
    with pytest.raises(UserError, match=r"corpus\.dev_minutes must be above 0"):
        dataclasses.replace(options, dev_minutes=0.0)
    for endless in (float("inf"), float("nan")):
        for name in ("hours", "dev_minutes", "test_minutes"):
            with pytest.raises(UserError, match=r"corpus\.hours .* finite"):
                dataclasses.replace(options, **{name: endless})
        with pytest.raises(UserError, match=r"corpus\.snr_db: .* is no range"):
            dataclasses.replace(options, snr_db=[5.0, endless])
    with pytest.raises(UserError, match="corpus.grammar: there is no file"):
        fetch(dataclasses.replace(options, grammar="no.yaml"), tmp_path / "corpus")
    with pytest.raises(UserError, match="nothing to say in 'sw': set corpus.grammar .*--text FILE"):
        fetch(dataclasses.replace(options, grammar=None), tmp_path / "corpus", "sw")


def test_table_of_voices_holds_enough_speakers() -> None:
    path = espeak.REPOSITORY / espeak.Options().voices
    rows = espeak.read_voices(path)
    assert {row.variant for row in rows} == set(espeak.variants())
    used = espeak._voices_in_use(path)
    assert len(used["dev"]) >= 8 and len(used["test"]) >= 8
    for row in rows:
        assert row.reason


def test_table_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "voices.tsv"
    path.write_text("\t".join(espeak.COLUMNS) + "\nf1\t-20\t180\tnan\ttrian\tx\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"voices.tsv:2: split 'trian'"):
        espeak.read_voices(path)
    path.write_bytes(path.read_text("utf-8").encode("utf-16"))
    with pytest.raises(UserError, match=r"voices.tsv: cannot be read as UTF-8"):
        espeak.read_voices(path)
