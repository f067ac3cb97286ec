"""The one training loop. A method passes a step function (model, batch) → loss terms; there is nothing to inherit.

It does precision (bf16 autocast), channels_last, schedules, checkpoints, resume, TensorBoard files and plain log lines,
and stops on a loss that is not finite. Every iteration's randomness follows from (seed, iteration), so a run that was
killed and resumed gives the bytes of an undisturbed one (CPU, same number of threads).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.core.job import Job
from pipeline.core.loop import (
    POLL_SECONDS,
    Checkpoint,
    Curves,
    Interrupted,
    Losses,
    batches,
    ignore_stop_signals,
    loader_workers,
    quotients,
    room_for,
    stop_signals,
)
from pipeline.core.progress import Progress
from pipeline.core.steps.base import CropTraining, Training

Sample = dict[str, np.ndarray]
Cut = Callable[[int, np.random.Generator], Sample]
USUAL_MOMENTUM = 0.1  # torch's, of running statistics
CHECKPOINT_SECONDS = float(os.environ.get("CHECKPOINT_SECONDS", 120))


@dataclass(frozen=True)
class _Plan(torch.utils.data.Dataset[Sample]):
    """The samples of the iterations still to do, in order."""

    cut: Cut
    rows: np.ndarray
    seed: int
    batch: int
    first: int  # iteration
    last: int

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.rows) // self.batch)

    def __len__(self) -> int:
        return (self.last - self.first) * min(self.batch, len(self.rows))

    def __getitem__(self, number: int) -> Sample:
        size = min(self.batch, len(self.rows))
        iteration, slot = self.first + number // size, number % size
        epoch, within = divmod(iteration, self.per_epoch)
        order = _order(len(self.rows), self.seed, epoch)
        position = int(order[within * size + slot])
        return self.cut(int(self.rows[position]), np.random.default_rng((self.seed, 1, epoch, position)))


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    global _last_order  # a permutation per epoch, asked for once per sample
    if _last_order is None or _last_order[0] != (count, seed, epoch):
        _last_order = (count, seed, epoch), np.random.default_rng((seed, 0, epoch)).permutation(count)
    return _last_order[1]


def fit(
    model: nn.Module,
    rows: np.ndarray,
    cut: Cut,
    step: Callable[[nn.Module, dict[str, torch.Tensor]], Losses],
    job: Job,
    heads: Callable[[nn.Module], list[nn.Parameter]] | None = None,
    collate: Callable[[list[Sample]], dict[str, torch.Tensor]] | None = None,
) -> dict[str, np.ndarray]:
    """Train a model in place on samples `cut(row, rng)` of these rows.

    step returns loss terms as (sum, count); the sum of their quotients is minimised. heads names the parameters that
    learn `head_lr` times faster.
    Returns the curves: {"curve_<term>": float32 [epochs]}, means per epoch.
    Raises FloatingPointError when a loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    settings: Training = job.settings
    model.to(job.device).to(memory_format=torch.channels_last).train()
    per_epoch = max(1, len(rows) // settings.batch)
    total = max(1, round(settings.epochs * per_epoch))
    optimizer = _optimizer(model, settings, heads(model) if heads else [])
    checkpoint = Checkpoint(job.part / "checkpoint.pt", job.header.fingerprint())
    parts = {"model": model, "optimizer": optimizer}
    state = checkpoint.load(parts) or {"iteration": 0, "curves": None}
    if state["iteration"]:
        print(f"going on after iteration {state['iteration']}", flush=True)
    plan = _Plan(cut, rows, job.seed, settings.batch, state["iteration"], total)
    workers = loader_workers(job.workers)
    if workers and len(plan):
        sample = plan[0]  # of a random state of its own: cut again, it is the same
        size = sum(value.nbytes for value in sample.values()) * min(settings.batch, len(rows))
        workers = workers if room_for(workers, size) else 0
    loader = torch.utils.data.DataLoader(
        plan,
        min(settings.batch, len(rows)),
        num_workers=workers,
        collate_fn=collate or to_batch,
        worker_init_fn=ignore_stop_signals,
        timeout=POLL_SECONDS if workers else 0,
        multiprocessing_context="fork" if workers else None,  # a cut is a closure and cannot be pickled
    )
    curves = Curves(_board(job.out), state["curves"])
    slow = _slow_norms(model)
    progress = Progress(job.part, total, "iterations", state["iteration"])
    started = saved = time.monotonic()
    done = plan.first
    with stop_signals() as stop:
        for iteration, batch in enumerate(batches(loader, stop), plan.first):
            torch.manual_seed(job.seed * 1_000_003 + iteration)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate(settings, iteration / total)
            _let_forget(slow)
            terms = _advance(model, optimizer, step, batch, job)
            for name, value in terms.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{job.out}: {name} is {value} at iteration {iteration + 1} of {total}; lower lr "
                        f"(now {settings.lr}) or use --precision f32"
                    )
            curves.add(terms)
            done = iteration + 1
            speed = (done - plan.first) * min(settings.batch, len(rows)) / (time.monotonic() - started)
            title = f"epoch {math.ceil(done / per_epoch)}/{math.ceil(settings.epochs)}"
            progress.at(done, epoch=title, loss=sum(terms.values()), images_per_second=round(speed, 1))
            if done % per_epoch == 0 or done == total:
                curves.end_epoch(title, f"{speed:.1f} img/s")
            # Also after the last: a kill between training and the end of the stage must not cost the training.
            if not stop.asked and (done == total or time.monotonic() - saved > CHECKPOINT_SECONDS):
                checkpoint.save(parts, {"iteration": done, "curves": curves.state()})
                saved = time.monotonic()
        if stop.asked:
            checkpoint.save(parts, {"iteration": done, "curves": curves.state()})
            curves.close()
            raise Interrupted(
                f"{job.out}: stopped by {stop.asked} after iteration {done} of {total}; run again to go on"
            )
    curves.close()
    for norm, own in slow:
        norm.momentum = own
    model.eval()
    return curves.arrays()


