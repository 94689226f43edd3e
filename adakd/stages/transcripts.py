"""Sequence-level distillation, within stage 2: what the teacher hears in the training set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from adakd.data.manifest import Manifest
from adakd.errors import UserError
from adakd.files import read_jsonl, shown
from adakd.finished import done, is_current, mark_done, needed, one_at_a_time
from adakd.inputs import heard_inputs, transcripts_inputs, transcripts_of, units_of
from adakd.place import Place
from adakd.processes import rank, say, wait_for_all
from adakd.stages.pieces import begin, in_pieces

LINE = ("id", "hypothesis")  # what is kept of an utterance


@one_at_a_time(lambda place: place.transcripts)  # for all tags, as are the hypotheses
def transcribe_training(place: Place) -> None:
    """Sequence-level distillation: the teacher's transcripts of train and of untranscribed audio.

    The hypotheses are kept: another transcripts.max_cer decodes nothing anew. A pass that was cut
    goes on: see `adakd.stages.pieces`.
    """
    config, folder = place.config, transcripts_of(place)
    names = ["train", *(["untranscribed"] if config.data.untranscribed else [])]
    heard, inputs = heard_inputs(place), transcripts_inputs(place)
    said = place.transcripts / "hypotheses"
    first = (said / f"{name}.0.jsonl" for name in names)
    what = f"{place.title}: hypotheses of train"
    if not is_current(said, heard, what, *first):
        from adakd import models
        from adakd.decode import transcribe

        family = models.open_folder(config, place.experiment("teacher") / "model")

        def hear(entries: Manifest, title: str) -> Iterator[dict[str, Any]]:
            rows = transcribe(config, family, entries, place.root, title)
            return ({key: row[key] for key in LINE} for row in rows)

        begin(said, what, heard)
        for name in names:
            title = f"{place.title}: the teacher transcribes {name}"
            in_pieces(said, name, place.manifest(name), title, hear)
        wait_for_all()
        if rank() == 0:
            mark_done(said, heard)
    title = f"{place.title}: transcripts of the teacher"
    # They name the audio, which may have been moved since.
    data = needed(place.data, "The prepared data", 1)
    files = data.get("files", data["manifests"])
    moved = (done(folder) or {}).get("files", heard["data"]) != files
    if rank() == 0 and (moved or not is_current(folder, inputs, title, folder / "train.jsonl")):
        from adakd import models
        from adakd.data import pseudo_labels

        (folder / "done.json").unlink(missing_ok=True)
        everything = chain.from_iterable(
            read_jsonl(path, needs=LINE) for path in said.glob("*.jsonl")
        )
        hypotheses = {row["id"]: row["hypothesis"] for row in everything}
        manifests = [place.manifest(name) for name in names]
        ids = (entry.id for entry in chain.from_iterable(manifests))
        if lost := [utterance for utterance in ids if utterance not in hypotheses]:
            raise UserError(
                f"{title}: what it hears in {len(lost)} utterances is lost, such as {lost[0]}: "
                f"remove {shown(said / 'done.json')}, and stage 2 makes what is missing."
            )
        counts = pseudo_labels.choose(
            manifests,
            hypotheses,
            folder,
            [models.limit(config, role, units_of(place)) for role in ("teacher", "student")],
            config.transcripts.max_cer,
            config.data.normalise,
        )
        mark_done(folder, inputs, counts=counts, files=files)
        say(
            f"{title}: {counts['kept']} utterances, "
            f"{counts['seconds'] / 60:.1f} min, {counts['rejected']} left out "
            f"({shown(folder / 'rejected.tsv')})"
        )
    wait_for_all()
