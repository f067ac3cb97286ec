"""Saliency: where the object probably is, from the picture alone, with no training and no labels.

Three published measures, chosen by name in `METHODS`:
  rbd  Zhu et al., "Saliency Optimization from Robust Background Detection", CVPR 2014. Regions. Default.
  mb+  Zhang et al., "Minimum Barrier Salient Object Detection at 80 FPS", ICCV 2015. Pixels. Fast.
       Said to be under patent: ask before commercial use.
  ft   Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009. A baseline.

Reads: photographs (`rgb` u8 [H, W, 3] each). Writes: saliency (u8 [H, W] each, 255 = most salient).
A map is f32 [H, W] from 0, its least salient pixel, to 1, its most salient: a picture without any object has
a 1, too. Only a picture of a single colour gives zeros throughout.
Cost per image on one core, 192x256 / 375x500: rbd 40 / 120 ms, mb+ 18 / 30 ms, ft 6 / 28 ms.
Letters: H, W picture; K regions; E pairs of neighbouring regions; B regions on the picture's border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d, maximum_filter, minimum_filter
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve
from scipy.spatial.distance import cdist
from skimage.color import rgb2lab
from skimage.morphology import reconstruction
from skimage.segmentation import slic

from pipeline.core import cli, store
from pipeline.core.job import InputError, Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.labels import Saliency
from pipeline.kinds import photographs
from pipeline.kinds.pixels import reduced, touching

U8 = NDArray[np.uint8]
Int = NDArray[np.int64]
Real = NDArray[np.floating[Any]]
F32 = NDArray[np.float32]

# rbd, Zhu 2014; sections are the paper's. Any of the first six, halved or doubled, costs 0.01 AUC at most.
SIGMA_COLOUR = 10.0  # section 3.2: Lab distance at which two colours stop being alike
SIGMA_BORDER = 1.0  # section 4: boundary connectivity at which a region becomes background
SIGMA_SPACE = 0.25  # section 4: reach of contrast, in picture sides
SMOOTH_FLOOR = 0.1  # section 5: least smoothness between neighbours, against islands in busy texture
BACKGROUND_WEIGHT = 5.0  # 1 in the paper, 5 in its authors' release: same ranking, emptier background
COMPACTNESS = 30.0  # SLIC's, in Lab: 20 to 50 do as well, 5 lets regions fray and loses 0.02 AUC
SLIC_ROUNDS = 5  # ten give no better maps
SLIC_BLUR = 1.0  # pixels; without it noise shatters the regions, and in the end slic merges all into one
PIXELS_PER_REGION = 16  # at least, so that the regions of a tiny picture still have a colour
# mb+, Zhang 2015
WORKING_SIDE = 300  # the longer side, in pixels, for which the paper gives its smoothing width
SWEEPS = 3  # enough for nearly every pixel
STRIP = 0.1  # width of the four border strips, as a share of the picture
STRIP_VARIANCE = 1.0  # added to a strip's covariance, which is singular where the border is plain


def frequency_tuned(rgb: U8) -> F32:
    """FT: Lab distance of each slightly blurred pixel from the picture's mean colour (Achanta 2009).

    u8 [H, W, 3] -> f32 [H, W] in [0, 1].
    """
    if _is_plain(rgb):
        return np.zeros(rgb.shape[:2], np.float32)
    lab = _lab(rgb)
    binomial = np.array([1, 4, 6, 4, 1]) / 16
    blurred = correlate1d(correlate1d(lab, binomial, 0, mode="nearest"), binomial, 1, mode="nearest")
    return _unit(_length(blurred - lab.mean((0, 1), dtype=np.float64)))


def minimum_barrier(rgb: U8) -> F32:
    """MB+: the barrier of colour between pixel and border, plus their contrast (Zhang 2015).

    u8 [H, W, 3] -> f32 [H, W] in [0, 1]. Made at 300 pixels a side or fewer, then enlarged: edges are soft.
    """
    if _is_plain(rgb):
        return np.zeros(rgb.shape[:2], np.float32)
    shrink = min(1.0, WORKING_SIDE / max(rgb.shape))
    height, width = (max(8, round(side * shrink)) for side in rgb.shape[:2])
    lab = _lab(_resize(rgb, (height, width)))
    distance = barrier_kernel()
    barrier = np.sum([distance(lab[..., c].copy(), SWEEPS) for c in range(3)], axis=0)
    saliency = _flatten(_unit(_unit(barrier) + _unit(_border_contrast(lab))))
    y, x = np.linspace(-height, height, height)[:, None], np.linspace(-width, width, width)
    centred = _unit(saliency * (1 - np.hypot(y, x) / np.hypot(height, width)))
    sharpened = 1 / (1 + np.exp(-10 * (centred - np.float32(0.5))))
    return _unit(_resize(sharpened, rgb.shape[:2]))


def barrier_kernel() -> Callable[[F32, int], F32]:
    """The compiled minimum barrier distance. Raises InputError when numba, which only mb+ needs, is not installed."""
    try:
        from pipeline.kernels.barrier import barrier_distance
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        raise InputError(
            "saliency algorithm 'mb+' needs numba, which is not installed: pip install 'tagmask[mb]', or use rbd or ft"
        ) from None
    return barrier_distance


def robust_background(rgb: U8, regions: int = 250) -> F32:
    """RBD: contrast to the regions that lean on the border, cleaned by least squares (Zhu 2014).

    u8 [H, W, 3] -> f32 [H, W] in [0, 1], constant on each of about `regions` SLIC regions. A region is
    background if its surroundings are, for their size, much border; an object that touches the border is not.
    """
    if _is_plain(rgb):
        return np.zeros(rgb.shape[:2], np.float32)
    regions = max(1, min(regions, rgb.shape[0] * rgb.shape[1] // PIXELS_PER_REGION))
    lab = _lab(rgb)
    compactness = COMPACTNESS / np.ptp(lab)  # because slic stretches what it is given to [0, 1]
    labels = slic(lab, regions, compactness, SLIC_ROUNDS, SLIC_BLUR, convert2lab=False, start_label=0)
    colour, position = _region_means(labels, lab)
    pairs = touching(labels)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    connectivity = _boundary_connectivity(colour, pairs, border)
    background = 1 - np.exp(-(connectivity**2) / (2 * SIGMA_BORDER**2))
    contrast = _unit(_background_weighted_contrast(colour, position, background))
    return _unit(_optimise(colour, pairs, BACKGROUND_WEIGHT * background, contrast))[labels]


METHODS = {"rbd": robust_background, "mb+": minimum_barrier, "ft": frequency_tuned}


def _is_plain(rgb: U8) -> bool:
    """True for one colour throughout, where every measure is rounding noise. Refuses what is no picture."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or min(rgb.shape[:2]) < 8:
        raise ValueError(f"saliency needs uint8 [H, W, 3], H and W >= 8; got {rgb.dtype} {list(rgb.shape)}")
    return bool((rgb == rgb[0, 0]).all())


