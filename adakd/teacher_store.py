"""The teacher store: what the teacher thinks of every training utterance, written once.

Per utterance: its difficulty x (the teacher's task loss) and, where asked for, the soft outputs:
raw logits in fp16, all of them (dense), or the top k and a sample of the rest at the stored
temperature (`adakd.objectives.top_k`), drawn once for all epochs: what one utterance's sample is
off by evens out over utterances and positions alone. Clean audio under a teacher in eval mode.

    store/meta.json          what the contents depend on, part by part; top_k, temperature
    store/index.<R>.<N>.jsonl    one line an utterance: id, x, row, rows
    store/logits.<R>.<N>.npy     (rows, V) fp16, dense
    store/values.<R>.<N>.npy     (rows, K) fp16       \\
    store/indices.<R>.<N>.npy    (rows, K + M) uint    top k, then the drawn ones
    store/rest.<R>.<N>.npy       (rows, 2) fp32       /  tail and level

<R> is the process that wrote it, <N> its shard. Shards are memory-mapped for reading. A pass writes
a shard's index once its arrays are on the disk, so one that was cut goes on where it was. Until it
has them all, `meta.json` is called `unfinished.json`. In a loop of one's own:

    begin(folder, parts={}, top_k=100, temperature=2.0)
    left = all_ids - written(folder)  # of a pass that was cut some are there
    with Writer(folder) as writer:
        for ids, rows, logits, x in batches(left):  # logits (sum of rows, V), x of each utterance
            writer.add(writer.reduce(ids, rows, logits), x)
    finish(folder, len(all_ids))
    store = Store(folder)  # store.difficulties(), store.soft(ids)
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd.errors import UserError
from adakd.files import (
    another,
    atomic_write,
    count_lines,
    differences,
    empty,
    read_json,
    read_jsonl,
    remove_half_written,
    write_json,
    write_jsonl,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from adakd.models import Batch, Family
    from adakd.objectives import SoftOutputs

SHARD_BYTES = 64 << 20  # of fp16 logits in memory before they go to disk
SHARD_SECONDS = 600  # of work in memory before it goes to disk: a pass that is cut loses no more
META = ("parts", "top_k", "temperature")  # what meta.json holds
LINE = ("id", "x", "row", "rows")  # what a line of an index holds
GPU_ROWS = 2_048  # positions whose outputs a GPU reduces at a time: over 51,865 units 2 GB
OPEN_SHARDS = 200  # mapped at a time: every file takes a descriptor, and 1,024 is a common limit


def begin(folder: Path, parts: Mapping[str, Any], top_k: int, temperature: float) -> None:
    """Make a folder ready for a pass.

    One process does so, before any has a `Writer`. A finished store ceases to be one. What a pass
    for the same store has left is kept; anything else is removed.

    Args:
        parts: what the contents depend on; `Store` compares it part by part.
        top_k: units kept a position, 0 for all.
        temperature: at which the rest is drawn and summed up.
    """
    meta = {"top_k": top_k, "temperature": temperature, "parts": dict(parts)}
    unfinished = folder / "unfinished.json"
    if unfinished.exists():
        before, now = read_json(unfinished), json.loads(json.dumps(meta))
        if not top_k:  # of all logits the temperature changes nothing
            before["temperature"] = now["temperature"]
        if before == now:
            remove_half_written(folder)  # a shard of each process that was killed
            return
    for path in (unfinished, folder / "meta.json"):  # first: what is left then stands for nothing
        path.unlink(missing_ok=True)
    empty(folder)
    write_json(unfinished, meta)


def parts_of_finished(store: Path) -> dict[str, Any] | None:
    """What a finished store was made with; None if it is not finished."""
    meta = store / "meta.json"
    return read_json(meta, needs=("parts",))["parts"] if meta.exists() else None


def parts_of_begun(store: Path) -> dict[str, Any] | None:
    """What a store was made with, or is being made: a pass that was cut goes on."""
    unfinished = store / "unfinished.json"
    if not unfinished.exists():
        return parts_of_finished(store)
    return read_json(unfinished, needs=("parts",))["parts"]


def is_whole(store: Path, utterances: int) -> bool:
    """Whether a finished store has so many utterances, and every shard that its indices name.

    Nothing is read but lines that are counted, so that it takes no time for a million.
    """
    names = _names(int(read_json(store / "meta.json", needs=META)["top_k"]))
    for index in _indices(store):
        if not all((store / f"{name}.{_place(index)}.npy").exists() for name in names):
            return False
    return _count(store) == utterances


def written(folder: Path) -> set[str]:
    """The utterances that are in a store, finished or not."""
    return {row["id"] for index in _indices(folder) for row in read_jsonl(index, needs=LINE)}


def finish(folder: Path, utterances: int) -> None:
    """Declare the store complete (one process, after all have written).

    utterances: how many the whole set has. Raises `UserError` where the store has other than that.
    """
    there = _count(folder)
    if there > utterances:
        raise UserError(
            f"{folder} holds {there} utterances, and there are {utterances}: delete it, and run "
            "the teacher pass again, without those that are `written` when it goes on."
        )
    if there < utterances:
        raise UserError(
            f"{folder} holds {there} of {utterances} utterances: run the teacher pass again, which "
            "goes on (a Writer writes its last ones when its `with` block ends)."
        )
    (folder / "unfinished.json").rename(folder / "meta.json")


@dataclass
class Reduced:
    """The soft outputs of some utterances as a store keeps them, on their way from the teacher.

    On the CPU, or being copied there from a GPU: `wait` before they are read.
    """

    utterances: list[str]
    rows: list[int]  # of each utterance
    units: int  # V
    tensors: tuple[torch.Tensor, ...]  # of all rows: fp16 logits; or values, units, and the rest
    copied: torch.cuda.Event | None

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


class Writer:
    """Collects utterances and writes shards, after those that are there.

    One writer a process, `rank` tells them apart; `begin` comes before the first, `finish` after
    the last. At the end of a `with` block it writes what is left; one that raises leaves that out,
    and a later pass makes it again.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        try:
            meta = read_json(folder / "unfinished.json", needs=META)
        except FileNotFoundError:
            raise UserError(
                f"{folder} is not ready for a teacher pass: `begin` it first."
            ) from None
        self.top_k, self.temperature = meta["top_k"], meta["temperature"]
        self.folder, self.rank = folder, rank
        there = [int(index.name.split(".")[2]) for index in _indices(folder, str(rank))]
        self._shard = max(there, default=-1) + 1
        self._clear()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()

    def _clear(self) -> None:
        self._arrays: list[tuple[np.ndarray, ...]] = []
        self._lines: list[dict[str, Any]] = []
        self._rows = self._bytes = 0
        self._since = time.monotonic()

    def reduce(
        self, utterances: Sequence[str], rows: Sequence[int], logits: torch.Tensor
    ) -> Reduced:
        """Shrink the raw logits (sum of rows, V) of some utterances to what is kept of them.

        Where the logits are: a GPU finds the top k faster than it can hand over all the others. The
        copy to the CPU is not waited for.
        """
        import torch

        from adakd.objectives import top_k

        if self.top_k:
            # By the utterance, so that processes and batches change nothing.
            starts = [
                torch.rand((count,), generator=_draw(name))
                for name, count in zip(utterances, rows, strict=True)
            ]
            small = top_k(logits.float(), self.top_k, self.temperature, torch.cat(starts))
            tensors: tuple[torch.Tensor, ...] = (
                small.values.to(torch.float16),
                torch.cat([small.indices, small.drawn], dim=-1),
                torch.stack([small.tail, small.level], dim=-1),
            )
        else:
            tensors = (logits.to(torch.float16),)
        copied = None
        if logits.is_cuda:
            tensors = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
            copied = torch.cuda.Event()
            copied.record()
        return Reduced(list(utterances), list(rows), logits.shape[-1], tensors, copied)

    def add(self, reduced: Reduced, difficulties: Sequence[float]) -> None:
        """Store utterances with their task losses.

        Raises:
            UserError: a loss is not finite, or a logit is too large for fp16.
        """
        import numpy as np

        reduced.wait()
        arrays = [tensor.numpy() for tensor in reduced.tensors]
        if self.top_k:
            arrays[1] = arrays[1].astype(np.min_scalar_type(reduced.units - 1))
        first = 0
        for utterance, rows, x in zip(reduced.utterances, reduced.rows, difficulties, strict=True):
            self._add(utterance, x, tuple(each[first : first + rows] for each in arrays))
            first += rows

    def _add(self, utterance: str, x: float, arrays: tuple[np.ndarray, ...]) -> None:
        import numpy as np

        if not math.isfinite(x):
            raise UserError(
                f"Utterance '{utterance}': the teacher's loss on it is {x}, so its transcript may "
                "not fit into its audio: mend it in the corpus or take it out, and start again at "
                "--stage 0."
            )
        if not np.isfinite(arrays[0]).all():
            raise UserError(
                f"Utterance '{utterance}': the teacher's logits do not fit fp16; "
                "set distill.teacher to online."
            )
        rows = len(arrays[0])
        self._lines.append({"id": utterance, "x": x, "row": self._rows, "rows": rows})
        self._arrays.append(arrays)
        self._rows += rows
        self._bytes += arrays[0].nbytes
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since > SHARD_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Write what has been collected, as a shard."""
        import numpy as np

        if not self._arrays:
            return
        place = f"{self.rank}.{self._shard}"
        for name, column in zip(_names(self.top_k), zip(*self._arrays, strict=True), strict=True):
            with atomic_write(self.folder / f"{name}.{place}.npy", "wb") as file:
                np.save(file, np.concatenate(column))
        write_jsonl(self.folder / f"index.{place}.jsonl", self._lines)
        self._shard += 1
        self._clear()


def _draw(utterance: str) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(zlib.crc32(utterance.encode()))


def fill(writer: Writer, teacher: Family, steps: Iterable[Sequence[Batch]]) -> int:
    """Add the teacher's loss and soft outputs on every utterance of these steps.

    The teacher is in eval mode, on the device where it is to run. While a GPU computes a batch, the
    one before it is written. Returns: how many utterances there were.
    """
    import torch

    device = next(teacher.parameters()).device
    before: list[tuple[Reduced, torch.Tensor]] = []
    count = 0

    def write() -> None:
        for reduced, losses in before:
            reduced.wait()  # the losses were copied before
            writer.add(reduced, losses.tolist())
        before.clear()

    for step in steps:
        for batch in step:
            rows = teacher.positions(batch).tolist()  # on the CPU, which waits for no GPU
            count += len(rows)
            batch = batch.to(device)
            with torch.inference_mode():
                output = teacher(batch)
                write()
                losses = teacher.task_loss(output, batch).to("cpu", non_blocking=True)
                for part in _parts(rows, GPU_ROWS if device.type == "cuda" else 1):
                    own = [output.logits[i, : rows[i]] for i in range(part.start, part.stop)]
                    logits = own[0] if len(own) == 1 else torch.cat(own)
                    reduced = writer.reduce(batch.ids[part], rows[part], logits)
                    before.append((reduced, losses[part]))
                del output, own, logits  # gigabytes, where the vocabulary is large
            if device.type == "cpu":
                write()  # it has computed all by now
    write()
    return count


def _parts(rows: Sequence[int], most: int) -> Iterator[slice]:
    """Utterances that follow each other, of so many rows together, or one of more."""
    first = total = 0
    for number, count in enumerate(rows):
        if number > first and total + count > most:
            yield slice(first, number)
            first, total = number, 0
        total += count
    yield slice(first, len(rows))


class Store:
    """Reads a finished store.

    Args:
        folder: where `Writer` wrote.
        parts: what the caller expects it to depend on (teacher, manifest, units, ...); a
            difference is a UserError that names what changed. None takes it as it is.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self._made = self._identity()
        try:
            meta = read_json(folder / "meta.json", needs=META)
        except FileNotFoundError:
            raise UserError(
                f"{folder} holds no finished teacher store: run stage 4 (teacher-pass)."
            ) from None
        if parts is not None and (changed := differences(meta["parts"], dict(parts))):
            raise UserError(
                f"{folder} was made with {another(changed)}: run stage 4 (teacher-pass) again."
            )
        self.top_k = int(meta["top_k"])
        self.temperature = float(meta["temperature"])
        self._lines: dict[str, tuple[float, str, int, int]] = {}
        for index in _indices(folder):
            # One string for all of a shard: one a line takes 0.05 GB for a million utterances.
            place = _place(index)
            for row in read_jsonl(index, needs=LINE):
                if row["id"] in self._lines:
                    raise UserError(
                        f"{index} holds utterance '{row['id']}', which another line has as well: "
                        f"delete {folder / 'meta.json'} and make the store again (stage 4)."
                    )
                self._lines[row["id"]] = (row["x"], place, row["row"], row["rows"])
        self._check_same()
        self._maps: dict[str, tuple[np.ndarray, ...]] = {}  # the one used last is the last

    def _identity(self) -> tuple[int, int] | None:
        """That of meta.json, the first to go where a store is made anew, and the last to come."""
        try:
            found = (self.folder / "meta.json").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _check_same(self) -> None:
        """Raise `UserError` where what has just been read may be of another store than the rest."""
        if self._identity() != self._made:
            raise UserError(
                f"{self.folder} is made anew by another run while this one reads it: run the same "
                "command again once that is done, or give one of the two a --tag."
            )

    def difficulties(self) -> dict[str, float]:
        """x of every utterance by id, nats per target unit."""
        return {utterance: line[0] for utterance, line in self._lines.items()}

    def soft(self, utterances: Sequence[str]) -> SoftOutputs:
        """The soft outputs of a batch, padded to the longest with zeros.

        Dense logits (B, T, V) float16, or TopK with (B, T, K), (B, T, M) and (B, T).
        """
        import numpy as np
        import torch

        from adakd.objectives import Dense, TopK

        rows = [self._rows(utterance) for utterance in utterances]
        length = max(len(arrays[0]) for arrays in rows)
        padded = []
        for column in zip(*rows, strict=True):
            block = np.zeros((len(rows), length, *column[0].shape[1:]), column[0].dtype)
            for target, array in zip(block, column, strict=True):
                target[: len(array)] = array
            padded.append(block)
        if not self.top_k:
            return Dense(torch.from_numpy(padded[0]))
        values, rest = torch.from_numpy(padded[0]), torch.from_numpy(padded[2])
        indices, drawn = torch.from_numpy(padded[1].astype(np.int64)).tensor_split([self.top_k], -1)
        tail, level = rest.unbind(-1)
        return TopK(values, indices, tail, drawn, level, self.temperature)

    def _rows(self, utterance: str) -> tuple[np.ndarray, ...]:
        try:
            _, place, row, rows = self._lines[utterance]
        except KeyError:
            raise UserError(
                f"Utterance '{utterance}' is not in {self.folder}: run stage 4 (teacher-pass)."
            ) from None
        arrays = self._maps.pop(place, ())
        if not arrays:
            if len(self._maps) >= OPEN_SHARDS:
                del self._maps[next(iter(self._maps))]
            paths = [self.folder / f"{name}.{place}.npy" for name in _names(self.top_k)]
            arrays = tuple(map(self._mapped, paths))
            self._check_same()
        self._maps[place] = arrays
        return tuple(array[row : row + rows] for array in arrays)

    def _mapped(self, path: Path) -> np.ndarray:
        import numpy as np

        try:
            array: np.ndarray = np.load(path, mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):  # gone, cut short, or empty
            self._check_same()
            raise UserError(
                f"{path} is damaged: delete {self.folder / 'meta.json'} and run --stage 4, which "
                "makes it anew."
            ) from None
        return array


def _indices(folder: Path, rank: str = "*") -> list[Path]:
    """The indices of all shards, index.RANK.SHARD.jsonl."""
    return sorted(folder.glob(f"index.{rank}.*.jsonl"))


def _count(folder: Path) -> int:
    """The utterances of all shards, by the lines of their indices."""
    return sum(map(count_lines, _indices(folder)))


def _place(index: Path) -> str:
    """RANK.SHARD of an index, as in the names of its arrays."""
    return index.name.removeprefix("index.").removesuffix(".jsonl")


def _names(top_k: int) -> tuple[str, ...]:
    return ("values", "indices", "rest") if top_k else ("logits",)
