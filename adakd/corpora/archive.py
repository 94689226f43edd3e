"""Unpacking an archive that somebody else made: tar (also .gz, .bz2, .xz) or zip, files only.

Not a corpus. It writes only below the folder that it is given, and refuses links and odd paths.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from adakd.errors import UserError

_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    RuntimeError,  # what zipfile raises for a password or an unknown compression
)


def extract(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> int:
    """Write the files of `archive` for which `wanted(path in the archive)` holds below `folder`.

    Returns how many there were. Files that stand already are overwritten.
    Errors (UserError, naming the archive): no such file, neither tar nor zip, damaged, a wanted
    member that is a link or a device, or whose path would leave `folder`.
    """
    return sum(1 for _ in unpack(archive, folder, wanted))


def unpack(
    archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[PurePosixPath]:
    """Like `extract`, but yields the path of each file once it is written, for a progress bar."""
    if not archive.is_file():
        raise UserError(f"{archive}: there is no such archive; check the path")
    try:
        with closing(_members(archive)) as members:
            for name, plain, content in members:
                path = PurePosixPath(name)
                if not wanted(path):
                    continue
                if not plain or path.is_absolute() or ".." in path.parts or "\\" in name:
                    raise UserError(
                        f"{archive}: refused to unpack '{name}', which is a link or leads out of "
                        "its folder; get the archive from a place you trust"
                    )
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                source = content()
                assert source is not None  # plain files have content
                with source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
                yield path
    except _DAMAGED as error:
        raise UserError(
            f"{archive}: the archive is damaged or cannot be unpacked ({error}); get it again"
        ) from None


def _members(
    archive: Path,
) -> Generator[tuple[str, bool, Callable[[], IO[bytes] | None]], None, None]:
    """(path, whether it is a plain file, a function that opens it) of all members but folders."""
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
                if not member.isdir():
                    yield member.name, member.isfile(), partial(tar.extractfile, member)
    else:
        raise UserError(f"{archive}: neither a tar nor a zip archive, or damaged; get it again")
