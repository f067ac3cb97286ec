"""Minimum barrier distance (Strand et al. 2013), raster-scanned, compiled by numba: the core of MB+ saliency."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@njit(nogil=True)  # no cache on disk: that needs a folder it may write to
def barrier_distance(channel: F32, sweeps: int) -> F32:
    """Least barrier (highest minus lowest value) of a path to the border: f32 [H, W] -> f32 [H, W].

    Zhang 2015, algorithm 1: sweeps alternate between forwards and backwards, and a pixel prolongs the path of
    one of the two neighbours just visited if that helps. The border is at 0 and only the inside is swept, so
    the first sweep gives every pixel a path and no neighbour is ever without one.
    """
    height, width = channel.shape
    highest, lowest, distance = channel.copy(), channel.copy(), np.zeros_like(channel)
    distance[1:-1, 1:-1] = np.inf
    for sweep in range(sweeps):
        step = 1 - 2 * (sweep % 2)
        for y in range(1, height - 1) if step > 0 else range(height - 2, 0, -1):
            for x in range(1, width - 1) if step > 0 else range(width - 2, 0, -1):
                for ny, nx in ((y - step, x), (y, x - step)):
                    high, low = max(highest[ny, nx], channel[y, x]), min(lowest[ny, nx], channel[y, x])
                    if high - low < distance[y, x]:
                        distance[y, x], highest[y, x], lowest[y, x] = high - low, high, low
    return distance


barrier_distance(np.zeros((3, 3), np.float32), 1)  # compiled here, once: forked processes inherit it
