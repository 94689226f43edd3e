"""Files that appear whole or not at all, and fingerprints of what is in them.

Not for audio or manifests, which have modules of their own under `adakd.data`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from unicodedata import normalize

from adakd.errors import UserError

# A full disk, a quota that is used up, a limit on the size of files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and numpy say of a file of which they wrote a part.
_CUT_SHORT = re.compile(
    r"unexpected pos|iostream error|failed writing file|requested and \d+ written|"
    r"[Nn]ot enough free space"
)


def full_disk(error: Exception, path: Path) -> OSError | None:
    """What a library means by an error without a number, if it is that a file could not be written.

    safetensors and shutil say in words what the system said; torch and numpy how much they wrote.
    """
    for number in FULL:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(path))
    if _CUT_SHORT.search(str(error)):
        what = "Not all could be written: the disk is full, or a quota or a limit is reached"
        return OSError(errno.ENOSPC, what, str(path))
    return None


@contextmanager
def atomic_write(path: Path, mode: str = "w", durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` and rename it to `path` when the block succeeds.

    mode: "w" (UTF-8 text, "\\n" line ends) or "wb". Missing parent folders are made. If the block
    raises, `path` is left as it was and the temporary file is removed. An `OSError` that names no
    file, as of a full disk, names `path`; so does that of `full_disk`.

    durable: a power cut leaves the old file or the new one, not an empty one. It costs milliseconds
    on an SSD and tens of them on a hard disk: not for files of which there are thousands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, since two processes may be writing the same path. It leaves out the name of
    # `path`, which may already be as long as the file system allows.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text_options) as file:  # type: ignore[call-overload]
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            if error.filename in (None, str(temporary)):  # nobody knows the neighbour
                error.filename = str(path)
        elif isinstance(error, Exception) and (full := full_disk(error, path)):
            raise full from error
        raise


def remove_half_written(folder: Path) -> None:
    """Remove what `atomic_write` had begun in a folder when a process was killed.

    Where nobody else is writing.
    """
    for left in folder.glob(".*.tmp"):
        left.unlink()


@contextmanager
def replaced_folder(target: Path, durable: bool = True) -> Iterator[Path]:
    """A fresh folder that takes the place of ``target`` once the block succeeds; else all stays.

    Of a link at ``target`` the link alone goes.

    durable: as in `atomic_write`, for the files that libraries wrote into it.
    """
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for path in fresh.rglob("*"):  # safetensors writes for the user alone, whatever the umask
            if path.is_file() and not path.is_symlink():
                with suppress(OSError):  # of a file system without modes
                    path.chmod(fresh.stat().st_mode & 0o666)
        if durable:
            flush(fresh)
    except BaseException:  # half a model or an archive may fill a disk
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.is_symlink():  # what it leads to is not ours
        target.unlink()
    else:
        shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def flush(folder: Path) -> None:
    """Let all files of a folder reach the disk, whoever wrote them."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def empty(folder: Path) -> None:
    """Remove what is in a folder, if there is one, which may be a link to another disk.

    Not locks, at any depth: one that is removed no longer keeps anyone out. First of all
    ``done.json``, so that what is left when it is cut stands for nothing. Of a link in it the link
    alone goes.
    """
    (folder / "done.json").unlink(missing_ok=True)
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir() and not path.is_symlink():
            empty(path)
            with suppress(OSError):  # it holds locks
                path.rmdir()
        elif path.suffix != ".lock":
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON that keeps non-ASCII letters, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping in a file of `write_json`; `UserError` if it is damaged or lacks `needs`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no UTF-8
        content = None
    if not isinstance(content, dict) or not content.keys() >= set(needs):
        raise UserError(f"{path} is damaged: delete it, and what it stands for is made anew.")
    return content


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write each of `rows` to `path` as a line of JSON that keeps non-ASCII letters, atomically."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path, needs: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a file of `write_jsonl`; `UserError` if it is damaged or one lacks `needs`."""
    keys = set(needs)
    with path.open(encoding="utf-8") as file:
        try:
            for row in map(json.loads, file):
                if not isinstance(row, dict) or not row.keys() >= keys:
                    raise ValueError
                yield row
        except ValueError:  # no JSON, no UTF-8, or not what it should hold
            raise UserError(
                f"{path} is damaged: delete its folder and run the stage that makes it again."
            ) from None


def count_lines(path: Path) -> int:
    """How many rows a file of `write_jsonl` has, without a look into them."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def another(names: Iterable[str]) -> str:
    """What differs, for a message: "another seed and another train.epochs"."""
    return "another " + " and another ".join(names)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested mappings, as JSON has them."""
    new = json.loads(json.dumps(new))
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}")
    return found


def other_form(name: str, there: Callable[[str], bool]) -> bool:
    """Whether a name is there in another Unicode form: alike to the eye, as Macs copy files."""
    return any(
        form != name and there(form) for form in (normalize("NFC", name), normalize("NFD", name))
    )


def shown(path: Path) -> str:
    """A path as one would type it from here."""
    with suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def utf8(name: str) -> str:
    """A file's name, its bytes that are no UTF-8 written out as \\udcff: to print and to store."""
    return name.encode(errors="backslashreplace").decode()


def sha256(path: Path) -> str:
    """The SHA-256 of one file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """16 hexadecimal digits that change whenever ``content`` (plain values) does."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def fingerprint_of_files(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits over the names and bytes of `paths`, in the order given.

    Folders of the paths do not count, so a copied experiment keeps its fingerprint.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{utf8(Path(path).name)}\0{sha256(path)}\n".encode())
    return digest.hexdigest()[:16]
