"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adakd import files
from adakd.errors import UserError


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
    assert [path.name for path in target.parent.iterdir()] == ["model"], "half a folder goes"
    # What one that was killed left behind does not end in the next one.
    (target.parent / ".model.new").mkdir()
    (target.parent / ".model.new" / "a").write_text("half")
    with files.replaced_folder(target) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_files_have_the_mode_that_the_umask_allows(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(mode=0o600)
    before = os.umask(0o027)
    try:
        with files.replaced_folder(tmp_path / "model") as fresh:
            (fresh / "weights").touch(mode=0o600)  # as safetensors does
            (fresh / "link").symlink_to(outside)
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o640
    assert outside.stat().st_mode & 0o777 == 0o600


def test_of_a_link_that_is_replaced_nothing_goes_but_the_link(tmp_path: Path) -> None:
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "model"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    target.symlink_to(elsewhere)
    with files.replaced_folder(target) as fresh:
        (fresh / "new").write_text("new")
    assert not target.is_symlink()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert (elsewhere / "mine").read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", "[]", "1", '{"a":', '{"b": 1}'])
def test_json_that_is_not_what_it_should_be_is_damaged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"a": 1}\n')
    assert files.read_json(path, needs=["a"]) == {"a": 1}
    assert list(files.read_jsonl(path, needs=["a"])) == [{"a": 1}]
    path.write_text(content)
    for read in (files.read_json, files.read_jsonl):
        with pytest.raises(UserError, match="some.json is damaged: delete "):
            list(read(path, needs=["a"]))


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.json").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        files.write_json(tmp_path / "some.json", {})
    assert error.value.filename == str(tmp_path / "some.json")
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_a_folder_is_emptied_but_for_locks_and_what_links_lead_to(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    locks = [folder / ".a.lock", folder / "e" / "f" / ".g.lock"]
    for path in (folder / "a" / "b.txt", folder / "c.txt", *locks, elsewhere / "d.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "link").symlink_to(elsewhere)
    (tmp_path / "way").symlink_to(folder)
    files.empty(tmp_path / "way")
    assert sorted(path for path in folder.rglob("*") if not path.is_dir()) == locks
    assert not (folder / "a").exists()
    assert (elsewhere / "d.txt").exists()
    files.empty(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_a_library_that_could_not_write_is_understood(tmp_path: Path) -> None:
    """Under a limit on the size of files, which stops them where a full disk or a quota would."""
    values = np.zeros(20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for name, write in (
            ("torch.pt", lambda file: torch.save(torch.from_numpy(values), file)),
            ("numpy.npy", lambda file: np.save(file, values)),
        ):
            with pytest.raises(OSError) as caught, files.atomic_write(tmp_path / name, "wb") as to:
                write(to)
            assert caught.value.errno in files.FULL, name
            assert caught.value.filename == str(tmp_path / name)
        with pytest.raises(Exception) as other:
            save_file({"a": torch.from_numpy(values)}, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    full = files.full_disk(other.value, tmp_path)
    assert full is not None and full.errno == errno.EFBIG and full.filename == str(tmp_path)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*"))
    assert files.full_disk(ValueError("no disk is full"), tmp_path) is None
