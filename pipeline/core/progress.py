"""How far a running stage is: a small file beside its artifact, written by the stage and read by whoever asks.

`<artifact>.part/progress.json`, gone when the stage ends; one that is left belongs to a run that was killed.
docs/artifacts.md lists its fields. While Snakemake runs, `watch` reads the files of all jobs, on this machine or on a
cluster's nodes, and prints a line about each now and then.

No numpy, no torch: Snakemake imports this.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
FILE = "progress.json"
WRITE = 1.0  # seconds between two writes of the file, at least
LOOK = 5.0  # seconds between two looks at the files
SAY = 20.0  # seconds between two lines about one stage
WIDTH = 80  # of a terminal


_at_work: list[Progress] = []  # the last one; a stage of several trainings has one after the other


class Progress:
    """What a stage has done, of how much.

    folder: scratch folder of the artifact. done: what an earlier run did. The rate counts from here on.
    """

    def __init__(self, folder: Path, of: int, unit: str, done: int = 0, clock: Callable[[], float] = time.monotonic):
        self.file, self.of, self.unit, self.done = folder / FILE, of, unit, done
        self._began, self._before, self._written = clock(), done, -math.inf
        self._clock: Callable[[], float] = clock
        job = os.environ.get("SLURM_JOB_ID", "")
        self._said: dict[str, Any] = {}
        self._made_by = {"host": platform.node(), "pid": os.getpid(), "job": job, "started": now()}
        _at_work[:] = [self]
        self.at(done)
        atexit.register(self._end)

    def _end(self) -> None:
        with suppress(OSError):  # read-only by now
            self.file.unlink()

    def at(self, done: int, **said: Any) -> None:
        """So much is done. said: what else the file shows: epoch, loss, images_per_second."""
        self.done, moment = done, self._clock()
        if moment - self._written < WRITE and done < self.of:
            return
        self._written, new = moment, done - self._before
        rate = new / max(moment - self._began, 1e-9)
        about = {"artifact": str(self.file.parent.with_suffix(".json")), "done": done, "of": self.of, "unit": self.unit}
        about |= {"rate": round(rate, 3), "seconds_left": round((self.of - done) / rate) if new > 0 else None}
        self._said = {**about, **said}
        self.note()

    def note(self, **more: Any) -> None:
        """Write the file, with this in it."""
        with suppress(OSError):  # a full disk is for what matters to complain about
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.file.with_suffix(".new")
            temporary.write_text(json.dumps({**self._said, **more, **self._made_by, "updated": now()}) + "\n")
            temporary.replace(self.file)

    def skip(self, number: int) -> None:
        """So many more were done before."""
        self._before += number
        self.at(self.done + number)

    def count(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each done once the next one is asked for."""
        for item in items:
            yield item
            self.at(self.done + 1)


def stopped(by: str) -> None:
    """Note in the file of the stage at work that a signal of this name ended it. For a signal's handler."""
    for progress in _at_work:
        progress.note(stopped=by)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


# --------------------------------------------------------------------------------------------------- reading them


def read(folder: Path) -> dict[str, Any] | None:
    """What the stage that works in this scratch folder says, or the part of it that was at work last; None: nothing."""
    found: list[tuple[float, dict[str, Any]]] = []
    for file in (folder / FILE, *folder.glob(f"*.part/{FILE}")):
        try:
            found.append((file.stat().st_mtime, json.loads(file.read_text())))
        except (OSError, ValueError):  # not there, or no longer
            continue
    return max(found, key=lambda pair: pair[0])[1] if found else None


def line(name: str, about: dict[str, Any]) -> str:
    """`seed0/imagenet/classify  epoch 3/12  loss 0.312  41 img/s  2:05 left`, at most a terminal wide if it can be."""
    parts = [about["epoch"] if "epoch" in about else f"{about['done']}/{about['of']} {about['unit']}"]
    if "loss" in about:
        parts.append(f"loss {about['loss']:.3g}")
    speed = about.get("images_per_second", about["rate"] if about["unit"] == "photographs" else None)
    if speed:
        parts.append(f"{speed:.3g} img/s")
    if about["seconds_left"] is not None:
        minutes, seconds = divmod(about["seconds_left"], 60)
        hours = f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else f"{minutes}"
        parts.append(f"{hours}:{seconds:02} left")
    text = "  ".join(parts)
    room = max(WIDTH - len(text) - 2, 20)
    return f"{name if len(name) <= room else '…' + name[1 - room :]}  {text}"


def watch(folders: dict[str, Path], say: Callable[[str], None]) -> None:
    """Called once when jobs are about to start: says, while they run, how far each of them is.

    folders: name → scratch folder, of every artifact that may be made. TAGMASK_PROGRESS: seconds between two lines
    about one stage, 0 for silence.
    """
    every = float(os.environ.get("TAGMASK_PROGRESS", SAY))
    if every > 0:
        threading.Thread(target=_watch, args=(folders, say, every), daemon=True).start()


def died(folders: dict[str, Path], since: str) -> Iterator[str]:
    """A line about each stage that worked on this machine after `since` (as `now` writes it) and is gone without an
    end: what was killed, for want of memory say, tells nobody. What SIGTERM ended has left a note of it."""
    for name, about in _all(folders).items():
        if about["host"] != platform.node() or about["updated"] < since:
            continue
        try:
            os.kill(about["pid"], 0)
        except ProcessLookupError:
            cause = f"stopped by {about['stopped']}" if "stopped" in about else "killed, for want of memory perhaps"
            yield f"{cause}: {line(name, {**about, 'seconds_left': None})}"
        except OSError:  # another user's
            continue


def _watch(folders: dict[str, Path], say: Callable[[str], None], every: float) -> None:
    shown = _all(folders)  # what earlier runs left
    due = dict.fromkeys(folders, time.monotonic() + every / 2)
    while True:
        time.sleep(min(LOOK, every))
        for name, about in _all(folders).items():
            if about != shown.get(name) and about["done"] and time.monotonic() >= due[name]:
                shown[name], due[name] = about, time.monotonic() + every
                say(line(name, about))


def _all(folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: about for name, folder in folders.items() if (about := read(folder))}


def reused(jobs: Iterable[Any], to_run: Container[Any], root: str) -> str:
    """What of a run is there already, of Snakemake's jobs: '' where nothing is, or nothing is left to do.

    root: the folder of the artifacts, left out of their names.
    """
    jobs = [job for job in jobs if job.output]
    there = sorted(shown_name(str(job.output[0]), root) for job in jobs if job not in to_run)
    if not there or len(there) == len(jobs):
        return ""
    most = 12
    more = f" and {len(there) - most} more" if len(there) > most else ""
    return f"{len(there)} of {len(jobs)} results are there already and stay: {', '.join(there[:most])}{more}"


def shown_name(file: str, root: str) -> str:
    return file.removeprefix(f"{root}/").removesuffix(".json").removesuffix(".html")
