"""Where x comes from: the halves of a training set, matching, and every source in miniature."""

from __future__ import annotations

import bisect
import contextlib
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_recipe
import torch

from adakd import config as configuration
from adakd import difficulty, finished, inputs, models
from adakd.brain import DistillationBrain
from adakd.data import audio, manifest
from adakd.errors import UserError
from adakd.inputs import changed_settings, difficulties, open_store
from adakd.objectives import Projected
from adakd.place import Place
from adakd.stages import pieces, teacher_pass, training
from adakd.weighting import AdaKD, wrong_transcript

# ------------------------------------------------------------------ two halves


def corpus(kind: str, count: int = 300) -> tuple[list[str], list[str], list[float]]:
    """Speakers, sentences and seconds of a made-up training set."""
    draw = random.Random(kind)
    seconds = [draw.uniform(1.0, 9.0) for _ in range(count)]
    speakers = [f"s{draw.randrange(12)}" for _ in range(count)]
    sentences = [f"text {n}" for n in range(count)]
    if kind == "shared":  # every sentence is said by many
        sentences = [f"text {draw.randrange(40)}" for _ in range(count)]
    elif kind == "some shared":
        sentences = [f"text {n if draw.random() < 0.8 else n % 5}" for n in range(count)]
    elif kind == "groups":  # two clubs that share sentences among themselves alone
        club = {who: int(who[1:]) % 2 for who in speakers}
        sentences = [f"{club[who]} {draw.randrange(20)}" for who in speakers]
    elif kind.endswith("unknown") and kind != "unknown":
        share = {"some unknown": 0.1, "most unknown": 0.9}[kind]
        speakers = ["" if draw.random() < share else who for who in speakers]
        sentences = [f"text {draw.randrange(40)}" for _ in range(count)]
    elif kind == "unknown":
        speakers = [""] * count
        sentences = [f"text {draw.randrange(40)}" for _ in range(count)]
    elif kind == "one speaker":
        speakers = ["s"] * count
        sentences = [f"text {draw.randrange(40)}" for _ in range(count)]
    elif kind == "one sentence":
        sentences = ["yes"] * count
    elif kind == "lopsided":  # one speaker has nine tenths
        speakers = ["s" if draw.random() < 0.9 else who for who in speakers]
    return speakers, sentences, seconds


@pytest.mark.parametrize(
    ("kind", "apart", "between"),
    [
        ("plain", "speaker and sentence", (0.0, 0.0)),
        ("groups", "speaker and sentence", (0.0, 0.0)),
        ("some shared", "speaker and sentence", (0.02, 0.2)),
        ("shared", "speaker and sentence", (0.2, 0.55)),
        ("some unknown", "known speaker and sentence", (0.2, 0.4)),
        ("most unknown", "known speaker and sentence", (0.0, 0.1)),
        ("unknown", "sentence", (0.0, 0.0)),
        ("one speaker", "sentence", (0.0, 0.0)),
        ("one sentence", "speaker", (0.0, 0.0)),
        ("lopsided", "sentence", (0.0, 0.0)),
    ],
)
def test_halves_are_apart_as_far_as_the_data_allow(
    kind: str, apart: str, between: tuple[float, float]
) -> None:
    speakers, sentences, seconds = corpus(kind)
    cut = difficulty.halves(speakers, sentences, seconds)
    assert cut.apart == apart
    trained = [cut.trains(half) for half in (0, 1)]
    for who, names in (("speaker", speakers), ("sentence", sentences)):
        first, second = ({names[i] for i in side} - {""} for side in trained)
        assert (who in apart) == (not first & second) or kind == "unknown" and who == "speaker"
    # Nothing is lost: each is scored by one teacher that has not seen it, or by both.
    everyone = set(range(len(speakers)))
    mixed = everyone - set(trained[0]) - set(trained[1])
    assert between[0] <= len(mixed) / len(everyone) <= between[1]
    for half in (0, 1):
        assert set(cut.scored(half)) == everyone - set(trained[half])
    assert set(cut.scored(0)) & set(cut.scored(1)) == mixed
    shares = [sum(seconds[i] for i in side) / sum(seconds) for side in trained]
    assert min(shares) >= (difficulty.LEAST_CROSSED if mixed else difficulty.LEAST)
    text = cut.describe()
    assert f"{len(trained[0])} and {len(trained[1])} utterances" in text
    assert (f"{len(mixed)} (" in text) == bool(mixed)
    again = difficulty.halves(speakers, sentences, seconds)
    assert again.side.tolist() == cut.side.tolist()


