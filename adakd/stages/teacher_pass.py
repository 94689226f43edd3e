"""Stage 4: the teacher's losses and soft outputs of the training set, and x from other sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from adakd.data.manifest import Manifest
from adakd.errors import UserError
from adakd.files import shown, write_jsonl
from adakd.finished import changes, done, is_current, mark_done, needed, one_at_a_time
from adakd.inputs import (
    DOUBT,
    check_teacher,
    difficulty_of,
    difficulty_parts,
    lessons,
    lessons_count,
    source_fingerprint,
    store_of,
    store_parts,
    units_of,
)
from adakd.place import Place
from adakd.processes import rank, say, wait_for_all, world
from adakd.progress import track
from adakd.stages.pieces import begin as begin_pieces
from adakd.stages.pieces import in_pieces, read
from adakd.stages.training import train
from adakd.teacher_store import is_whole, parts_of_begun, parts_of_finished

if TYPE_CHECKING:
    from adakd.models import Family


def teacher_pass(place: Place) -> None:
    """Stage 4: the teacher's loss and soft outputs on every training utterance.

    And x from another source, and the losses for a guard, where the configuration asks for them.
    """
    own = place.config.distill.difficulty != "insample" or place.config.guarded
    if own:
        check_source_of_difficulty(place)
    write_store(place)
    if own:
        write_difficulty(place)


@one_at_a_time(lambda place: place.store)  # one for all tags: inside, `store_of` says which folder
def write_store(place: Place) -> None:
    """The teacher store: the teacher's loss and soft outputs on every training utterance."""
    parts, folder = store_parts(place), store_of(place)
    if (found := parts_of_finished(folder)) is not None:
        changed = changes(found, parts)
        if not changed and is_whole(folder, lessons_count(place)):
            say(f"{place.title}: teacher store done ({shown(folder)})")
            return
        why = f"{' and '.join(changed)} changed" if changed else f"part of {shown(folder)} is lost"
        say(f"{place.title}: teacher store: {why}, made anew")
    elif (begun := parts_of_begun(folder)) and (changed := changes(begun, parts)):
        say(f"{place.title}: teacher pass: cut, and {' and '.join(changed)} changed, begun anew")
    from adakd import models
    from adakd.data.loader import Steps, evaluation_loader
    from adakd.device import device, enough_memory
    from adakd.teacher_store import Store, Writer, begin, fill, finish, written

    config = place.config
    train_settings = config.train_of("teacher")
    family = models.open_folder(config, place.experiment("teacher") / "model")
    family.to(device()).eval()
    title = f"{place.title}: teacher pass"
    wait_for_all()  # all have read what was there
    if rank() == 0:
        begin(folder, parts, config.distill.top_k, config.distill.temperature)
    wait_for_all()
    there, entries = written(folder), lessons(place)
    if there:
        say(f"{title}: goes on, {len(there)} of {len(entries)} utterances are there")
        entries = entries.pick([i for i, entry in enumerate(entries) if entry.id not in there])
    wait_for_all()  # all know what was there, before more comes
    entries = entries[rank() :: world()]
    loader = evaluation_loader(
        Steps(entries, place.root, family),
        train_settings.batch_seconds_without_gradients,
        train_settings.workers,
    )
    with enough_memory(title), Writer(folder, rank()) as writer:
        fill(writer, family, track(loader, len(loader), title))
    wait_for_all()
    if rank() == 0:
        finish(folder, lessons_count(place))
    wait_for_all()
    x = Store(folder).difficulties().values()
    say(
        f"{place.title}: teacher store written, mean loss x {sum(x) / max(1, len(x)):.4f} nats a "
        f"unit ({shown(folder)})"
    )


def check_source_of_difficulty(place: Place) -> None:
    """Raise `UserError` where the models cannot give the difficulty that is asked for."""
    config, source = place.config, place.config.distill.difficulty
    what = f"{place.title}: distill.difficulty {source} needs the teacher before fine-tuning"
    if source in ("crossfit", "pretrained") and config.teacher.finetuned:
        raise UserError(
            f"{what}, and teacher.finetuned takes it as it is: try insample or dropout."
        )
    if source != "pretrained":
        return
    if config.teacher.source is None:
        raise UserError(f"{what}, and it starts from random weights: try crossfit.")
    from adakd import models

    if new := models.untrained_units(config, units_of(place)):
        raise UserError(
            f"{what}, and that has no output yet for {len(new)} of the recipe's units, such as "
            f"{new[0]!r}, which get a new output layer: set units.kind to source, or try crossfit."
        )


