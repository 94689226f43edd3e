"""Getting at a corpus: a folder, an archive that somebody else made, or a git repository.

Not a corpus. Archives are tar (also .gz, .bz2, .xz) or zip; of them only files are unpacked, only
below the folder that is given, and links and odd paths are refused.
"""

from __future__ import annotations

import lzma
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from adakd.corpora import marker
from adakd.errors import UserError
from adakd.files import replaced_folder, sha256, write_text

_CHUNK = 1 << 20  # bytes
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    RuntimeError,  # what zipfile raises for a password or an unknown compression
)


@dataclass(frozen=True)
class Repository:
    """A data set that is published as a git repository."""

    name: str  # of the data set, for the screen
    url: str
    size: str  # of what is downloaded, for the screen
    part: str = ""  # the only folder that is needed; "" for all of it


def obtain(
    corpus: str | None,
    repository: Repository,
    folder: Path,
    unpacked: Path,
    wanted: Callable[[PurePosixPath], bool],
    check: Callable[[Path, str], object],
) -> Path:
    """The folder that holds a corpus: the user's own, an archive unpacked, or a clone made once.

    corpus: a folder or an archive; None for the repository, cloned to folder/clone.
    unpacked: where the files of an archive go for which `wanted(path in the archive)` holds.
    check: called with what was unpacked or cloned, and with where it came from, before it takes the
    place of anything; what it raises leaves all as it was.

    Raises:
        UserError: neither folder nor archive, an archive without such files, a failed clone, a
            corpus that lies where this writes.
    """
    if corpus is None:
        return clone(repository, folder / "clone", check)
    given = Path(os.path.expanduser(corpus))
    if given.is_dir():
        return given
    if not given.exists():
        raise UserError(f"corpus.corpus: '{given}' does not exist; give a folder or an archive")
    with replaced(unpacked, given) as fresh:
        if not extract(given, fresh, wanted):
            raise UserError(
                f"{given}: nothing of {repository.name} is in this archive; give another"
            )
        check(fresh, str(given))
    return unpacked