def test_sentences_follow_their_speakers_as_well_as_any_cut_could() -> None:
    """Against all ways to give each sentence a side, on a set small enough to try them."""
    draw = random.Random(2)
    for _ in range(20):
        said = np.array([draw.randrange(6) for _ in range(14)])
        said = np.unique(said, return_inverse=True)[1]
        spoken = np.array([draw.randrange(2) for _ in range(14)])
        length = np.array([draw.uniform(1, 3) for _ in range(14)])
        best = 0.0
        for choice in range(1 << (said.max() + 1)):
            sides = (choice >> said) & 1
            kept = [length[(spoken == half) & (sides == half)].sum() for half in (0, 1)]
            best = max(best, min(kept))
        sides = difficulty._follow(said, spoken, length)
        kept = [length[(spoken == half) & (sides == half)].sum() for half in (0, 1)]
        # Cutting a ranking is within one sentence of the best.
        largest = max(length[said == s].sum() for s in range(said.max() + 1))
        assert min(kept) >= best - largest


def test_what_cannot_be_cut_is_a_sentence() -> None:
    with pytest.raises(UserError, match="3 training utterances cannot be cut.*insample"):
        difficulty.halves(["s"] * 3, ["yes"] * 3, [1.0, 1.0, 1.0])


# ------------------------------------------------------------------ one scale for two teachers


def matched_slowly(value: float, own: list[float], both: list[list[float]]) -> float:
    """What `quantile_matched` makes of one value, by counting and straight lines."""
    own = sorted(own)
    below, up_to = bisect.bisect_left(own, value), bisect.bisect_right(own, value)
    share = (below + up_to) / 2 / len(own)
    found = []
    for values in both:
        ranked = sorted(values)
        place = share * len(ranked) - 0.5  # the k-th of n stands at (k + 1/2) / n
        place = min(max(place, 0.0), len(ranked) - 1.0)
        low = int(place)
        high = min(low + 1, len(ranked) - 1)
        found.append(ranked[low] + (place - low) * (ranked[high] - ranked[low]))
    return sum(found) / 2


def test_two_teachers_losses_are_matched() -> None:
    draw = np.random.default_rng(1)
    one, other = draw.lognormal(-3, 1, 41), draw.lognormal(-1, 0.5, 30)
    one[3] = one[7]
    for ours, values in zip(difficulty.quantile_matched(one, other), (one, other), strict=True):
        truth = [matched_slowly(v, values.tolist(), [one.tolist(), other.tolist()]) for v in values]
        np.testing.assert_allclose(ours, truth, rtol=1e-12)
        assert (np.argsort(ours, kind="stable") == np.argsort(values, kind="stable")).all()
    first, second = difficulty.quantile_matched(one, other)
    assert first[3] == first[7]
    assert np.median(first) == pytest.approx(np.median(second), rel=0.15)
    # Teachers that agree change nothing; one that doubles every loss is halfway corrected.
    same, _ = difficulty.quantile_matched(one, one[::-1])
    np.testing.assert_allclose(same, one)
    twice, _ = difficulty.quantile_matched(one, 2 * one)
    np.testing.assert_allclose(twice, 1.5 * one)


