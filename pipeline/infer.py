"""Label maps of images of which only tags are known: what a dual network says once it fits the image and the tags.

Luo, Wang, Lin & Wang, "Deep Dual Learning for Semantic Image Segmentation", ICCV 2017 (DIS): of each image, with the
weights of the network fixed (networks/dual.py),

    min over u1, v1 of  ½ mean (z3 − I)² + Σ_k BCE(σ(v3_k), T_k)        →        L̂ = argmax of the prediction

so that a tag the network did not see pulls its class up, where that is most probable. Ours: begun at what the trunk
says; the number and length of the steps; L̂ is chosen among the background, the tags, and classes that σ(v3) is surer of
than 0.9 all the same, so that a tag that was forgotten comes back; what is less probable than `least` stays open (255).

Reads: photographs, tags, model (of `dis`). Makes: labels u8 [N,S,S], covered bool [N]: all training images. Cost: one
inference pass over them, and some passes of the small heads a step; on a GPU in batches of photographs of one size.
Legend: B images, K classes with the background, h x w a photograph in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.processes import in_batches
from pipeline.core.steps.labels import Infer
from pipeline.kinds import classes, labels, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID
from pipeline.networks.dual import Answer, answers, enlarged, load_dual
from pipeline.networks.looks import gated
from pipeline.networks.pictures import batch_size, to_tensor
from pipeline.networks.states import for_inference

SURE = 0.9  # a class without a tag is possible where σ(v3) exceeds this


def possible(v3: Tensor, tags: Tensor) -> Tensor:
    """Which classes an image may show: logits [B,K], bool [B,K] with the background's → bool [B,K].

    All, of an image without tags where there is no background.
    """
    found = tags | (v3.sigmoid() > SURE)
    return found | ~found.any(1, keepdim=True)


def inferred(answer: Answer, tags: Tensor, stride: int, size: tuple[int, int], least: float) -> Tensor:
    """Label maps u8 [B,h,w]: the most probable of the possible classes, 255 where it is less probable than `least`."""
    scores = enlarged(answer.final, stride, size).softmax(1)
    most, best = gated(scores, possible(answer.v3, tags)).max(1)
    return best.byte().masked_fill(most < least, VOID)


def run(job: Job) -> None:
    settings: Infer = job.settings
    pictures, tags, model = job.photographs, job.inputs["tags"], job.inputs["model"]
    if classes.meta(tags) != classes.meta(model):
        raise InputError(f"{tags.path} has {classes.meta(tags)}, {model.path} {classes.meta(model)}")
    net = for_inference(load_dual(model), job.device)
    known, background = said.tags(tags).copy(), classes.background(model)
    if background is not None:
        known[:, background] = True

    def answer(some: list[int]) -> np.ndarray:
        x = to_tensor(np.stack([photographs.image(pictures, i) for i in some])).to(job.device)
        given = torch.from_numpy(known[some]).to(job.device)
        found = answers(net, x, [settings.steps], job.precision, job.device, given)[0]
        return inferred(found, given, net.stride, (x.shape[2], x.shape[3]), settings.least).cpu().numpy()

    def label(some: list[int]) -> Iterator[np.ndarray]:
        together = batch_size(job.device, pictures["rgb"].shape[1])
        yield from in_batches(answer, some, lambda i: photographs.size(pictures, i), together, job.images_at_once)

    labels.write_labels(job, photographs.split(pictures, "train"), label, of=model)


if __name__ == "__main__":
    cli.main(run, Infer)
