"""Fixtures shared by the tests.

The tests are about the CPU, whose numbers are the same everywhere; it computes also where there is
a GPU. Those of test_gpu.py ask for the fixture `gpu`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from adakd.config import REPOSITORY

VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
HAS_GPU = torch.cuda.is_available()
torch.cuda.is_available = lambda: False


@pytest.fixture(scope="session", autouse=True)
def _hidden() -> None:
    """No GPU for processes that tests start, either; those of pytest-xdist begin before this."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU, for this test and processes that it starts; skipped where there is none."""
    if not HAS_GPU:
        pytest.skip("needs a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if VISIBLE is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The folder of larger public data beside the repository, or None where there is none.

    A test that uses it checks less without it, and never skips.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Loads a Python file of this repository that is in no package."""

    def load(path: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
        assert specification and specification.loader
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load