def test_doubts_come_from_each_teachers_own_losses_and_both_count_alike() -> None:
    draw = np.random.default_rng(0)

    def row(x: float, hypothesis: float, heard: str = "one") -> dict[str, Any]:
        return {"x": x, "transcript": x, "hypothesis": hypothesis, "heard": heard}

    one = {f"a{n}": row(0.1 + draw.random(), 0.1) for n in range(20)}
    other = {f"b{n}": row(10 * draw.random() + 1, 1.0, "other") for n in range(20)}
    one["b19"] = row(9.0, 0.1)  # scored by both
    found = difficulty.combine([one, other])
    assert found.keys() == one.keys() | other.keys()
    doubts = []
    for rows in (one, other):
        columns = [[r[name] for r in rows.values()] for name in ("transcript", "hypothesis")]
        doubts.append(dict(zip(rows, wrong_transcript(*columns).tolist(), strict=True)))
    assert found["a3"]["doubt"] == pytest.approx(doubts[0]["a3"])
    assert found["b4"]["doubt"] == pytest.approx(doubts[1]["b4"])
    assert found["b19"]["doubt"] == pytest.approx((doubts[0]["b19"] + doubts[1]["b19"]) / 2)
    assert found["b19"]["transcript"] == (9.0 + other["b19"]["x"]) / 2
    assert [found[each]["heard"] for each in ("a3", "b4", "b19")] == ["one", "other", "one"]
    assert difficulty.combine([{"a": {"x": 2.0}}]) == {"a": {"x": 2.0}}


def test_doubtful_transcripts_are_listed_the_least_likely_first(tmp_path: Path) -> None:
    entries = tiny_recipe.entries(tmp_path, 4)
    doubts = dict(zip([entry.id for entry in entries], (0.6, 0.5, 0.987654, 0.0), strict=True))
    found = {utterance: {"doubt": doubt, "heard": "d\tab\n"} for utterance, doubt in doubts.items()}
    assert difficulty.list_doubtful(tmp_path / "doubtful.tsv", entries, found) == 2
    head, *lines = (tmp_path / "doubtful.tsv").read_text(encoding="utf-8").splitlines()
    assert head.split("\t") == ["id", "doubt", "transcript", "heard", "audio"]
    assert [line.split("\t") for line in lines] == [
        ["u2", "0.988", entries[2].text, "d ab", "audio/u2.flac"],
        ["u0", "0.600", entries[0].text, "d ab", "audio/u0.flac"],
    ]


# ------------------------------------------------------------------ every source, in miniature


GUARD = {"adakd": {"k": 2.0, "guard": 0.9}}


def with_source(place: Place, source: str, **changes: Any) -> Place:
    return tiny_recipe.prepared(
        place.root, place.config.family, distill={"difficulty": source}, **changes
    )


