"""One process an artifact: a Snakemake that was killed may leave a job at work, and the next one begin it again."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.store import ArtifactError, part_of

FILE = "lock"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold an artifact (its manifest's path) while it is made. Raises ArtifactError where another process does.

    A record lock on `<artifact>.part/lock`: it goes with its process, however that ends, and is not handed on to
    processes that this one begins. Network file systems keep it over machines; one that has no locks holds nobody up.
    """
    made = [folder for folder in (part_of(out), *part_of(out).parents) if not folder.exists()]
    file = part_of(out) / FILE
    handle = _take(out, file)
    try:
        yield
    finally:
        with suppress(OSError):  # gone with its folder, when the artifact was finished
            if os.fstat(handle).st_ino == file.stat().st_ino:
                file.unlink()
        os.close(handle)
        with suppress(OSError):  # no longer empty
            for folder in made or [part_of(out)]:
                folder.rmdir()


def _take(out: Path, file: Path) -> int:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its last holder ended just now, and the folder with it
            continue
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            who = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ArtifactError(
                f"{out}: another process is making it ({who}); wait until it ends, or stop it, and run again"
            ) from None
        except OSError:
            return handle
        with suppress(FileNotFoundError):
            if file.stat().st_ino == os.fstat(handle).st_ino:
                os.truncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
                return handle
        os.close(handle)  # removed by its last holder
