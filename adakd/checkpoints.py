"""What a training needs to go on where it was cut, as if it had not been.

Checkpoints appear whole or not at all, and hold the state of all random generators and the clock.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from adakd.errors import UserError
from adakd.files import flush, shown
from adakd.processes import rank, wait_for_all


class WholeCheckpointer(Checkpointer):
    """Checkpoints that appear whole or not at all, the latest being the last that was saved.

    SpeechBrain first writes the file that makes a folder a checkpoint, so that a run killed while
    it saves would be resumed from half a checkpoint. And it takes the one with the latest time as
    the latest: with a clock that was put back, what is saved would be removed at once.
    """

    def save_checkpoint(self, meta: dict[str, Any] | None = None, **options: Any) -> None:
        """Save under a hidden name, then rename."""
        before = max((each.meta["unixtime"] for each in self.list_checkpoints()), default=0.0)
        later = {"unixtime": max(time.time(), before + 1e-3)}
        saved = super().save_checkpoint({**(meta or {}), **later}, **options)
        if saved is not None:  # it is None in all processes but the first
            flush(saved.path)  # before the one that it takes the place of is removed
            saved.path.rename(saved.path.with_name(saved.path.name.removeprefix(".")))
        wait_for_all()  # before the other processes look for it

    def load_checkpoint(self, checkpoint: Any) -> None:
        """As SpeechBrain's; a checkpoint that cannot be read is a `UserError`."""
        try:
            super().load_checkpoint(checkpoint)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of pickle, zip, YAML or torch, by what is broken
            raise _damaged(checkpoint.path) from error

    @staticmethod
    def _construct_checkpoint_objects(folders: Iterable[Path]) -> list[Any]:
        found = []
        for folder in folders:
            try:
                (checkpoint,) = Checkpointer._construct_checkpoint_objects([folder])
                float(checkpoint.meta["unixtime"])
            except Exception as error:
                raise _damaged(folder) from error
            found.append(checkpoint)
        return found

    def _new_checkpoint_dirpath(self) -> Path:
        for half in self.checkpoints_dir.glob(f".{CKPT_PREFIX}*"):
            shutil.rmtree(half)
        whole = super()._new_checkpoint_dirpath()
        return whole.with_name(f".{whole.name}")


def _damaged(folder: Path) -> UserError:
    return UserError(
        f"the checkpoint {shown(folder)} is damaged: remove that folder, and the training goes on "
        "from the one before it, or begins anew where there is none."
    )


@register_checkpoint_hooks
class RandomState:
    """The state of all random generators, saved with a checkpoint.

    Of several processes the first one's is saved. The others get sequences of their own from it,
    the same for the same checkpoint, but not those that they would have gone on with.
    """

    @mark_as_saver
    def save(self, path: str) -> None:
        state = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        torch.save(state, path)

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        state = torch.load(path, weights_only=False)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        if rank():
            seed_everything(int(torch.randint(2**31, ())), f"resumed {rank()}")


@register_checkpoint_hooks
class Clock:
    """Seconds of training, summed over the parts of a run that was cut and resumed."""

    def __init__(self) -> None:
        self.total = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.monotonic()

    def stop(self) -> None:
        if self._since is not None:
            self.total += time.monotonic() - self._since
        self._since = None

    @mark_as_saver
    def save(self, path: str) -> None:
        running = time.monotonic() - self._since if self._since is not None else 0.0
        Path(path).write_text(str(self.total + running), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        # In the end the best checkpoint is read, which may be older than what this run counted.
        self.total = max(self.total, float(Path(path).read_text(encoding="utf-8")))


def seed_everything(seed: int, purpose: str) -> None:
    """Seed Python, NumPy (SpecAugment in transformers) and torch.

    Every ``purpose`` has a sequence of its own. With one for all, a head made after the model would
    repeat the numbers that the model's weights were drawn from: tried, Whisper's auxiliary CTC loss
    then fell to 2.9 nats a character in 1,150 steps, and to 1.4 in 500 with numbers of its own.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big")
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
