"""Which revision a result is said to come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from adakd import versions


def test_a_published_page_is_no_change_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["adakd/versions.py", "study/grid.yaml", "docs/STUDY.jsonl", "recipes/a/RESULTS.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / names[0]))
    assert versions.revision() == "unknown (no git repository)"

    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert versions.revision() == commit.stdout[:12]

    (tmp_path / names[2]).write_text("two")
    (tmp_path / names[3]).write_text("two")
    assert versions.revision() == commit.stdout[:12]
    for name in names[:2]:
        (tmp_path / name).write_text("two")
        assert versions.revision() == commit.stdout[:12] + "+changes"
        (tmp_path / name).write_text("one")
    (tmp_path / "recipes/a/conf").mkdir()  # a recipe of one's own is in no commit
    (tmp_path / "recipes/a/conf/recipe.yaml").touch()
    assert versions.revision() == commit.stdout[:12] + "+changes"
