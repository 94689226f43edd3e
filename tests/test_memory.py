"""What a process does with memory that it has freed: seen from outside, by its size."""

import os
import platform
from pathlib import Path

import pytest
import torch

from adakd.bench import measure

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or torch.cuda.is_available(),
    reason="it is about glibc, on a CPU",
)


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def left_of_300_mib(setting: str | None) -> tuple[bool, float]:
    """Runs in a process of its own: what remains of six freed tensors of 50 MiB each."""
    if setting == "a rival's":
        measure.leave_memory_to_libc()
    elif setting:
        os.environ[setting] = "0"
    from adakd.device import device

    before = resident()
    device()
    tensors = [torch.ones(50 * 2**18) for _ in range(6)]
    assert resident() - before > 295
    del tensors
    from adakd.memory import keep_freed_memory

    return keep_freed_memory(), resident() - before


def test_a_cpu_keeps_freed_memory(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    kept, left = measure.alone(left_of_300_mib, None)
    assert kept and left > 290


@pytest.mark.parametrize("setting", ["MALLOC_ARENA_MAX", "a rival's"])
def test_the_users_own_settings_of_malloc_win_and_a_rival_has_glibcs(setting):
    kept, left = measure.alone(left_of_300_mib, setting)
    assert not kept and left < 50
