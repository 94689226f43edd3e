"""Where a process computes, and in which precision."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from adakd.errors import UserError
from adakd.memory import keep_freed_memory

DRIVER = Path("/proc/driver/nvidia/version")  # there where the machine has NVIDIA's driver


def device() -> torch.device:
    """The GPU of this process if there is one, else the CPU, which then keeps freed memory.

    Float32 on the GPU is computed as in `use_tf32` from here on.

    Raises:
        UserError: this process of a launcher has no GPU of its own, or torch cannot use it.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"Process {number + 1} of this machine has no GPU: torch sees {count}. Start as many "
            "as there are (--nproc)."
        )
    own = torch.cuda.get_device_capability(number)
    known = re.findall(r"\bsm_(\d+)", " ".join(torch.cuda.get_arch_list()))  # also sm_90a
    oldest = divmod(min(map(int, known), default=0), 10)  # sm_75 stands for 7.5
    if own < oldest:
        raise UserError(
            f"{torch.cuda.get_device_name(number)} has compute capability {own[0]}.{own[1]}, and "
            f"this torch begins with {oldest[0]}.{oldest[1]}: make an environment with a torch for "
            "older CUDA and name its Python with ADAKD_PYTHON, or set CUDA_VISIBLE_DEVICES= for "
            "the CPU."
        )
    use_tf32()
    return torch.device(f"cuda:{number}")


def use_tf32() -> None:
    """Have a GPU round the factors of float32 products and convolutions to TF32's 10 bits.

    Importing SpeechBrain turns this on for the whole process (speechbrain/utils/quirks.py), torch
    by itself has it off for matrix products. Training imports SpeechBrain, the teacher pass does
    not: started by itself it would compute in another precision, and slower, than in one process
    with training. Here all have what training has, whatever is imported first or later; what is
    said of a test set is computed `without_tf32`. Through the older of torch's two interfaces, as
    in SpeechBrain: mixed, they raise. NVIDIA_TF32_OVERRIDE=0 in the environment turns it off for
    all.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 in full for a while, for differences that 10 bits would round away."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextlib.contextmanager
def enough_memory(title: str) -> Iterator[None]:
    """A full GPU, where no gradients are kept, becomes one sentence.

    Batches that do not fit are a finished teacher's: of what was trained here half of one did.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{title}: the GPU's memory is full. PYTORCH_ALLOC_CONF=expandable_segments:True in "
            "the environment saves some, and with a teacher that is taken as it is "
            "(teacher.finetuned) a lower --teacher.train.batch_seconds makes batches smaller."
        ) from error


def precision(name: str) -> str:
    """``auto`` becomes bf16 on a GPU that has it and fp32 elsewhere."""
    if name == "auto":
        # Older ones (Turing) only emulate it, without their tensor cores.
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if fast else "fp32"
    return name


def described() -> str:
    """Where this process computes, in words; also that a GPU lies idle for want of a driver."""
    where = device()
    if where.type != "cpu":
        return f"on {torch.cuda.get_device_name(where)}"
    # Nobody hides the GPUs, and yet there are none.
    idle = DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if not idle:
        return "on the CPU"
    return (
        "on the CPU, since torch finds no GPU here, though there is an NVIDIA driver: this job was "
        f"given none, or the driver is too old for torch {torch.__version__}"
    )
