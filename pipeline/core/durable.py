"""Writing that survives a kill and a loss of power: data reach the disk before the name that vouches for them.

`write_atomic` is the one atomic writer of the project; Zarr writes through it too (`DurableStore`). A file is written
beside its place, synced, renamed, and then its folder is synced; so whoever finds a name finds the whole content.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from zarr.storage import LocalStore

LONGEST = 255  # bytes of a file's name


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, and the folders above it, so that it is either whole and on the disk, or as it was before."""
    folders = _make_folders(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(temporary.name)) > LONGEST:
        temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.{os.getpid()}")
    try:
        with _named(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            _sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for folder in folders:
        sync_folder(folder)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """As `write_atomic`, of what is too large to be held: a file to write into, which gets its name once the block is
    through. After an error in it everything is as it was before.

    Not what `write_atomic` is made of: an edit there would run every stage anew, of which it is a part.
    """
    folders = _make_folders(path.parent)
    remove_temporaries(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _named(path), temporary.open("wb") as file:
            yield file
            _sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for folder in folders:
        sync_folder(folder)


def append(path: Path, line: str) -> None:
    """Add a line to a file that exists. A loss of power may cut it short, never the lines before it."""
    with _named(path), path.open("a") as file:
        file.write(line + "\n")
        _sync(file)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for good."""
    for changed in _make_folders(folder)[1:]:
        sync_folder(changed)


def rename(path: Path, target: Path) -> None:
    """Rename a folder, for good; the folder that is to hold it is made."""
    folders = _make_folders(target.parent)
    path.rename(target)
    for folder in (*folders, path.parent):
        sync_folder(folder)


def unlink(path: Path) -> None:
    """Remove a file, for good, if it is there."""
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def discard(folder: Path) -> None:
    """Remove a folder. Renamed first: a kill must not leave half of it under its real name."""
    shutil.rmtree(doomed(folder), ignore_errors=True)
    if folder.is_dir():
        folder.rename(doomed(folder))
        shutil.rmtree(doomed(folder))


def doomed(folder: Path) -> Path:
    """The name of a folder that is being removed."""
    return folder.with_name(f".{folder.name}.discarded")


def settle(folder: Path) -> None:
    """Make a tree as if no `write_atomic` in it had been killed: no temporary files, all names on the disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            if fnmatch.fnmatch(name, ".*.[0-9]*"):
                Path(path, name).unlink(missing_ok=True)
        sync_folder(Path(path))


def remove_temporaries(path: Path) -> None:
    """Remove what killed calls of `write_atomic` left of a file."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems refuse folders; they keep names by other means
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of writing says which file it was: the system names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder; returns it and the folders above it that got a new name, deepest first."""
    changed = [folder]
    while not changed[-1].is_dir() and changed[-1] != changed[-1].parent:
        changed.append(changed[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    return changed


class DurableStore(LocalStore):
    """Zarr's folder store, every file written by `write_atomic`. Zarr itself syncs nothing."""

    async def set(self, key: str, value: Any) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Any) -> None:
        self._check_writable()
        write_atomic(self.root / key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await self.set(key, value)
