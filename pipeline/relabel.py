"""A model's predictions on the training images as labels for the next one.

The tag constraint is AE-PSL's and STC's (argmax over the background and the image's tags); the thresholds are those of
semi-supervised training (Zhao et al. 2021, section 4); the CRF is optional. `images: covered` labels only the images
that the labels before cover, as STC does with its simple images first. `rescue` (ours, for STC's complex images) leaves
no tag of an image without pixels.

Reads: photographs, tags, model, covered (labels or soft, optional). Makes: labels u8 [N,S,S], covered bool [N]. Cost:
one inference pass over the images, in batches of photographs of one size on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.processes import in_batches, over_processes
from pipeline.core.steps.labels import Relabel
from pipeline.kinds import classes, labels, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID
from pipeline.networks.door import likely, open_network, refine
from pipeline.networks.pictures import batch_size

RESCUED = 0.01  # share of the pixels that a rescued class gets (ours)


def decide(scores: Tensor, ids: np.ndarray, background: int | None, settings: Relabel) -> Tensor:
    """Probabilities [...,K,h,w] of the classes `ids` → labels uint8 [...,h,w]; below their threshold 255. Computed on
    the probabilities' device."""
    most, best = scores.max(-3)
    found = torch.as_tensor(ids, dtype=torch.uint8, device=scores.device)[best]
    levels = torch.tensor([settings.foreground, settings.background], dtype=torch.float64, device=scores.device)
    needed = levels[(found == background).long() if background is not None else torch.zeros_like(best)]
    return found.masked_fill(most < needed, VOID)


def rescue(found: np.ndarray, scores: np.ndarray, lost: np.ndarray, ids: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Labels uint8 [h,w] in which each lost class has the RESCUED share of the pixels, where it is most probable and
    whatever stood there, but for tags that have so few themselves that they might be lost in turn. Where two lost
    classes meet, the more probable one has the pixel, and the other one more elsewhere.

    scores: [K,h,w] of the classes `ids`, before any CRF, which leaves of a lost class nothing to rank. lost: bool [K],
    some of the image's own, bool [K].
    """
    out, flat, saved = found.ravel().copy(), scores.reshape(len(scores), -1), np.flatnonzero(lost)
    count = max(1, round(RESCUED * found.size))
    few = np.bincount(out, minlength=VOID + 1)[ids] <= count * len(saved)
    free = ~np.isin(out, ids[own & ~lost & few])
    places = []
    for k in saved:
        order = np.argsort(-flat[k], kind="stable")
        # As many as all lost classes together can take: some are left for this one.
        places.append(order[free[order] & (flat[k, order] > 0)][: count * len(saved)])
    pixels = np.concatenate([np.zeros(0, np.int64), *places])
    names = np.repeat(saved, [len(each) for each in places])
    room = dict.fromkeys(saved.tolist(), count)
    for pair in np.argsort(-flat[names, pixels], kind="stable").tolist():
        name, at = int(names[pair]), int(pixels[pair])
        if room[name] and free[at]:
            out[at], free[at], room[name] = ids[name], False, room[name] - 1
    return out.reshape(found.shape)


def lost_classes(scores: np.ndarray, own: np.ndarray, share: float) -> np.ndarray:
    """Which classes of the image's own, bool [K], win less than this share of the pixels of scores [K,h,w]: bool [K].

    Before thresholds: a class that wins pixels and is unsure of them is not lost.
    """
    won = np.bincount(scores.argmax(0).ravel(), minlength=len(scores))
    return own & (won < share * scores[0].size)


def run(job: Job) -> None:
    settings: Relabel = job.settings
    pictures, tags, model = job.photographs, job.inputs["tags"], job.inputs["model"]
    rows = photographs.split(pictures, "train")
    if settings.images == "covered":
        if "covered" not in job.inputs:
            raise InputError("images: covered needs labels that say which; put the step after some, or use images: all")
        rows = rows[job.inputs["covered"].read("covered")[rows]]
    network = open_network(model, job.device, job.precision, settings.scales, settings.flip)
    together = batch_size(job.device, pictures["rgb"].shape[1], settings.scales, settings.flip)
    background = classes.background(model)
    table = said.tags(tags)
    allowed = table.copy()
    if background is not None:
        allowed[:, background] = True

    def possible(i: int) -> np.ndarray | None:
        # Without a background an untagged image would have no class at all: there every class is possible.
        return allowed[i] if settings.tags and allowed[i].any() else None

    def alike(i: int) -> tuple[int, int, bool]:
        return *photographs.size(pictures, i), possible(i) is None

    def seen(some: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """What the network is given for photographs that are alike."""
        rgb = np.stack([photographs.image(pictures, i) for i in some])
        return rgb, None if possible(some[0]) is None else allowed[some]

    def answer(some: list[int]) -> np.ndarray:
        scores = network.probabilities(*seen(some))
        return decide(scores, np.arange(scores.shape[1]), background, settings).cpu().numpy()

    def guess(some: list[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for i, (ids, scores) in zip(some, likely(network, *seen(some)), strict=True):
            yield i, ids, scores

    def settle(item: tuple[int, np.ndarray, np.ndarray]) -> np.ndarray:
        i, ids, scores = item
        refined = refine(photographs.image(pictures, i), scores) if settings.crf else scores
        found = decide(torch.from_numpy(refined), ids, background, settings).numpy()
        own = table[i, ids]
        return rescue(found, scores, lost_classes(refined, own, settings.rescue), ids, own)

    def label(some: list[int]) -> Iterator[np.ndarray]:
        if not settings.crf and not settings.rescue:
            yield from in_batches(answer, some, alike, together, job.images_at_once)
            return
        # A few at a time: on a GPU the network comes first, then the CRF on all cores.
        for start in range(0, len(some), 16):
            guessed = in_batches(guess, some[start : start + 16], alike, together, job.images_at_once)
            yield from over_processes(settle, guessed, job.threads if settings.crf else 1)

    labels.write_labels(job, rows, label, of=model)


if __name__ == "__main__":
    cli.main(run, Relabel)