def _lab(rgb: U8) -> F32:
    """CIE Lab, [H, W, 3] -> [H, W, 3]. In f32: half the time of f64, exact to far less than a grey level."""
    return rgb2lab(rgb / np.float32(255))


def _length(vectors: Real) -> Real:
    """Euclidean length along the last axis; `np.linalg.norm` takes far longer on so short an axis."""
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def _unit(values: Real) -> F32:
    """Stretch to [0, 1]; zeros where all is equal but for rounding."""
    low, span = values.min(), np.ptp(values)
    return np.zeros(values.shape, np.float32) if span < 1e-6 else ((values - low) / span).astype(np.float32)


def _resize(picture: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """u8 [H, W, 3] or f32 [H, W] to `size` = (height, width), averaging when it shrinks."""
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _flatten(saliency: F32) -> F32:
    """Remove bumps, then dents, narrower than a kernel, and keep edges (Zhang 2015, post-processing)."""
    width = max(1, round(50 * np.sqrt(saliency.mean()) * max(saliency.shape) / WORKING_SIDE))
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    opened = reconstruction(minimum_filter(saliency, width), saliency, "dilation", cross)
    return reconstruction(maximum_filter(opened, width), opened, "erosion", cross).astype(np.float32)


def _border_contrast(lab: F32) -> Real:
    """Mahalanobis distances to the colours of four border strips, summed: [H, W, 3] -> [H, W].

    Zhang 2015, backgroundness. The largest of the four is left out, which forgives an object on one side.
    """
    rows, columns = max(1, int(STRIP * lab.shape[0])), max(1, int(STRIP * lab.shape[1]))
    distances = []
    for strip in (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:]):
        colours = strip.reshape(-1, 3).astype(np.float64)
        covariance = np.cov(colours, rowvar=False) + STRIP_VARIANCE * np.eye(3)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
        distance = _length((lab - colours.mean(0)) @ whiten)
        distances.append(distance / max(distance.max(), 1e-6))
    return np.sum(distances, axis=0) - np.max(distances, axis=0)


