"""How long a job may take and how much memory it may use, from the size of the data and the method's settings.

A method says two things about one photograph, in its settings class (core/steps/):

    passes(side)   how often a network runs forward over it whole, at its stored size (longer side `side`): a training
                   step counts as three passes, a crop or another scale by its area
    seconds(side)  what all else costs one core, per megapixel of the stored photograph

Estimates come with a margin, because a job that Slurm stops at its time limit loses minutes (it goes on from its last
shard or checkpoint when Snakemake tries again, with twice the time), while one that asks for too much waits longer in
the queue. Measured here, from the benchmark files of 1,100 VOC photographs at 192 px with EfficientNet-Lite0, per core
with AVX512-BF16, in megapixels of passes a second: class activation maps 2.4, training a classifier 1.6, a segmentation
network 1.1. Dense CRF 1.6 s a megapixel, saliency (rbd) 0.4 to 0.7 s. Memory of training: 1.3 to 2.9 GB a megapixel of
a batch, and 0.6 GB for each loading process. The GPU's rate is a guess: a ResNet-101 at stride 8 on a card of 2017,
fed by one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

MARGIN = 4.0
LEAST_MINUTES = 10
LEAST_MEMORY = 1500  # MB: two Snakemakes and Python with torch
CUDA = 3000  # MB of the host's memory that torch and the driver's libraries take beside a GPU; guessed
CORE = 1.0  # megapixels a second that a network passes over on one core
GPU = 16.0  # the same of a GPU; guessed
SHARED = 0.7  # of a core's speed is left where all cores of a job work
START = 60.0  # seconds until the first photograph: imports, opening stores, a cold file system


class Method(Protocol):
    """What is asked of a settings class."""

    @property
    def trains(self) -> bool: ...
    def passes(self, side: int) -> float: ...
    def seconds(self, side: int) -> float: ...


@dataclass(frozen=True)
class Each:
    """Work without a network that costs as much for every photograph, however small it is stored."""

    cost: float  # seconds of one core
    trains: bool = False

    def passes(self, side: int) -> float:
        return 0.0

    def seconds(self, side: int) -> float:
        return self.cost * 1e6 / (side * side)


PREPARE = Each(0.05)  # reads a photograph of a few megapixels, as cameras make them
SCORE = Each(0.3)  # compares at original resolution, after at most a few passes of a network


def minutes(
    method: Method,
    photographs: int,
    side: int,
    threads: int,
    gpu: bool,
    attempt: int = 1,
    longest: int | None = None,
) -> int:
    """Minutes to ask for, at least 10 and at most `longest`: twice as many at each further attempt.

    photographs: how many the data set has; side: its longer side as stored, pixels (data.max_side); threads: cores that
    the job gets; gpu: whether its network runs on a GPU.
    """
    work = START + seconds(method, photographs, side, threads, gpu)
    asked = max(LEAST_MINUTES, math.ceil(MARGIN * work / 60)) * 2 ** (attempt - 1)
    return asked if longest is None else min(asked, longest)


def seconds(method: Method, photographs: int, side: int, threads: int, gpu: bool) -> float:
    """What the work itself takes, without margin and start."""
    cores = 1 + (threads - 1) * SHARED
    rate = GPU if gpu else CORE * cores
    return photographs * side * side / 1e6 * (method.passes(side) / rate + method.seconds(side) / cores)


def memory(method: Method, side: int, threads: int, gpu: bool, workers: int = 0, attempt: int = 1) -> int:
    """Megabytes to ask for, at least 1500: half as much again at each further attempt.

    Training on a CPU keeps a batch's activations; its loading processes come on top. All else works on one photograph
    in each of `threads` processes, or in one beside a GPU. How many photographs there are does not matter: every stage
    holds a few shards.
    """
    if method.trains:
        crop = side if getattr(method, "whole", False) else getattr(method, "crop", None) or side
        asked = LEAST_MEMORY + 700.0 * workers
        asked += CUDA if gpu else 4000 * getattr(method, "batch", 1) * crop * crop / 1e6
    else:
        largest = max(1.0, *getattr(method, "scales", (1.0,))) * side
        asked = 500 + CUDA * gpu + (1 if gpu else threads) * (700 + 1000 * largest * largest / 1e6)
    return round(max(LEAST_MEMORY, asked) * (1 + (attempt - 1) / 2))
