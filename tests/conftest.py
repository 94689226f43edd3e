"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The folder of larger public data beside the repository, or None where there is none.

    A test that uses it checks less without it, and never skips.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
