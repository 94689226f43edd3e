"""Files and folders that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from adakd import files


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "exp" / "model"
    with files.replaced_folder(target) as fresh:
        (fresh / "a").write_text("old")
        assert not target.exists(), "half a folder is never seen"
    assert (target / "a").read_text() == "old"
    with pytest.raises(ZeroDivisionError), files.replaced_folder(target) as fresh:
        (fresh / "a").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["a"]
    assert (target / "a").read_text() == "old"
    # What the failed attempt left behind does not end in the next one.
    with files.replaced_folder(target) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]
