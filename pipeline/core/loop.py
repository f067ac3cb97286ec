"""Parts of a training loop, each usable alone: loss terms, checkpoint, stop signals, curves, loader processes.

`core/train.py` is the loop of the ordinary methods and is built from them. A method whose loop has another shape
(several optimizers, an inner loop) writes its own around the same parts; tests/test_train.py holds one in 30 lines.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.durable import sync_folder
from pipeline.core.job import InputError
from pipeline.core.processes import end_with_parent, usable_cores

Batch = TypeVar("Batch")
AHEAD = 2  # batches that each loader process prepares, torch's default
POLL_SECONDS = 2.0  # between two looks at whether to stop, while a batch is waited for
LOAD_SECONDS = 600.0  # for a batch; one of 16 large photographs from a slow network disk takes a minute
STOP = (signal.SIGTERM, signal.SIGINT)

# --------------------------------------------------------------------------------------------------- loss terms

Losses = dict[str, tuple[Tensor, Tensor]]
"""Name → (sum over what was counted, how much was counted), scalars: pixels, images, patches. What is not a mean over
samples, such as a decay of weights, has count 1."""


def quotients(losses: Losses) -> dict[str, Tensor]:
    """Each term's part of the objective: sum / count, and 0 without gradient where nothing was counted.

    Where torch.distributed is initialised, counts are added up over the processes, and each process's sum is
    multiplied by their number: the mean over the processes, which DistributedDataParallel takes of the gradients, is
    then the quotient of the whole batch, however unevenly it was split. Every process must bring the same terms in the
    same order.
    """
    counts = [count.detach().to(total) for total, count in losses.values()]
    world = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        together = torch.stack([count.double() for count in counts])
        torch.distributed.all_reduce(together)
        counts = [count.to(total) for count, (total, _) in zip(together, losses.values(), strict=True)]
    out = {}
    for (name, (total, _)), count in zip(losses.items(), counts, strict=True):
        some = count > 0
        # Not clamped at a tiny number: times the number of processes, its inverse is infinite, and 0 · ∞ is NaN.
        quotient = total * world / torch.where(some, count, torch.ones_like(count))
        out[name] = torch.where(some, quotient, torch.zeros_like(quotient))
    return out


def objective(losses: Losses) -> Tensor:
    """What is minimised: the sum of all terms' sum / count. Over several processes see `quotients`."""
    return torch.stack(list(quotients(losses).values())).sum()