@one_at_a_time(lambda place: place.difficulty)
def write_difficulty(place: Place) -> None:
    """x of every training utterance from a source of its own, in x.jsonl: a line an utterance.

    With a guard a line also holds the doubt in the transcript, the losses behind it and what the
    teacher hears; doubtful.tsv lists those that are more likely wrong than right. A pass that was
    cut goes on: see `adakd.stages.pieces`.
    """
    folder, parts = difficulty_of(place), difficulty_parts(place)
    config, source, guard = place.config, place.config.distill.difficulty, place.config.guarded
    if source == "crossfit":
        check_teacher(place)
    title = f"{place.title}: difficulty {source}"
    rule = DOUBT if guard else False
    lacks_guard = guard and (done(folder) or {}).get("guard", rule) != rule
    x = folder / "x.jsonl"
    if not lacks_guard and is_current(folder, parts, title, x, lines={x: lessons_count(place)}):
        return
    from adakd import difficulty, models
    from adakd.checkpoints import seed_everything
    from adakd.device import enough_memory

    entries = place.transcribed()
    facts: dict[str, Any] = {"guard": rule}
    beside: dict[str, Any] = {"guard": rule}  # what the pieces depend on, as on the parts
    scorers = [(place.experiment("teacher"), list(range(len(entries))))]
    if source == "crossfit":
        speakers, sentences = zip(*((entry.speaker, entry.text) for entry in entries), strict=True)
        halves = difficulty.halves(speakers, sentences, entries.seconds)
        facts["halves"] = halves.describe()
        say(f"{title}: {facts['halves']}")
        for number in (0, 1):
            train(place, "teacher", (number, halves.trains(number)))
        scorers = [(place.half(number), halves.scored(number)) for number in (0, 1)]
        beside["halves"] = [needed(half, "A half", 4)["fingerprint"] for half, _ in scorers]
    elif source == "pretrained":
        beside["source"] = source_fingerprint(config.teacher)
    limit = models.limit(config, "teacher", units_of(place)) if guard else None
    train_settings = config.train_of("teacher")

    def score(family: Family, piece: Manifest, what: str) -> Iterator[dict[str, Any]]:
        with enough_memory(title):
            rows = difficulty.score(
                family,
                piece,
                place.root,
                train_settings.batch_seconds_without_gradients,
                what,
                config.distill.dropout_passes if source == "dropout" else 0,
                limit,
                train_settings.workers,
            )
        return ({"id": utterance, **row} for utterance, row in rows.items())

    begin_pieces(folder, title, parts, **beside)
    for number, (model, scored) in enumerate(scorers):
        if source == "pretrained":
            seed_everything(place.seed_of("teacher"), "weights")
            family = models.load(config, "teacher", units_of(place))
        else:
            family = models.open_folder(config, model / "model")
        own = entries.pick(scored)
        in_pieces(folder, f"part.{number}", own, title, partial(score, family))
    wait_for_all()
    if rank() == 0:
        found = difficulty.combine(
            [
                _in_order(read(folder, f"part.{number}", needs=("id", "x")), entries.pick(scored))
                for number, (_, scored) in enumerate(scorers)
            ]
        )
        write_jsonl(x, ({"id": each.id, **found[each.id]} for each in entries))
        if guard:
            listing = folder / "doubtful.tsv"
            number = difficulty.list_doubtful(listing, entries, found)
            say(f"{title}: {number} of {len(entries)} transcripts are doubted ({shown(listing)})")
            facts["taken_for_wrong"] = _tell_wrong(place, title, found)
        mark_done(folder, parts, **facts)
        for path in folder.glob("part.*"):
            path.unlink()
    wait_for_all()
    say(f"{title}: written ({shown(folder)})")


def _tell_wrong(place: Place, title: str, found: dict[str, dict[str, Any]]) -> str:
    """How many of the transcripts that were made wrong are doubted; empty where none were."""
    from adakd.data import label_noise

    doubts = {utterance: row["doubt"] for utterance, row in found.items()}
    if taken := label_noise.taken_for_wrong(place.data, doubts):
        say(f"{title}: taken for wrong: {taken}")
    return taken


def _in_order(rows: Iterable[dict[str, Any]], entries: Manifest) -> dict[str, dict[str, Any]]:
    """Rows by utterance id, in the order of the entries: sums over them round in one way."""
    found = {row.pop("id"): row for row in rows}
    return {entry.id: found[entry.id] for entry in entries}