@pytest.fixture(scope="module", params=configuration.FAMILIES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with a teacher and its store."""
    made = tiny_recipe.prepared(tmp_path_factory.mktemp(request.param), request.param)
    training.train(made, "teacher")
    teacher_pass.teacher_pass(made)
    return made


def alone(model: Path, place: Place, entry: manifest.Entry) -> tuple[float, int, str]:
    """A teacher's loss in nats on one utterance by itself, its units, and what it hears."""
    family = models.open_folder(place.config, model).eval()
    batch = family.collate([entry], [audio.read(place.root / entry.audio)])
    with torch.inference_mode():
        loss, (text,) = family.task_loss(family(batch), batch), family.transcribe(batch)
    units = int(batch.label_lengths.item())
    return loss.item() * max(units, 1), units, text


def written(place: Place) -> dict[str, dict[str, float]]:
    lines = (place.difficulty / "x.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == [entry.id for entry in place.manifest("train")]
    return {row["id"]: row for row in rows}


def moments(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_nobody_pays_for_what_is_not_asked_for(place: Place) -> None:
    assert not place.half(0).exists() and not place.difficulty.parent.exists()
    assert difficulties(place) == (open_store(place).difficulties(), {})


def test_crossfit_scores_each_half_with_the_teacher_of_the_other(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = defaultdict(set)  # what each teacher has learnt from
    fit_batch = DistillationBrain.fit_batch

    def noting(self: DistillationBrain, step: list[models.Batch]) -> torch.Tensor:
        heard[self.folder].update(utterance for batch in step for utterance in batch.ids)
        return fit_batch(self, step)

    monkeypatch.setattr(DistillationBrain, "fit_batch", noting)
    here = with_source(place, "crossfit", methods=GUARD)
    stored = moments(place.store)
    teacher_pass.teacher_pass(here)
    monkeypatch.undo()
    assert moments(place.store) == stored, "the soft outputs are the full teacher's, made once"
    assert "no speaker and no sentence in both" in capsys.readouterr().out
    entries = list(here.manifest("train"))
    side: dict[str, int] = {}
    trained = defaultdict(set)
    for number in (0, 1):
        facts = finished.done(here.half(number))
        assert facts is not None and facts["steps"] > 0
    cut = difficulty.halves(
        [e.speaker for e in entries], [e.text for e in entries], [e.seconds for e in entries]
    )
    for number in (0, 1):
        for index in cut.trains(number):
            side[entries[index].id] = number
            trained[number].add(entries[index].speaker)
    assert not trained[0] & trained[1] and len(side) == len(entries)
    for number in (0, 1):
        assert heard[here.half(number)] == {i for i in side if side[i] == number}

    # Utterance by utterance, with the models as they lie there.
    plain: dict[str, tuple[float, float]] = {}
    for entry in entries:
        model = here.half(1 - side[entry.id]) / "model"
        total, units, text = alone(model, here, entry)
        said = manifest.Entry(**{**vars(entry), "text": text})
        plain[entry.id] = total / units, alone(model, here, said)[0] / units
    by_id = {entry.id: entry for entry in entries}
    groups = [[plain[i][0] for i in side if side[i] == number] for number in (0, 1)]
    rows = written(here)
    for utterance, (loss, own) in plain.items():
        row = rows[utterance]
        assert row["transcript"] == pytest.approx(loss, rel=1e-4)
        assert row["hypothesis"] == pytest.approx(own, rel=1e-4, abs=1e-5)
        truth = matched_slowly(loss, groups[side[utterance]], groups)
        assert row["x"] == pytest.approx(truth, rel=1e-3)
        assert 0 <= row["doubt"] <= 1
        assert alone(here.half(1 - side[utterance]) / "model", here, by_id[utterance])[
            2
        ].startswith(row["heard"])

    # It is all there: nothing is done twice. What was cut goes on where it was.
    before = moments(here.experiment("teacher"))
    teacher_pass.teacher_pass(here)
    teacher_pass.teacher_pass(with_source(place, "crossfit"))  # without the guard, as good
    assert moments(here.experiment("teacher")) == before
    # Students are trained on these x, not on the store's.
    here_too = with_source(place, "crossfit")
    stored, found = open_store(here_too).difficulties(), difficulties(here_too)[0]
    assert found == {utterance: row["x"] for utterance, row in rows.items()} != stored
    training.train(here_too, "adakd")
    facts = finished.done(here_too.experiment("adakd"))
    assert facts is not None
    assert facts["alpha"]["t"] == pytest.approx(np.mean(list(found.values())), rel=1e-5)
    assert facts["alpha"]["t"] != pytest.approx(np.mean(list(stored.values())), rel=1e-3)
    (here.difficulty / "done.json").unlink()
    teacher_pass.teacher_pass(here)
    for number in (0, 1):
        kept = {path: time for path, time in before.items() if here.half(number) in path.parents}
        assert moments(here.half(number)) == kept
    assert written(here) == rows


def test_adakd_trains_on_another_difficulty_with_a_guard(place: Place) -> None:
    here = with_source(place, "insample", methods=GUARD)
    with pytest.raises(UserError, match="run --stage 4 first"):
        training.train(here, "adakd")
    teacher_pass.teacher_pass(here)
    rows, stored = written(here), open_store(here).difficulties()
    assert {i: row["x"] for i, row in rows.items()} == pytest.approx(stored, rel=1e-4)
    training.train(here, "adakd")
    facts = finished.done(here.experiment("adakd"))
    assert facts is not None
    assert facts["alpha"]["guard"] == 0.9
    doubts = [row["doubt"] for row in rows.values()]
    assert facts["alpha"]["doubt_mean"] == pytest.approx(np.mean(doubts), abs=1e-6)
    assert facts["inputs"]["method"] == GUARD["adakd"] and "difficulty" not in facts["inputs"]


@pytest.mark.parametrize("source", ["insample", "crossfit"])
def test_kd_trains_with_a_guard(place: Place, source: str) -> None:
    here = with_source(place, source, methods={"kd": {"alpha": 0.1, "guard": 0.9}})
    teacher_pass.teacher_pass(here)
    training.train(here, "kd")
    facts = finished.done(here.experiment("kd"))
    assert facts is not None
    doubts = [row["doubt"] for row in written(here).values()]
    assert facts["alpha"]["doubt_mean"] == pytest.approx(np.mean(doubts), abs=1e-6)
    assert facts["inputs"].get("difficulty", "insample") == source
    assert "doubt" in facts["inputs"]


def test_every_utterance_gets_its_own_x(place: Place) -> None:
    """Whatever the order of a batch: what training adds to it, against the files of stage 4."""
    for here in (place, with_source(place, "crossfit", methods=GUARD)):
        teacher_pass.teacher_pass(here)
        weighting = AdaKD(k=1.0, guard=None if here is place else 0.9)
        student = models.open_folder(here.config, here.experiment("teacher") / "model")
        _, add = training.supervision(here, weighting, student)
        assert add is not None
        entries = list(here.manifest("train"))[9:4:-1]
        batch = student.collate(entries, [audio.read(here.root / e.audio) for e in entries])
        add(batch)
        found = [batch.difficulty] if here is place else [batch.difficulty, batch.doubt]
        if here is place:
            truth = []
            for entry in entries:
                lost, units, _ = alone(here.experiment("teacher") / "model", here, entry)
                truth.append(lost / units)
        else:
            rows = written(here)
            truth = [[rows[entry.id]["x"], rows[entry.id]["doubt"]] for entry in entries]
        assert len({str(each) for each in truth}) == len(truth)
        np.testing.assert_allclose(np.stack(found, axis=-1).squeeze(), truth, rtol=1e-3)


def test_another_source_makes_adakd_anew_and_nothing_else(place: Place) -> None:
    def inputs(method: str, source: str) -> list[str]:
        here = with_source(place, source)
        folder = here.experiment(method)
        finished.mark_done(folder, {})
        asked: list[Any] = []

        def remember(folder: Path, inputs: dict, what: str, *outputs: Path) -> bool:
            asked.append(inputs)
            return True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "is_current", remember)
            training.train(here, method)
        (folder / "done.json").unlink()
        return asked[0]

    assert inputs("kd", "crossfit") == inputs("kd", "insample")
    assert finished.changes(inputs("adakd", "insample"), inputs("adakd", "crossfit")) == [
        "difficulty"
    ]


def test_halves_are_trained_as_the_teacher_was_or_not_at_all(place: Place) -> None:
    """--train.epochs sets the teacher's, too: their losses would not be this teacher's."""
    here = with_source(place, "crossfit", train={"learning_rate": 0.5})
    with pytest.raises(
        UserError, match=r"was made with another .*train\.learning_rate.*: give the"
    ):
        teacher_pass.write_difficulty(here)


def test_pretrained_is_the_loss_before_fine_tuning(place: Place) -> None:
    source = place.root / "source"
    torch.manual_seed(5)
    models.load(place.config, "teacher", place.units).save(source)
    units = {"kind": "characters" if place.config.family == "wav2vec2" else "source"}
    here = with_source(
        place, "pretrained", teacher={"source": str(source), "train": {"epochs": 1}}, units=units
    )
    # The store is of the other teacher, and stage 2 has not run with this one: only x is of use.
    teacher_pass.write_difficulty(here)
    rows = written(here)
    for entry in here.manifest("train"):
        total, count, _ = alone(source, here, entry)
        assert rows[entry.id] == {"id": entry.id, "x": pytest.approx(total / count, rel=1e-4)}


@dataclass
class Scoring:
    """Takes the place of `difficulty.score`: notes what is scored, and is cut in piece `cut`."""

    cut: int = 0
    scored: list[str] = field(default_factory=list)
    calls: int = 0
    really: Callable[..., Any] = difficulty.score

    def __call__(self, family: Any, entries: manifest.Manifest, *rest: Any) -> Any:
        self.calls += 1
        if self.calls == self.cut:
            raise KeyboardInterrupt
        self.scored += [entry.id for entry in entries]
        return self.really(family, entries, *rest)

    def run(self, place: Place, cut: int = 0) -> list[str]:
        """Stage 4's x; returns what was scored for it."""
        self.cut, self.calls, self.scored = cut, 0, []
        with pytest.raises(KeyboardInterrupt) if cut else contextlib.nullcontext():
            teacher_pass.write_difficulty(place)
        assert bool(finished.done(place.difficulty)) is not bool(cut)
        return self.scored


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> Scoring:
    """A pass in pieces of two utterances."""
    monkeypatch.setattr(pieces, "PIECE", 2)
    found = Scoring()
    monkeypatch.setattr(difficulty, "score", found)
    return found


@pytest.fixture
def own_place(place: Place, tmp_path: Path) -> Place:
    """A copy of the place, whose results may be removed."""
    shutil.copytree(place.root, tmp_path / "root")
    return Place(tmp_path / "root", place.config)


@pytest.mark.parametrize("source", ["insample", "crossfit", "dropout"])
def test_a_pass_that_was_cut_ends_as_an_uncut_one(
    own_place: Place,
    source: str,
    scoring: Scoring,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    combine, combined = difficulty.combine, []

    def noting(scored: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        combined.append([utterance for rows in scored for utterance in rows])
        return combine(scored)

    monkeypatch.setattr(difficulty, "combine", noting)
    here = with_source(own_place, source, methods=GUARD)
    shutil.rmtree(here.difficulty, ignore_errors=True)
    all_of_it = scoring.run(here)
    files = [here.difficulty / name for name in ("x.jsonl", "doubtful.tsv")]
    whole = [path.read_bytes() for path in files]
    assert not list(here.difficulty.glob("part.*"))
    shutil.rmtree(here.difficulty)
    there = scoring.run(here, cut=6)
    assert 8 <= len(there) <= 10 and there == all_of_it[: len(there)]
    capsys.readouterr()
    assert scoring.run(here) == all_of_it[len(there) :]
    told = re.findall(r"goes on, (\d+) of (\d+) utterances are there", capsys.readouterr().out)
    assert sum(int(count) for count, _ in told) == len(there)
    # To the last digit.
    assert [path.read_bytes() for path in files] == whole
    assert combined == [all_of_it] * 2, "sums are rounded in one way"
    assert scoring.run(here) == []


def test_pieces_of_another_guard_or_another_model_are_not_gone_on_with(
    own_place: Place, scoring: Scoring, capsys: pytest.CaptureFixture[str]
) -> None:
    here = with_source(own_place, "crossfit", methods=GUARD)
    shutil.rmtree(here.difficulty, ignore_errors=True)
    first = scoring.run(here, cut=3)
    assert scoring.run(with_source(own_place, "crossfit"), cut=3) == first
    assert "cut, and guard changed, begun anew" in capsys.readouterr().out
    assert scoring.run(here, cut=3) == first
    facts = finished.done(own_place.half(1))
    assert facts is not None
    capsys.readouterr()
    finished.mark_done(own_place.half(1), **{**facts, "weights": "other"})
    assert scoring.run(here)[: len(first)] == first
    assert "cut, and halves changed, begun anew" in capsys.readouterr().out


def test_pieces_of_another_pretrained_model_are_not_gone_on_with(
    own_place: Place, scoring: Scoring, capsys: pytest.CaptureFixture[str]
) -> None:
    source = own_place.root / "source of pieces"
    units = {"kind": "characters" if own_place.config.family == "wav2vec2" else "source"}

    def made(seed: int) -> None:
        torch.manual_seed(seed)
        models.load(own_place.config, "teacher", own_place.units).save(source)

    def here(seed: int = 1) -> Place:
        teacher = {"source": str(source), "seed": 1, "train": {"epochs": 1}}
        return with_source(own_place, "pretrained", teacher=teacher, units=units, seed=seed)

    made(5)
    shutil.rmtree(here().difficulty, ignore_errors=True)
    scoring.run(here())
    whole = written(here())
    shutil.rmtree(here().difficulty)
    first = scoring.run(here(), cut=3)
    rest = scoring.run(here(), cut=3)
    assert not set(first) & set(rest)
    scoring.run(here())
    assert written(here()) == whole
    shutil.rmtree(here().difficulty)
    scoring.run(here(), cut=3)
    made(6)
    assert scoring.run(here(), cut=3) == first
    assert "cut, and source changed, begun anew" in capsys.readouterr().out
    rest = [utterance for utterance in whole if utterance not in first]
    assert scoring.run(here(seed=2)) == rest  # that of a student


def test_dropout_spread_is_of_the_utterance_alone(place: Place) -> None:
    family = models.open_folder(place.config, place.experiment("teacher") / "model")
    entries = list(place.manifest("train"))[:5]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = difficulty.dropout_spread(family, entries, place.root, 4, "spread")
    assert torch.equal(torch.get_rng_state(), state), "training's own numbers are not touched"
    assert all(value > 1e-4 for value in found.values())
    torch.manual_seed(2)
    fresh = models.open_folder(place.config, place.experiment("teacher") / "model")
    others = difficulty.dropout_spread(fresh, entries[:0:-2], place.root, 4, "spread")
    assert others == {utterance: found[utterance] for utterance in others} and len(others) == 2

    # The definition, pass by pass; the mean over utterances, as each is a draw.
    more = difficulty.dropout_spread(fresh, entries, place.root, 48, "spread")
    assert more[entries[0].id] != found[entries[0].id]
    slow = []
    for entry in entries:
        batch = fresh.collate([entry], [audio.read(place.root / entry.audio)])
        with torch.no_grad():
            losses = [fresh.task_loss(fresh(batch), batch).item() for _ in range(48)]
        slow.append(np.std(losses, ddof=1))
    assert np.mean(list(more.values())) == pytest.approx(np.mean(slow), rel=0.25)


def test_dropout_as_a_source(place: Place) -> None:
    here = with_source(place, "dropout")
    teacher_pass.teacher_pass(here)
    rows = written(here)
    assert all(row.keys() == {"id", "x"} and row["x"] > 0 for row in rows.values())
    fewer = tiny_recipe.prepared(
        place.root, place.config.family, distill={"difficulty": "dropout", "dropout_passes": 3}
    )
    with pytest.raises(UserError, match="another dropout_passes: run stage 4"):
        difficulties(fewer)
    with pytest.raises(UserError, match="another guard: run stage 4"):
        difficulties(here, doubt=True)


def test_doubts_of_another_rule_are_found_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = with_source(place, "insample", methods=GUARD)
    teacher_pass.teacher_pass(here)
    training.train(here, "adakd")
    before = moments(here.difficulty)
    teacher_pass.teacher_pass(here)
    assert moments(here.difficulty) == before
    for module in (inputs, teacher_pass):
        monkeypatch.setattr(module, "DOUBT", "a half at z = 3")
    with pytest.raises(UserError, match="another guard: run stage 4"):
        difficulties(here, doubt=True)
    assert "doubt" in changed_settings(here, "adakd", finished.done(here.experiment("adakd")))
    with pytest.raises(UserError, match="another guard: run stage 4"):
        training.train(here, "adakd")
    assert finished.done(here.experiment("adakd"))  # told before what is finished is emptied
    teacher_pass.teacher_pass(here)
    assert moments(here.difficulty) != before
    difficulties(here, doubt=True)


@pytest.mark.parametrize("left", [0, 3])
def test_losses_that_were_cut_are_found_anew(
    place: Place, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    here = with_source(place, "insample", methods=GUARD)
    teacher_pass.teacher_pass(here)
    path = here.difficulty / "x.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:left]))
    student = models.open_folder(here.config, here.experiment("teacher") / "model")
    with pytest.raises(UserError, match="the teacher's losses lack utterance '.*': run stage 4"):
        training.supervision(here, AdaKD(k=1.0, guard=0.9), student)
    capsys.readouterr()
    teacher_pass.teacher_pass(here)
    assert "x.jsonl has other than" in capsys.readouterr().out
    assert path.read_text() == whole


def test_hypotheses_that_are_empty_or_never_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that has learnt nothing says either; both have a loss all the same.

    Beside one that never ends, others are mostly padding, of which no logit is to be computed.
    """
    monkeypatch.delattr(Projected, "logits")
    family = models.open_folder(place.config, place.experiment("teacher") / "model")
    limit = models.limit(place.config, "teacher", place.units)
    entries = list(place.manifest("train"))[:3]
    for text in ("", "abcd" * 60):
        family.transcribe = lambda batch, text=text: [text] * len(batch.ids)
        rows = difficulty.score(family, entries, place.root, 9.0, "score", 0, limit)
        assert all(0 <= row["hypothesis"] < float("inf") for row in rows.values())


@pytest.mark.parametrize(
    ("source", "teacher", "sentence"),
    [
        ("crossfit", {"source": "org/model", "finetuned": True}, "finetuned takes it as it is"),
        ("pretrained", {"source": "org/model", "finetuned": True}, "finetuned takes it as it is"),
        ("pretrained", {"config": {}}, "random weights"),
    ],
)
def test_a_source_that_cannot_be_is_told_before_any_work(
    tmp_path: Path, source: str, teacher: dict, sentence: str
) -> None:
    here = tiny_recipe.prepared(
        tmp_path, "wav2vec2", teacher=teacher, distill={"difficulty": source}
    )
    with pytest.raises(UserError, match=f"{source} needs the teacher before .*{sentence}"):
        teacher_pass.teacher_pass(here)
    assert not here.store.exists()


def test_new_units_have_no_loss_before_fine_tuning(tmp_path: Path) -> None:
    source = tmp_path / "source"
    other = tiny_recipe.train_units("wav2vec2", tmp_path / "other", ["abc", "ab"])
    config = tiny_recipe.config("wav2vec2")
    models.load(config, "teacher", other).save(source)
    here = tiny_recipe.prepared(
        tmp_path, "wav2vec2", teacher={"source": str(source)}, distill={"difficulty": "pretrained"}
    )
    with pytest.raises(UserError, match="no output yet for 1 of .* such as 'd'.*crossfit"):
        teacher_pass.teacher_pass(here)
    assert models.untrained_units(here.config, other) == []
    # Pretrained without an output layer: all units are new.
    settings = json.loads((source / "config.json").read_text())
    settings["architectures"] = ["Wav2Vec2ForPreTraining"]
    (source / "config.json").write_text(json.dumps(settings))
    assert "a" in models.untrained_units(here.config, other)


def test_a_teacher_without_dropout_has_no_spread(tmp_path: Path) -> None:
    for name, block in tiny_recipe.BLOCKS.items():
        still = {**block(8), **tiny_recipe.STILL[name]}
        here = tiny_recipe.prepared(tmp_path, name, teacher={"config": still})
        family = models.load(here.config, "teacher", here.units)
        with pytest.raises(UserError, match="has no dropout"):
            difficulty.dropout_spread(family, here.manifest("train"), tmp_path, 2, "spread")