# --------------------------------------------------------------------------------------------------- checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A training's state in one file, whole or absent, and on the disk once `save` returns.

    fingerprint says what the training is made from: settings, code, inputs. A file of another one is not taken up.
    """

    path: Path
    fingerprint: str

    def save(self, parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """parts: name → anything with state_dict(): models, optimizers. state: numbers, texts, tensors, lists and
        dicts of them, as `torch.load(weights_only=True)` reads them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "fingerprint": self.fingerprint,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "state": dict(state),
        }
        temporary = self.path.with_suffix(".new")
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        sync_folder(self.path.parent)  # the new name, too

    def load(self, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Bring the parts to the saved state and return the rest of it; None where there is nothing to go on from.

        Raises ValueError when the parts are not those that were saved.
        """
        if not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes may fail anywhere: the archive, the pickle, a tensor
            _warn(f"{self.path}: cannot be read ({type(error).__name__}: {error}); the training begins anew")
            return None
        if content["fingerprint"] != self.fingerprint:
            return None
        if content["parts"].keys() != parts.keys():
            raise ValueError(f"{self.path}: holds {sorted(content['parts'])}, {sorted(parts)} expected; delete it")
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
        return content["state"]


# ------------------------------------------------------------------------------------------------------ signals


class Interrupted(SystemExit):
    """A stop signal arrived and the checkpoint is saved: run the same command again to go on. Exit status 1."""


class Stop:
    """What `stop_signals` gives: `asked` is the name of the signal that arrived, '' before."""

    asked = ""


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn SIGTERM (a cluster's time limit) and SIGINT (Ctrl-C) into a request to save and leave.

    The loop looks at `stop.asked` after each iteration, saves, and raises `Interrupted`. A second SIGINT kills at
    once, unsaved. A signal that the process was started to ignore (nohup, a shell's background job) stays ignored.
    In the main thread only.
    """
    stop, owner = Stop(), os.getpid()

    def ask(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process forked in here: stopping is for the loop to decide
            return
        stop.asked = stop.asked or signal.Signals(signum).name
        hint = ""
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            hint = "; again: at once, unsaved"
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"{signal.Signals(signum).name}: stopping after this iteration{hint}\n".encode())

    before = {signum: signal.getsignal(signum) for signum in STOP}
    taken = [signum for signum in STOP if before[signum] != signal.SIG_IGN]
    for signum in taken:
        signal.signal(signum, ask)
    try:
        yield stop
    finally:
        for signum in taken:
            signal.signal(signum, before[signum])


# ------------------------------------------------------------------------------------------------------- curves


class Curves:
    """Means per epoch of named values: printed, written as TensorBoard events, and carried through a checkpoint.

    board: folder of the event files; None, or tensorboard not installed: no files. state: what `state()` gave before.
    """

    def __init__(self, board: Path | None = None, state: Mapping[str, Any] | None = None):
        self._open: dict[str, list[float]] = {}  # name → [sum, how many], of the epoch under way
        self._epochs: list[dict[str, float]] = []
        if state is not None:
            self._open = {name: list(pair) for name, pair in state["open"].items()}
            self._epochs = [dict(epoch) for epoch in state["epochs"]]
        self._writer = _writer(board, len(self._epochs) + 1) if board else None

    def add(self, values: Mapping[str, float]) -> None:
        """The values of one iteration. An iteration may leave some out: they count where they are."""
        for name, value in values.items():
            pair = self._open.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1

    def end_epoch(self, title: str, note: str = "") -> None:
        """Close the epoch and print one line: title, the means, note."""
        means = {name: total / count for name, (total, count) in self._open.items()}
        self._open = {}
        self._epochs.append(means)
        if self._writer:
            for name, mean in means.items():
                self._writer.add_scalar(name, mean, len(self._epochs))
        print("  ".join([title, *(f"{name} {mean:.4f}" for name, mean in means.items()), *filter(None, [note])]))
        sys.stdout.flush()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, also in the middle of an epoch."""
        return {
            "open": {name: list(pair) for name, pair in self._open.items()},
            "epochs": [dict(epoch) for epoch in self._epochs],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """{"curve_<name>": float32 [epochs]}; NaN in epochs without the value."""
        names = dict.fromkeys(name for epoch in self._epochs for name in epoch)
        return {
            f"curve_{name}": np.array([epoch.get(name, np.nan) for epoch in self._epochs], np.float32) for name in names
        }

    def close(self) -> None:
        """Finish the event files."""
        if self._writer:
            self._writer.close()
            self._writer = None


def _writer(board: Path, step: int) -> Any:
    """Events from this step on; what a killed run wrote of them before is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _warn("tensorboard is not installed: no event files")
        return None
    return SummaryWriter(str(board), purge_step=step if step > 1 else None)


# --------------------------------------------------------------------------------------------- loader processes


def loader_workers(asked: int) -> int:
    """Loader processes to start: as asked, but never more than this process may use cores. Says so once."""
    cores = usable_cores()
    if asked > cores:
        _warn(f"workers: {asked} asked for, {cores} started: more than the usable cores would only wait")
    return min(asked, cores)


def room_for(workers: int, batch: int, folder: str = "/dev/shm") -> bool:
    """Whether that many loaders can hand on batches of so many bytes; says so where not. They go through shared memory,
    of which a container may have little, and a loader that finds none left says nothing and hands on nothing."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # not on this system
        return True
    needed = workers * (AHEAD + 1) * batch  # each prepares some, and one is being trained on
    if free < needed:
        _warn(
            f"{folder}: {free >> 20} MB free, {workers} loader(s) need {-(-needed >> 20)} MB; photographs are loaded "
            "without them, one after the other. Enlarge it (docker run --shm-size), or set compute.workers: 0"
        )
    return free >= needed


def batches(loader: Iterable[Batch], stop: Stop, longest: float = LOAD_SECONDS) -> Iterator[Batch]:
    """The loader's batches, until there are no more or `stop.asked`, be it while one is waited for.

    A loader with processes must have a timeout, of a few seconds. Raises InputError where no batch comes for `longest`
    seconds, or a process of the loader dies.
    """
    coming, waited = iter(loader), time.monotonic()
    while not stop.asked:
        try:
            batch = next(coming)
        except StopIteration:
            return
        except RuntimeError as error:  # torch has one for all; no iteration is under way, so it is the loader's
            remedy = "enlarge /dev/shm (docker run --shm-size) or the job's memory, or set compute.workers: 0"
            if "DataLoader timed out" not in str(error):
                if "DataLoader worker (pid" in str(error):
                    raise InputError(f"a loader process died ({error}); {remedy}") from None
                raise
            if time.monotonic() - waited > longest:
                raise InputError(
                    f"no photographs came from the loader processes for {longest:.0f} s; {remedy}"
                ) from None
            continue
        yield batch
        waited = time.monotonic()


def ignore_stop_signals(number: int = 0) -> None:
    """For a loader's processes (`worker_init_fn`). Ctrl-C and clusters signal every process of a job: loaders that
    died of it would take the run down before it has saved. They end with the loop's process."""
    for signum in STOP:
        signal.signal(signum, signal.SIG_IGN)
    end_with_parent()


@functools.cache
def _warn(message: str) -> None:
    """Once per process."""
    print(message, file=sys.stderr, flush=True)
