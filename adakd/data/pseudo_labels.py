"""The teacher's own transcripts as training text: sequence-level knowledge distillation.

Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947: the student learns the
sequence that the teacher finds best. Theirs comes from beam search, ours from greedy decoding. As
in Distil-Whisper (arXiv 2311.00430) a hypothesis far from the transcript is left out, since there
one of the two is wrong; its limit is a word error rate of 10 %, ours a character error rate. Audio
without a transcript gets one in this way, which nothing can check.

Not decoding: the hypotheses come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from adakd.data import manifest, text
from adakd.data.manifest import Entry, Limit, Manifest, refusal
from adakd.data.prepare import row, target
from adakd.errors import UserError
from adakd.files import atomic_write


def choose(
    manifests: Sequence[Manifest],
    hypotheses: Mapping[str, str],
    folder: Path,
    limits: Sequence[Limit],
    max_cer: float,
    normalise: bool,
) -> dict[str, float]:
    """Write train.jsonl and rejected.tsv below `folder`, with hypotheses in place of transcripts.

    manifests: the prepared utterances; one whose text is empty has no transcript.
    hypotheses: by utterance id, as they were decoded; normalised as transcripts are if `normalise`.
    limits: what the models cannot take, as in `adakd.data.prepare`.
    max_cer: largest CER of a hypothesis against its transcript, both normalised; 0.1 is 10 %.

    Returns how many utterances and seconds were kept, and how many were rejected. An entry's `raw`
    stays the corpus's transcript.

    Raises:
        UserError: nothing is left.
    """
    kinds: Counter[str] = Counter()
    kept, seconds = 0, 0.0
    with (
        atomic_write(folder / "rejected.tsv") as listing,
        atomic_write(folder / "train.jsonl") as file,
    ):
        listing.write("id\treason\ttranscript\thypothesis\n")
        for entry in chain.from_iterable(manifests):
            heard = target(hypotheses[entry.id], entry.language, normalise)
            if text.UNKNOWN_CHARACTER in hypotheses[entry.id]:
                reason: str | None = f"a character that it has no unit for: {hypotheses[entry.id]}"
            else:
                reason = _why_not(replace(entry, text=heard), entry.text, limits, max_cer)
            if reason is None:
                file.write(manifest.to_line(replace(entry, text=heard)))
                kept, seconds = kept + 1, seconds + entry.seconds
            else:
                kinds[reason.partition(":")[0]] += 1
                listing.write(row(entry.id, reason, entry.text, heard))
        if not kept:
            (kind, count), *_ = kinds.most_common(1) or [("no utterances", 0)]
            raise UserError(
                f"none of the teacher's {kinds.total()} transcripts can be used, most often "
                f"({count}) because of: {kind}; raise transcripts.max_cer, or train the teacher "
                "longer"
            )
    return {"kept": kept, "seconds": round(seconds, 3), "rejected": kinds.total()}


def _why_not(entry: Entry, transcript: str, limits: Sequence[Limit], max_cer: float) -> str | None:
    """Why a hypothesis, the text of `entry`, cannot be learnt from; None if it can."""
    from adakd.score import count

    if not text.normalise(entry.text, entry.language):  # punctuation alone says nothing
        return "empty hypothesis"
    if transcript:
        reference, heard = (
            text.units_of_error(text.normalise(side, entry.language), entry.language)
            for side in (transcript, entry.text)
        )
        (counts,) = count([reference], [heard])
        if counts.cer > max_cer:
            return f"far from the transcript: CER {counts.cer:.1%}"
    return refusal(entry, limits)