Norm = nn.modules.batchnorm._BatchNorm


def _slow_norms(model: nn.Module) -> list[tuple[Norm, float]]:
    """The BatchNorms whose running statistics move more slowly than torch's own, and their momentum."""
    norms = [
        module for module in model.modules() if isinstance(module, Norm) and module.num_batches_tracked is not None
    ]
    return [(norm, norm.momentum) for norm in norms if norm.momentum is not None and norm.momentum < USUAL_MOMENTUM]


def _let_forget(slow: list[tuple[Norm, float]]) -> None:
    """Let statistics that come from few batches yet move as usual, then ever more slowly down to their own momentum.

    EfficientNet's 0.01 is meant for some hundred thousand batches. After 160 from random weights a fifth of them would
    still be the 0 and 1 they began at, and the network in use another than the one that was trained. The counter goes
    on from step to step with the weights; ImageNet's stands high (networks/imagenet.py), so those keep their pace.
    """
    if not slow:
        return
    seen = int(slow[0][0].num_batches_tracked)  # type: ignore[arg-type]
    for norm, own in slow:
        norm.momentum = max(own, min(USUAL_MOMENTUM, 10 / (10 + seen)))


def _board(out: Path) -> Path:
    """Folder of TensorBoard events: under logs/tensorboard/, beside the results folder's other logs."""
    return Path("logs/tensorboard", *out.with_suffix("").parts[out.is_absolute() :])


def _advance(model: nn.Module, optimizer: Any, step: Any, batch: dict[str, torch.Tensor], job: Job) -> dict[str, float]:
    batch = {name: value.to(job.device, non_blocking=True) for name, value in batch.items()}
    with autocast(job.device, job.precision):
        losses = step(model, batch)
    terms = quotients(losses)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


def autocast(device: str, precision: str) -> torch.autocast:
    """bf16 autocast, or nothing for f32."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16")


def to_batch(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Samples → tensors; images become channels_last."""
    batch = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in batch.items()
    }


def rate(settings: Training, t: float) -> float:
    """Factor on the learning rate at share t of the training."""
    if t < settings.warmup:
        return max(t / settings.warmup, 0.01)
    match settings.schedule:
        case "poly":
            return (1 - t) ** 0.9
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * t))
        case "step":
            return 0.1 ** sum(t >= milestone for milestone in settings.milestones)
    return 1.0


def _optimizer(model: nn.Module, settings: Training, heads: list[nn.Parameter]) -> torch.optim.Optimizer:
    new = {id(parameter) for parameter in heads}
    slow = [p for p in model.parameters() if p.requires_grad and id(p) not in new]
    fast = [p for p in heads if p.requires_grad]
    faster = settings.head_lr if isinstance(settings, CropTraining) else 1.0
    groups = [{"params": slow, "base": settings.lr}, {"params": fast, "base": settings.lr * faster}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