def _region_means(labels: Int, lab: F32) -> tuple[Real, Real]:
    """Mean Lab colour [K, 3] and mean (y, x) in picture sides [K, 2] of the regions in labels [H, W]."""
    y, x = np.indices(labels.shape) / np.array(labels.shape)[:, None, None]
    flat = labels.ravel()
    sums = [np.bincount(flat, values.ravel()) for values in (*lab.transpose(2, 0, 1), y, x)]
    means = np.stack(sums, axis=1) / np.bincount(flat)[:, None]
    return means[:, :3], means[:, 3:]


def _boundary_connectivity(colour: Real, pairs: Int, border: Int) -> Real:
    """Border in a region's soft surroundings, over the root of their area: [K, 3], [E, 2], [B] -> [K].

    Zhu 2014, section 3.2. Surroundings fade with the length, in colour, of the shortest path. Border regions
    (in rising order) are all neighbours, so that a background cut in two by the object remains one.
    """
    count = len(colour)
    first, second = np.triu_indices(len(border), 1)
    codes = np.union1d(pairs @ (count, 1), border[first] * count + border[second])  # each pair once
    start, end = np.divmod(codes, count)
    steps = coo_array((_length(colour[start] - colour[end]), (start, end)), shape=(count, count))
    similarity = np.exp(-(dijkstra(steps.tocsr(), directed=False) ** 2) / (2 * SIGMA_COLOUR**2))
    return similarity[:, border].sum(1) / np.sqrt(similarity.sum(1))


def _background_weighted_contrast(colour: Real, position: Real, background: Real) -> Real:
    """Colour distance to all regions, near and background ones above all (Zhu 2014, section 4) -> [K]."""
    near = np.exp(-cdist(position, position, "sqeuclidean") / (2 * SIGMA_SPACE**2))
    return (cdist(colour, colour) * near) @ background


def _optimise(colour: Real, pairs: Int, background: Real, foreground: Real) -> Real:
    """The s [K] of least  sum background s^2 + sum foreground (s - 1)^2 + sum_pairs like (s_i - s_j)^2.

    Zhu 2014, section 5: its gradient set to zero. Regions all hang together and those on the border have some
    background, so there is one solution.
    """
    start, end = pairs.T
    like = np.exp(-(_length(colour[start] - colour[end]) ** 2) / (2 * SIGMA_COLOUR**2)) + SMOOTH_FLOOR
    half = coo_array((like, (start, end)), shape=(len(colour), len(colour)))
    weights = half + half.T
    system = diags_array(weights.sum(1) + background + foreground) - weights
    return np.atleast_1d(spsolve(system.tocsc(), foreground))


def run(job: Job) -> None:
    settings: Saliency = job.settings
    pictures, method = job.photographs, METHODS[settings.algorithm]
    side = pictures["rgb"].shape[1]
    if settings.algorithm == "mb+":
        barrier_kernel()  # compiled once, before the processes below are forked

    def measure(i: int) -> np.ndarray:
        rgb, out = photographs.image(pictures, i), np.zeros((side, side), np.uint8)
        h, w = rgb.shape[:2]
        small = method(reduced(rgb, settings.side))
        full = np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BILINEAR))
        out[:h, :w] = np.round(full * 255)
        return out

    def compute(rows: list[int]) -> Iterator[store.Row]:
        for saliency in over_processes(measure, rows, job.threads):
            yield {"saliency": saliency}

    store.write_rows(
        job.out,
        job.header,
        {"saliency": ((side, side), np.uint8)},
        photographs.only_split(pictures, "train", store.row_keys(job.header, job.inputs)),
        compute,
        axes="image, row, column",
    )


if __name__ == "__main__":
    cli.main(run, Saliency)
