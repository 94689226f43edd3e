"""Where a training utterance's difficulty x comes from, beside the teacher's plain loss on it.

A teacher that was fine-tuned on the training set has nearly no loss on it, which says little of how
hard an utterance is. `distill.difficulty` names what x is:

    insample     the teacher's loss: what the teacher store holds, as in the paper
    crossfit     the loss of another teacher, fine-tuned on the half that the utterance is not in
    pretrained   the loss of the teacher before it was fine-tuned
    dropout      the standard deviation of the teacher's loss over passes with dropout

Here is how the halves are cut, how their losses are made comparable, and the passes over the audio.
Which models make them is in stages/teacher_pass.py, where the results lie in inputs.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from adakd.data.manifest import Entry, Limit
from adakd.errors import UserError
from adakd.files import atomic_write
from adakd.progress import track

if TYPE_CHECKING:
    from adakd.models import Family

# The least share of the audio that the smaller half may hold where no utterance is left out, and
# where some are: apart by speaker and sentence at once, a quarter is the most there can be.
LEAST, LEAST_CROSSED = 1 / 3, 1 / 6
# Rates of dropout that transformers' layers apply without a module of their own.
RATES = ("dropout", "attention_dropout", "activation_dropout")


# ------------------------------------------------------------------ two halves


@dataclass(frozen=True)
class Halves:
    """Which teacher trains on an utterance, and which ones score it."""

    side: np.ndarray  # (n,) 0 or 1; -1: trains neither
    apart: str  # what the halves do not share: "speaker and sentence", "speaker" or "sentence"

    def trains(self, half: int) -> list[int]:
        """The utterances that the teacher of a half is fine-tuned on."""
        return (self.side == half).nonzero()[0].tolist()

    def scored(self, half: int) -> list[int]:
        """Those that it gives an x: all others."""
        return (self.side != half).nonzero()[0].tolist()

    def describe(self) -> str:
        """One sentence: what is apart, and how many utterances are between the halves."""
        counts = [int((self.side == side).sum()) for side in (0, 1, -1)]
        apart = self.apart.replace(" and ", " and no ")
        text = f"halves of {counts[0]} and {counts[1]} utterances, no {apart} in both"
        if counts[2]:
            text += (
                f"; {counts[2]} ({counts[2] / len(self.side):.0%}) whose speaker is on one side "
                "and whose sentence is on the other train neither teacher and are scored by both"
            )
        return text


def halves(
    speakers: Sequence[str], sentences: Sequence[str], seconds: Sequence[float] | np.ndarray
) -> Halves:
    """Cut a training set in two of about the same length, by speaker and by sentence.

    The first of these rules that leaves enough audio on either side:

    1. Utterances that share a speaker or a sentence, directly or through others, stay together.
       Nobody and nothing is on both sides.
    2. Speakers are cut in two. A sentence goes to the side that says more of it, such that the
       sides are level. Utterances whose speaker is on one side and whose sentence is on the other
       train neither teacher and are scored by both: neither has seen the utterance itself. Still
       nobody and nothing is on both sides. Who is unknown follows the sentence.
    3. Only speakers are apart: everybody says the same few sentences.
    4. Only sentences are apart: there are too few speakers.

    A half has enough with a third of the audio, under rule 2, which may leave out half of it, with
    a sixth. The draw is none: the largest group always goes to the lighter side.

    Args:
        speakers, sentences, seconds: of each utterance, (n,). An empty speaker is unknown, and
            what is said to be apart are known speakers then.
    Raises:
        UserError: no rule cuts the set in two.
    """
    length = np.asarray(seconds, dtype=np.float64)
    count, total = len(length), float(length.sum())
    said = _numbered(sentences)
    spoken = _numbered([who or (number,) for number, who in enumerate(speakers)])
    people = int(spoken.max()) + 1
    nodes = people + int(said.max()) + 1
    pairs = coo_matrix((np.ones(count), (spoken, people + said)), shape=(nodes, nodes))
    together = connected_components(pairs, directed=False)[1][spoken]

    def smaller(side: np.ndarray) -> float:
        return min(float(length[side == half].sum()) for half in (0, 1)) / total

    side = _balanced(together, length)
    known = len({*speakers} - {""}) > 1
    who = "speaker" if all(speakers) else "known speaker"
    if smaller(side) >= LEAST:
        return Halves(side, f"{who} and sentence" if known else "sentence")
    by_speaker = _balanced(spoken, length)
    if known and smaller(by_speaker) >= LEAST:
        by_sentence = _follow(said, by_speaker, length)
        side = np.where(by_speaker == by_sentence, by_speaker, -1)
        unknown = np.array([not each for each in speakers])  # and nobody to keep apart
        side = np.where(unknown, by_sentence, side)
        if smaller(side) >= LEAST_CROSSED:
            return Halves(side, f"{who} and sentence")
        return Halves(by_speaker, who)
    side = _balanced(said, length)
    if smaller(side) >= LEAST:
        return Halves(side, "sentence")
    raise UserError(
        f"The {count} training utterances cannot be cut into two halves, by speaker or by "
        "sentence: set distill.difficulty to insample, pretrained or dropout."
    )


def _numbered(names: Sequence[object]) -> np.ndarray:
    """Each name's number in order of first appearance, (n,)."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _balanced(groups: np.ndarray, length: np.ndarray) -> np.ndarray:
    """0 or 1 for each utterance, (n,): whole groups, the longest first, to the shorter side."""
    sizes = np.bincount(groups, weights=length)
    side = np.zeros(len(sizes), dtype=np.int8)
    filled = [0.0, 0.0]
    for group in np.argsort(-sizes, kind="stable").tolist():
        side[group] = filled[1] < filled[0]
        filled[side[group]] += sizes[group]
    return side[groups]


