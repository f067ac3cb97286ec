"""Hypotheses of objects by selective search: where something whole may be, from the picture alone, without labels.

Uijlings et al., "Selective Search for Object Recognition", IJCV 2013. A picture is cut into small regions (Felzenszwalb
and Huttenlocher, IJCV 2004); then, again and again, the two neighbours that are most alike become one, until one is
left. Each region that ever was is a hypothesis: a box, and a segment in it. This is done in several ways (the paper's
"fast" ones: HSV and Lab, likeness with and without colour). What is too small or too slim or nearly there already is
left out, and similar boxes are put into clusters by normalised cuts, as HCP takes them (Wei et al., PAMI 2016).

Departures, all ours:
- Order. The paper multiplies a hypothesis' rank in its hierarchy (1 = the last merge) by a random number, so that not
  all large ones come first. Here a fixed sequence that is spread evenly takes its place: no seed, and as good.
- A texture histogram ends at the channel's largest response in the picture; the paper does not say where.
- The whole picture, the last merge of all, is no hypothesis, except of a picture without any other.
- HCP does not say how the cuts are made: by the leading eigenvectors and k-means, with starts that are not drawn.

Reads: photographs. Writes: hypotheses, of all splits.
Cost per photograph on one core, 192x144 / 500x375: 0.4 / 2.5 s.
Letters: h, w picture; R regions at first; T = 2 R - 1 regions that ever are; M hypotheses.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.ndimage import find_objects, gaussian_filter1d
from skimage.color import rgb2hsv, rgb2lab
from skimage.segmentation import felzenszwalb

from pipeline.core import cli, store
from pipeline.core.job import Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.seeds import Hypotheses as Settings
from pipeline.kinds import photographs
from pipeline.kinds.hypotheses import Hypotheses, as_row, write_hypotheses
from pipeline.kinds.pixels import touching

Int = NDArray[np.int64]
F32 = NDArray[np.float32]
Real = NDArray[np.floating[Any]]

SPACES = ("hsv", "lab")  # table 6 of Uijlings 2013, "fast"
COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8  # section 3.2.2, of each channel
BLUR = 0.8  # pixels, before the first regions are found, as its authors release it
FULL = 500  # longer side of the photographs for which k also is the least area of a first region
FAINT = 1e-6  # affinity of boxes that do not meet, so that all hang together
ROUNDS = 100  # of k-means at most; ten are the rule


class Hierarchy(NamedTuple):
    """All regions of one way of merging; the first R are those it began with, the last is the picture.

    The first regions are numbered so that those of any region follow one another.
    """

    numbers: Int  # [h,w], number of the first region that a pixel is in
    spans: Int  # [T,2], the numbers in each region: from, to (exclusive)
    boxes: Int  # [T,4]: y0, x0, y1, x1, ends exclusive

    def segment(self, region: int) -> NDArray[np.bool_]:
        """The region inside its box."""
        (y0, x0, y1, x1), (start, stop) = self.boxes[region], self.spans[region]
        inside = self.numbers[y0:y1, x0:x1]
        return (inside >= start) & (inside < stop)


# ------------------------------------------------------------------------------------------------------- likeness


def channels(rgb: np.ndarray, space: str) -> F32:
    """u8 [h,w,3] → f32 [h,w,3] in 'hsv' or 'lab', each channel brought to [0, 1]."""
    picture = rgb / np.float32(255)
    if space == "lab":
        return (rgb2lab(picture) + np.array((0, 128, 128), np.float32)) / np.array((100, 256, 256), np.float32)
    return rgb2hsv(picture)


def colour_bins(picture: F32) -> Int:
    """f32 [h,w,3] in [0, 1] → the bin of each channel, [3,h,w]."""
    return np.clip(picture.transpose(2, 0, 1) * COLOUR_BINS, 0, COLOUR_BINS - 1).astype(np.int64)


def texture_bins(picture: F32) -> Int:
    """f32 [h,w,3] → the bin of a Gaussian's derivative (sigma 1 pixel) in each direction, [3 x directions,h,w].

    What falls in a direction is in bin 0; the last one ends at the channel's largest derivative.
    """
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    bins = []
    for channel in picture.transpose(2, 0, 1):
        down, right = (
            gaussian_filter1d(gaussian_filter1d(channel, 1, axis, 1, mode="nearest"), 1, 1 - axis, mode="nearest")
            for axis in (0, 1)
        )
        slopes = np.stack([np.float32(np.sin(angle)) * down + np.float32(np.cos(angle)) * right for angle in angles])
        scaled = slopes * (TEXTURE_BINS / max(float(slopes.max()), 1e-6))
        bins.append(np.clip(scaled, 0, TEXTURE_BINS - 1).astype(np.int64))
    return np.concatenate(bins)


def histograms(labels: Int, bins: Int, count: int) -> F32:
    """Histograms of each region, side by side and divided by their sum: [h,w], [B,h,w] below count → [R,B x count]."""
    regions, flat = int(labels.max()) + 1, labels.ravel() * count
    counts = [np.bincount(flat + each.ravel(), minlength=regions * count).reshape(regions, count) for each in bins]
    joined = np.concatenate(counts, axis=1).astype(np.float32)
    return joined / joined.sum(1, keepdims=True)


class Regions:
    """The regions of one picture while they are merged: [T,...], of which the first `count` are there."""

    def __init__(self, labels: Int, features: F32):
        """labels: [h,w], 0 … R - 1, each a region. features: its histograms, one after the other, f32 [R,F]."""
        self.count, self.area = len(features), labels.size
        total = 2 * self.count - 1
        self.features = np.zeros((total, features.shape[1]), np.float32)
        self.sizes, self.boxes = np.zeros(total, np.int64), np.zeros((total, 4), np.int64)
        self.features[: self.count] = features
        self.sizes[: self.count] = np.bincount(labels.ravel())
        self.boxes[: self.count] = [(y.start, x.start, y.stop, x.stop) for y, x in find_objects(labels + 1)]

    def alike(self, one: Int, other: Int) -> Real:
        """Likeness of pairs of regions: colour and texture (whichever `features` hold), size, fill; each 0 to 1.

        Uijlings 2013, equations 2 to 7.
        """
        same = np.minimum(self.features[one], self.features[other]).sum(1)
        size = (self.sizes[one] + self.sizes[other]) / self.area
        around = sides(self.joint_box(one, other)).prod(-1) / self.area
        return same + (1 - size) + (1 - (around - size))

    def joint_box(self, one: Any, other: Any) -> Int:
        """The box around two regions, or pairs of them: [...,4]."""
        a, b = self.boxes[one], self.boxes[other]
        return np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], -1)

    def join(self, one: int, other: int) -> int:
        """A region more: both in one. Returns its number. Histograms are averaged by size (equation 4)."""
        new, a, b = self.count, self.sizes[one], self.sizes[other]
        self.sizes[new] = a + b
        self.features[new] = (a * self.features[one] + b * self.features[other]) / (a + b)
        self.boxes[new] = self.joint_box(one, other)
        self.count += 1
        return new


def sides(boxes: Int) -> Int:
    return boxes[..., 2:] - boxes[..., :2]


# -------------------------------------------------------------------------------------------------------- merging


def merge(regions: Regions, pairs: Int) -> Int:
    """Merge the most alike neighbours until one region is left: the two that each further region is made of, [R-1,2].

    pairs: neighbours, [E,2]. Of equally alike pairs the one of lower numbers comes first.
    """
    first = regions.count
    near: list[set[int]] = [set() for _ in range(2 * first - 1)]
    for one, other in pairs.tolist():
        near[one].add(other)
        near[other].add(one)
    likeness = regions.alike(pairs[:, 0], pairs[:, 1]).tolist()
    queue = [(-like, one, other) for like, (one, other) in zip(likeness, pairs.tolist(), strict=True)]
    heapq.heapify(queue)
    gone, made = set[int](), []
    while queue:
        _, one, other = heapq.heappop(queue)
        if one in gone or other in gone:
            continue
        gone |= {one, other}
        made.append((one, other))
        new = regions.join(one, other)
        near[new] = (near[one] | near[other]) - {one, other}
        around = sorted(near[new])
        for neighbour in around:
            near[neighbour] = near[neighbour] - {one, other} | {new}
        likeness = regions.alike(np.array(around, np.int64), np.array([new])).tolist()
        for like, neighbour in zip(likeness, around, strict=True):
            heapq.heappush(queue, (-like, neighbour, new))
    return np.array(made, np.int64).reshape(-1, 2)


def spans(made: Int) -> Int:
    """Which first regions are in each region once they are numbered in the order of the tree: [R-1,2] → [T,2]."""
    first = len(made) + 1
    width = [1] * first
    for one, other in made.tolist():
        width.append(width[one] + width[other])
    start = [0] * len(width)
    for region, (one, other) in reversed(list(enumerate(made.tolist(), first))):
        start[one], start[other] = start[region], start[region] + width[one]
    return np.stack([start, np.add(start, width)], axis=1)


def hierarchies(rgb: np.ndarray, coarse: Sequence[float]) -> Iterator[Hierarchy]:
    """Every way of merging: colour spaces x first regions x likeness with and without colour."""
    shrink = (max(rgb.shape) / FULL) ** 2
    for space in SPACES:
        picture = channels(rgb, space)
        colours, slopes = colour_bins(picture), texture_bins(picture)
        for k in coarse:
            labels = felzenszwalb(picture, k, BLUR, max(1, round(k * shrink))).astype(np.int64)
            pairs = touching(labels)
            colour, texture = histograms(labels, colours, COLOUR_BINS), histograms(labels, slopes, TEXTURE_BINS)
            for features in (np.concatenate([colour, texture], axis=1), texture):
                regions = Regions(labels, features)
                inside = spans(merge(regions, pairs))
                yield Hierarchy(inside[: len(features), 0][labels], inside, regions.boxes)


# ------------------------------------------------------------------------------------------------------- choosing


def ranked(counts: Sequence[int]) -> Int:
    """The regions of hierarchies of these sizes T, all in one row, best first; their last ones are left out.

    By rank in the hierarchy (1 = the last merge) times the fractional part of a multiple of the golden ratio.
    """
    rank = np.concatenate([np.arange(count, 0, -1) for count in counts])
    drawn = np.arange(1, len(rank) + 1) * ((np.sqrt(5) - 1) / 2) % 1
    order = np.argsort(rank * drawn, kind="stable")
    return order[rank[order] > 1]


def fit(boxes: Int, size: tuple[int, int], smallest: float, slimmest: float) -> NDArray[np.bool_]:
    """Which boxes [M,4] are large enough, as a share of the picture, and not too slim (sides at most 1 : slimmest)."""
    height, width = sides(boxes).T
    longer, shorter = np.maximum(height, width), np.minimum(height, width)
    return (height * width >= smallest * size[0] * size[1]) & (longer <= slimmest * shorter)


def iou(boxes: Int, others: Int) -> Real:
    """Intersection over union of boxes, which broadcast: [...,4], [...,4] → [...]."""
    inside = np.maximum(0, np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2]))
    shared = inside.prod(-1)
    return shared / (sides(boxes).prod(-1) + sides(others).prod(-1) - shared)


def distinct(boxes: Int, overlap: float, most: int) -> list[int]:
    """The boxes, best first, that overlap no better one of these by more than this IoU; `most` at most."""
    chosen: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(chosen) < most:
        chosen.append(int(left[0]))
        left = left[1:][iou(boxes[left[1:]], boxes[left[0]]) <= overlap]
    return chosen


def clustered(boxes: Int, count: int) -> Int:
    """The cluster of each box, [M]: normalised cuts of their IoU (Shi and Malik, PAMI 2000) into `count`, or fewer.

    K-means in the leading eigenvectors (Ng et al., NIPS 2001), from the best box and then ever the farthest. Neither
    an eigenvector's sign nor a rotation of equal ones plays a part. Clusters are numbered by their best box.
    """
    total = len(boxes)
    if total <= count:
        return np.arange(total)
    affinity = iou(boxes[:, None], boxes) + FAINT
    root = np.sqrt(affinity.sum(1))
    points = eigh(affinity / root / root[:, None], subset_by_index=(total - count, total - 1))[1]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    centres = points[:1]
    while len(centres) < count:
        centres = np.concatenate([centres, points[[(points @ centres.T).max(1).argmin()]]])
    nearest = np.zeros(total, np.int64)
    for _ in range(ROUNDS):
        before, nearest = nearest, (points @ centres.T - (centres**2).sum(1) / 2).argmax(1)
        if (nearest == before).all():
            break
        present = np.unique(nearest)
        centres = np.stack([points[nearest == each].mean(0) for each in present])
        nearest = np.searchsorted(present, nearest)
    _, best, numbers = np.unique(nearest, return_index=True, return_inverse=True)
    return best.argsort().argsort()[numbers]


def search(rgb: np.ndarray, settings: Settings) -> Hypotheses:
    """The hypotheses of a picture, u8 [h,w,3]."""
    found, size = list(hierarchies(rgb, settings.regions)), (rgb.shape[0], rgb.shape[1])
    pool = [(each, region) for each in found for region in range(len(each.boxes))]
    order = ranked([len(each.boxes) for each in found])
    boxes = np.concatenate([each.boxes for each in found])[order]
    good = np.flatnonzero(fit(boxes, size, settings.smallest, settings.slimmest))
    chosen = good[distinct(boxes[good], settings.overlap, settings.most)]
    if not len(chosen):
        return Hypotheses(np.array([[0, 0, *size]]), np.zeros(1, np.int64), [np.ones(size, bool)])
    segments = [each.segment(region) for each, region in (pool[i] for i in order[chosen])]
    return Hypotheses(boxes[chosen], clustered(boxes[chosen], settings.clusters), segments)


def run(job: Job) -> None:
    pictures, settings = job.photographs, job.settings

    def look(i: int) -> store.Row:
        return as_row(pictures, i, search(photographs.image(pictures, i), settings), settings.clusters)

    def find(rows: list[int]) -> Iterator[store.Row]:
        yield from over_processes(look, rows, job.threads)

    write_hypotheses(job, range(len(pictures["size"])), find, settings.clusters)


if __name__ == "__main__":
    cli.main(run, Settings)
