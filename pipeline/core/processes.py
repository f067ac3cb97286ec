"""Spreading images over processes, one image a core (saliency, dense CRF, networks on a CPU), or over batches (a GPU).

A network over single photographs is many small operations, and threads lose more by waiting for each other than they
gain: class activation maps of EfficientNet-Lite0 (three scales, mirrored, 192 px) come at 12 images a second from two
threads, and at 28 from two processes. A GPU waits for so small operations, too: it gets batches.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_work: Callable | None = None


def usable_cores(system: Path = Path("/")) -> int:
    """Cores this process may keep busy: those it may run on (affinity, a container's cpuset), and no more than its
    control groups and those above them grant it of their time (`docker --cpus`, Kubernetes limits; 1.5 cores are 2).

    system: where /proc and /sys lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = [cores, *(math.ceil(share) for share in _quotas(system) if share > 0)]
    return max(1, min(granted))


def _quotas(system: Path) -> Iterator[float]:
    """Cores' worth of time that each control group of this process may use, of both versions; those without a limit
    left out."""
    try:
        groups = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for number, controllers, name in (line.split(":", 2) for line in groups):
        mount = {"0": "sys/fs/cgroup"}.get(number, "sys/fs/cgroup/cpu" if "cpu" in controllers.split(",") else "")
        # In a container the name may be the host's, and the mount shows the container's own group at its top.
        for folder in [Path(name.lstrip("/")), *Path(name.lstrip("/")).parents] if mount else []:
            with suppress(OSError, ValueError, ZeroDivisionError):  # 'max', or no such file
                if number == "0":
                    quota, period = (system / mount / folder / "cpu.max").read_text().split()
                else:
                    files = (system / mount / folder / f"cpu.cfs_{part}_us" for part in ("quota", "period"))
                    quota, period = (file.read_text() for file in files)
                yield int(quota) / int(period)


def _call(item: Item) -> object:
    return _work(item)  # type: ignore[misc]


def _begin() -> None:
    """A process is one core's share; and torch's thread pool does not survive a fork, so none may be asked for.
    Ctrl-C, which every process of a terminal gets, is for the one that began it; when that one is gone, this one ends,
    too: it would wait for work for ever, and hold memory and locks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def end_with_parent() -> None:
    """Kill this process when the one that began it ends, however it ends. On Linux; elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def over_processes(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """work(item) for every item, in order, over forked processes (which inherit `work` and all it refers to).

    Raises BrokenProcessPool when a process is killed, for want of memory say.
    """
    items = list(items)
    if processes <= 1 or len(items) < 2:
        yield from map(work, items)
        return
    global _work
    _work = work
    processes = min(processes, len(items))
    with ProcessPoolExecutor(processes, get_context("fork"), _begin) as pool:
        try:
            chunk = min(8, max(1, len(items) // (4 * processes)))
            yield from pool.map(_call, items, chunksize=chunk)  # type: ignore[misc]
        except BaseException:  # Ctrl-C too: not after all that is still to do
            pool.shutdown(cancel_futures=True)
            raise


def in_batches(
    work: Callable[[list[Item]], Iterable[Result]],
    items: Iterable[Item],
    shape: Callable[[Item], Hashable],
    most: int,
    processes: int = 1,
    ahead: int = 256,
) -> Iterator[Result]:
    """What work(batch) gives for each of its items, in the order of `items`. most: 1: one by one, over processes.

    All items of a batch have the same shape, and there are at most `most` of them: the oldest that waits, and those
    like it among the next `ahead`. No more items and results than that are held at once.
    """
    if most == 1 and processes > 1:
        yield from over_processes(lambda item: next(iter(work([item]))), items, processes)
        return
    coming = enumerate(items)
    waiting: list[tuple[int, Item]] = []
    done: dict[int, Result] = {}
    given = 0
    while True:
        waiting += islice(coming, (ahead if most > 1 else 1) - len(waiting) - len(done))
        if not waiting:
            return
        first = shape(waiting[0][1])
        batch = [(i, item) for i, item in waiting if shape(item) == first][:most]
        done.update(zip((i for i, _ in batch), work([item for _, item in batch]), strict=True))
        waiting = [(i, item) for i, item in waiting if i not in done]
        while given in done:
            yield done.pop(given)
            given += 1


def run_code_of(folder: str | os.PathLike[str]) -> None:
    """Commands that this process begins run the `pipeline` that lies there, whatever is installed or called from."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.fspath(folder), before]))