def _follow(said: np.ndarray, by_speaker: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The side of each utterance's sentence, (n,), given the sides of the speakers.

    Sentences are ranked by the share of them that side 0 says, and cut where the shorter side
    keeps most; among equals, where both together do.
    """
    here, there = (np.bincount(said, weights=length * (by_speaker == half)) for half in (0, 1))
    order = np.argsort(-here / np.maximum(here + there, 1e-9), kind="stable")
    kept_here = np.concatenate([[0.0], np.cumsum(here[order])])
    kept_there = there.sum() - np.concatenate([[0.0], np.cumsum(there[order])])
    least = np.minimum(kept_here, kept_there)
    level = least >= least.max() - 1e-6
    cut = int(np.where(level, kept_here + kept_there, -1.0).argmax())
    side = np.ones(len(order), dtype=np.int8)
    side[order[:cut]] = 0
    return side[said]


def quantile_matched(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two teachers' losses on two halves of a set, on one scale between theirs.

    The halves are alike; the teachers need not be. A loss becomes the mean of what both teachers
    have at its rank: what is the median for one is then the median for the other. Order is kept
    within a half, and equals stay equal.

    Args:
        one, other: (n,), (m,), losses of the one and of the other teacher.
    Returns:
        The matched losses, (n,) and (m,).
    """
    rising = [np.sort(each) for each in (one, other)]
    matched = []
    for values in (one, other):
        share = (rankdata(values) - 0.5) / len(values)
        # np.quantile(each, share, method="hazen"), whose time for n shares of n grows with n^2
        found = [np.interp(share * len(each) - 0.5, np.arange(len(each)), each) for each in rising]
        matched.append((found[0] + found[1]) / 2)
    return matched[0], matched[1]


def combine(scored: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One x for each utterance from what one teacher found, or two; see `score`.

    Two teachers' x are quantile-matched. ``doubt`` in a transcript (`weighting.wrong_transcript`)
    comes from each teacher's own losses. What both have scored gets the mean, and the text that
    the first of them heard.

    Args:
        scored: of each teacher: what `score` returned, for all that this teacher scored.
    """
    from adakd.weighting import wrong_transcript

    columns = [
        {
            name: np.array([row[name] for row in rows.values()])
            for name in next(iter(rows.values()))
            if name != "heard"
        }
        for rows in scored
    ]
    if len(columns) == 2:
        matched = quantile_matched(columns[0]["x"], columns[1]["x"])
        for column, x in zip(columns, matched, strict=True):
            column["x"] = x
    found: dict[str, list[dict[str, float]]] = {}
    for rows, column in zip(scored, columns, strict=True):
        if "hypothesis" in column:
            doubt = wrong_transcript(column["transcript"].tolist(), column["hypothesis"].tolist())
            column["doubt"] = doubt.numpy()
        for number, utterance in enumerate(rows):
            values = {name: float(each[number]) for name, each in column.items()}
            found.setdefault(utterance, []).append(values)
    means: dict[str, dict[str, Any]] = {
        utterance: {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        for utterance, rows in found.items()
    }
    for rows in reversed(scored):
        for utterance, row in rows.items():
            if "heard" in row:
                means[utterance]["heard"] = row["heard"]
    return means


def list_doubtful(path: Path, entries: Iterable[Entry], found: Mapping[str, Any]) -> int:
    """Write the transcripts that are more likely wrong than right, the least likely first.

    A table with tabs, `found` being what `combine` returned: id, doubt, the transcript, what the
    teacher hears, and the audio. Returns how many there are.
    """
    doubtful = [entry for entry in entries if found[entry.id]["doubt"] > 0.5]
    doubtful.sort(key=lambda entry: -found[entry.id]["doubt"])
    with atomic_write(path) as file:
        file.write("id\tdoubt\ttranscript\theard\taudio\n")
        for entry in doubtful:
            row = found[entry.id]
            cells = (entry.id, f"{row['doubt']:.3f}", entry.text, row["heard"], entry.audio)
            file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")
    return len(doubtful)


# ------------------------------------------------------------------ passes over the audio


def score(
    family: Family,
    entries: Sequence[Entry],
    root: Path,
    batch_seconds: float,
    what: str,
    dropout_passes: int = 0,
    limit: Limit | None = None,
    workers: int = 0,
) -> dict[str, dict[str, Any]]:
    """What a teacher thinks of each utterance, by id, in nats per target unit of its transcript.

    batch_seconds: with padding. what: the progress bar's title. workers: processes that read.

    ``x`` is the loss on the transcript or, with ``dropout_passes``, its spread. With a ``limit``,
    as a guard needs it, also ``transcript``, that loss, ``heard``, the teacher's own greedy
    hypothesis, and ``hypothesis``, the loss on it; one that never comes to an end is cut until the
    limit lets it pass.
    """
    found: dict[str, dict[str, Any]] = {entry.id: {} for entry in entries}
    if dropout_passes:
        spread = dropout_spread(family, entries, root, dropout_passes, what)
        for utterance, value in spread.items():
            found[utterance]["x"] = value
    if dropout_passes and limit is None:
        return found
    totals, units, texts = _pass(
        family, entries, root, batch_seconds, what, limit is not None, workers
    )
    for utterance, row in found.items():
        loss = totals[utterance] / units[utterance]
        row.setdefault("x", loss)
        if limit is not None:
            row["transcript"] = loss
    if limit is None:
        return found
    heard = []
    for entry in entries:
        said = replace(entry, text=texts[entry.id])
        while said.text and limit(said):
            said = replace(said, text=said.text[: len(said.text) * 9 // 10])
        heard.append(said)
        found[entry.id]["heard"] = said.text
    what = f"{what}, own hypotheses"
    own, _, _ = _pass(family, heard, root, batch_seconds, what, False, workers)
    for utterance, row in found.items():
        # By the same units, so that the difference is a log-likelihood ratio.
        row["hypothesis"] = own[utterance] / units[utterance]
    return found


def _pass(
    family: Family,
    entries: Sequence[Entry],
    root: Path,
    batch_seconds: float,
    what: str,
    decode: bool,
    workers: int,
) -> tuple[dict[str, float], dict[str, int], dict[str, str]]:
    """Task loss in nats, its target units, and the greedy hypothesis of each utterance."""
    import torch

    from adakd.config import Distill
    from adakd.data.loader import Steps, evaluation_loader
    from adakd.device import device, without_tf32

    where = device()
    family.to(where).eval()
    loader = evaluation_loader(Steps(entries, root, family), batch_seconds, workers)
    totals: dict[str, float] = {}
    units: dict[str, int] = {}
    texts: dict[str, str] = {}
    for (batch,) in track(loader, len(loader), what):
        batch = batch.to(where)
        counts = batch.label_lengths.clamp(min=1)  # as a loss without labels is divided by one
        with torch.inference_mode():
            # Not `task_loss`: Whisper's computes the logits of all padding, gigabytes where one
            # hypothesis of many never comes to an end.
            total = family.losses(family(batch), batch, None, Distill())[0] * counts
            if decode:
                with without_tf32():  # as stage 7
                    texts.update(zip(batch.ids, family.transcribe(batch), strict=True))
        totals.update(zip(batch.ids, total.tolist(), strict=True))
        units.update(zip(batch.ids, counts.tolist(), strict=True))
    return totals, units, texts


def check_dropout(family: Family) -> None:
    """Raise `UserError` where a teacher has no dropout, be it without weights."""
    import torch

    rates = 0.0
    for module in family.modules():
        names = ("p",) if isinstance(module, torch.nn.Dropout) else RATES
        rates += sum(float(vars(module).get(name, 0.0)) for name in names)
    if rates == 0:
        raise UserError(
            "The teacher has no dropout (all rates in its config.json are 0), so its loss has no "
            "spread: set distill.difficulty to insample, crossfit or pretrained."
        )


def dropout_spread(
    family: Family, entries: Sequence[Entry], root: Path, passes: int, what: str
) -> dict[str, float]:
    """The standard deviation of a teacher's loss over passes with dropout, by utterance id.

    A rough measure of how unsure the model is (Gal and Ghahramani 2016, arXiv 1506.02142). The
    passes over an utterance are one batch of their own, drawn from a seed that is made of its id:
    the result depends neither on other utterances nor on their order. Masks and dropped layers of
    training stay off.

    Raises:
        UserError: the model has no dropout.
    """
    import torch

    from adakd.config import Train
    from adakd.data import audio
    from adakd.device import device

    family.prepare_training(Train(mask_time=0.0, mask_feature=0.0))
    where = device()
    family.to(where).train()
    module: Any
    for module in family.modules():
        if isinstance(getattr(module, "layerdrop", None), float):
            module.layerdrop = 0.0
    check_dropout(family)
    # Of all GPUs that torch sees, this process draws on its own.
    own = [where] if where.type == "cuda" else []
    spread = {}
    for entry in track(entries, len(entries), what):
        clip = audio.read(root / entry.audio)
        batch = family.collate([entry] * passes, [clip] * passes).to(where)
        seed = int.from_bytes(hashlib.sha256(entry.id.encode()).digest()[:4], "big")
        with torch.random.fork_rng(own), torch.inference_mode():
            torch.manual_seed(seed)
            found = family.task_loss(family(batch), batch)
        spread[entry.id] = found.double().std().item()
    return spread
