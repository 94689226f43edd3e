"""Passes over the training set in pieces, each a file: a pass that was cut goes on with the rest.

    started.json           what the pass depends on
    NAME.<N>.jsonl         a piece: a line an utterance, the first of them number N of the set

What a line holds, and when the whole is done, is for the stage to know. The teacher store has
shards of its own (`adakd.teacher_store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from adakd.data.manifest import Manifest
from adakd.files import empty, read_jsonl, remove_half_written, write_json, write_jsonl
from adakd.finished import begun, changes
from adakd.processes import rank, say, wait_for_all, world

# Utterances that a process does before it writes: all that it loses when it is cut. So many fill
# batches of one length, take far longer than a piece takes to begin, and make 200 files of a
# million.
PIECE = 5_000

Rows = Iterable[dict[str, Any]]


def begin(folder: Path, what: str, inputs: dict[str, Any], **beside: Any) -> None:
    """Make a folder ready for a pass; all processes call it.

    The pieces of a pass that was cut are kept if it was begun with the same; all else is removed.

    Args:
        what: begins the line that tells what has changed.
        inputs: what the step depends on, as its done.json will have it.
        beside: what the pieces depend on as well.
    """
    if rank() == 0:
        before, changed = begun(folder), []
        if before is not None:
            changed = changes(before["inputs"], inputs) + changes(before["beside"], beside)
        if changed:
            say(f"{what}: cut, and {' and '.join(changed)} changed, begun anew")
        if before is None or changed:
            empty(folder)
            write_json(folder / "started.json", {"inputs": inputs, "beside": beside})
        else:
            remove_half_written(folder)
    wait_for_all()


def read(folder: Path, name: str, needs: Iterable[str] = ("id",)) -> Iterator[dict[str, Any]]:
    """The lines of all pieces of that name; `UserError` if one is damaged or lacks `needs`."""
    for path in folder.glob(f"{name}.*.jsonl"):
        yield from read_jsonl(path, needs)


def in_pieces(
    folder: Path,
    name: str,
    entries: Manifest,
    what: str,
    work: Callable[[Manifest, str], Rows],
) -> None:
    """Do what is not there yet, and write each piece when it is done; all processes call it.

    Pieces are cut from the whole set, not from what is left of it: the same utterances share a
    batch wherever a pass was cut, so its results are the same to the last digit. Another number of
    processes makes other pieces, and may round otherwise.

    Args:
        folder: one that `begin` has made ready.
        what: the title of the pass. Where there are several pieces, it says which.
        work: from the entries of a piece and its title to a line for each, with its ``id``.

    Raises:
        UserError: a piece that is there is damaged.
    """
    import numpy as np

    count, block = len(entries), PIECE * world()
    there = {row["id"] for row in read(folder, name)}
    wait_for_all()  # all know what was there, before more comes
    left = np.ones(count, dtype=bool)
    if there:
        say(f"{what}: goes on, {len(there)} of {count} utterances are there")
        left[:] = [entry.id not in there for entry in entries]
    pieces = []
    for start in range(0, count, block):
        for share in range(world()):
            piece = np.arange(start + share, min(start + block, count), world())
            if left[piece].any():
                pieces.append((start // block + 1, piece[left[piece]].tolist()))
    blocks = -(-count // block)
    for number, piece in pieces[rank() :: world()]:
        title = what if blocks == 1 else f"{what}, piece {number} of {blocks}"
        # By its first utterance, which is in no other: no number of processes writes over it.
        write_jsonl(folder / f"{name}.{piece[0]}.jsonl", work(entries.pick(piece), title))
    if not count and rank() == 0:
        write_jsonl(folder / f"{name}.0.jsonl", [])  # its file tells that it was done