@contextmanager
def replaced(target: Path, *sources: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `target` once the block succeeds; else all stays.

    target: stands in the folder of a corpus, beside its marker.
    sources: what is read. If one of them lies in `target`, or the corpus that was given before
    does, that is a UserError before anything is removed.
    """
    before = (marker.stored(target.parent) or {}).get("source")
    for source in (*sources, *([Path(before)] if before else [])):
        if source.exists() and lies_in(source, target):
            raise UserError(
                f"corpus.corpus: '{source}' lies where stage 0 writes ({target}): move it "
                "elsewhere, or give another --root"
            )
    with replaced_folder(target, durable=False) as fresh:
        yield fresh


def told(source: str) -> dict[str, Any]:
    """What tells an archive from a later one, for the marker; of other sources nothing."""
    return {"archive": record(Path(source))} if Path(source).is_file() else {}


def record(path: Path) -> dict[str, Any]:
    """What a marker tells of an archive: its size and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or below it, once links are followed."""
    return path.resolve().is_relative_to(folder.resolve())


def clone(repository: Repository, target: Path, check: Callable[[Path, str], object]) -> Path:
    """A shallow clone at `target`, made once; of a part only that part's files are downloaded.

    check: as for `obtain`.
    """
    url = repository.url
    advice = "check the network, or give --corpus a folder or archive of the data set"
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    origin = target.parent / "clone.url"  # written last: its presence says that the clone is whole
    if origin.is_file() and origin.read_text(encoding="utf-8") == url and target.is_dir():
        return target
    with replaced(target) as fresh:
        print(f"{repository.name}: cloning {url} (about {repository.size})", file=sys.stderr)
        partly = ["--filter=blob:none", "--sparse"] if repository.part else []
        commands = [["git", "clone", "--quiet", "--depth", "1", *partly, "--", url, str(fresh)]]
        if repository.part:
            commands.append(["git", "-C", str(fresh), "sparse-checkout", "set", repository.part])
        for command in commands:
            try:
                result = subprocess.run(command, capture_output=True, text=True, env=quiet)
            except FileNotFoundError:
                raise UserError(
                    f"cannot clone {url}, for git is not installed; install it, or {advice}"
                ) from None
            if result.returncode:
                said = result.stderr.strip().splitlines() or ["git said nothing"]
                raise UserError(f"cannot clone {url}: {said[-1]}; {advice}")
        check(fresh, url)
        origin.unlink(missing_ok=True)
    write_text(origin, url)
    return target


def extract(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> int:
    """Write the files of `archive` for which `wanted(path in the archive)` holds below `folder`.

    Returns how many there were. Files that stand already are overwritten.

    Raises:
        UserError: (naming the archive) no such file, neither tar nor zip, damaged, a wanted member
            that is a link or a device, or whose path would leave `folder`.
        OSError: (naming the file) what cannot be written: a full disk says nothing of the archive.
    """
    return sum(1 for _ in unpack(archive, folder, wanted))


def unpack(
    archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[PurePosixPath]:
    """Like `extract`, but yields the path of each file once it is written, for a progress bar."""
    if not archive.is_file():
        raise UserError(f"{archive}: there is no such archive; check the path")
    with closing(_members(archive)) as members:
        for name, plain, opened in members:
            path = PurePosixPath(name)
            if not wanted(path):
                continue
            if not plain or path.is_absolute() or ".." in path.parts or "\\" in name:
                raise UserError(
                    f"{archive}: refused to unpack '{name}', which is a link or leads out of "
                    "its folder; get the archive from a place you trust"
                )
            target = folder / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as file:
                    file.writelines(_content(archive, opened))
            except OSError as error:
                error.filename = error.filename or str(target)  # that of a full disk has none
                raise
            yield path


def _members(
    archive: Path,
) -> Generator[tuple[str, bool, Callable[[], IO[bytes] | None]], None, None]:
    """(path, whether it is a plain file, a function that opens it) of all members but folders."""
    with _damage_named(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for entry in opened.infolist():
                    if not entry.is_dir():
                        # The upper half holds the Unix mode; archives made elsewhere leave it 0.
                        kind = stat.S_IFMT(entry.external_attr >> 16)
                        plain = kind in (0, stat.S_IFREG)
                        yield entry.filename, plain, partial(opened.open, entry)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                for member in tar:
                    # Or it keeps them all, gigabytes for a million clips.
                    tar.members = []  # type: ignore[attr-defined]
                    if not member.isdir():
                        yield member.name, member.isfile(), partial(tar.extractfile, member)
                _check_end(tar)
        else:
            raise UserError(f"{archive}: neither a tar nor a zip archive, or damaged; get it again")


def _content(archive: Path, opened: Callable[[], IO[bytes] | None]) -> Iterator[bytes]:
    """The bytes of a member, piece by piece."""
    with _damage_named(archive):
        source = opened()
        assert source is not None  # plain files have content
        with source:
            while chunk := source.read(_CHUNK):
                yield chunk


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Around what reads an archive, and nothing else: what fails in it is a UserError."""
    try:
        yield
    except _DAMAGED as error:
        raise UserError(
            f"{archive}: the archive is damaged or cannot be unpacked ({error}); get it again"
        ) from None


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise tarfile.ReadError unless nothing but zeros follows the last member.

    tarfile takes a damaged header for the end of the archive. Reading on also checks the sums that
    a compressed file ends with.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)  # of the header that tarfile could not read
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if not rest:
        raise tarfile.ReadError("it lacks the zeros that end an archive: cut short")
    while rest:
        if any(rest):
            raise tarfile.ReadError(f"no header at byte {tar.offset:,}, and no end of the archive")
        rest = tar.fileobj.read(_CHUNK)
