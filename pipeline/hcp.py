"""Hypotheses-CNN-pooling: a tag classifier that looks at object hypotheses and believes the best of each class.

Wei et al., "HCP: A Flexible CNN Framework for Multi-label Image Classification", PAMI 2016. One network, two phases:
first on whole images, then on hypotheses, v_c = max_h s_c(h); in both a squared loss of softmax(v) against the tags,
which share 1 among them. Only the hypothesis that scores best for a class learns, so the network need not be told
which one shows it. The result is an ordinary classifier: `vote` scores hypotheses with it, `cam` and `excitation` take
it as well.

Ours, against the paper: hypotheses are not cut out and resized, each a pass of the network of its own, but read from
one pass over the photograph, as the mean of the last feature map inside the box (benchmarks/hcp_pooling.py compares
the two); the image phase sees random crops, as `classify` does; the second phase starts its own schedule of the
learning rate. `loss: soft_margin` is ours too.

Reads: photographs, tags, hypotheses, weights. Makes: classifier (parameters; the curves of both phases, one after the
other). Cost: epochs x images passes over crops, then hypothesis_epochs x images over whole photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.loop import Losses
from pipeline.core.steps.seeds import Hcp
from pipeline.kinds import classes, hypotheses, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.crops import Crops
from pipeline.kinds.pixels import jitter
from pipeline.networks.classifier import Classifier, classification_loss, classifier_meta, new_classifier
from pipeline.networks.regions import means
from pipeline.networks.states import packed
from pipeline.networks.trunk import STRIDE

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# --------------------------------------------------------------------------------------------------------- losses


def squared_loss(scores: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_c (softmax(v)_c − y_c / Σy)², summed over the images with a tag, and their number (the paper's loss).

    scores v: float [B,F]; tags y: bool [B,F]. An image without a tag has no distribution to be compared with (ours: it
    does not count).
    """
    share = tags / tags.sum(1, keepdim=True).clamp(min=1)
    tagged = tags.any(1)
    per_image = (scores.float().softmax(1) - share).square().sum(1)
    return (per_image * tagged).sum(), tagged.sum()


LOSSES: dict[str, Loss] = {"squared": squared_loss, "soft_margin": classification_loss}


def pooled_scores(net: Classifier, images: Tensor, boxes: Tensor) -> Tensor:
    """v_c = max over hypotheses of s_c, the mean of class map c inside the box: float32 [B,F].

    images: [B,3,H,W] with sides that are multiples of 32; boxes: [B,P,4] in their pixels.
    """
    maps = net.maps(images)
    return means(maps, boxes, images.shape[2] / maps.shape[2]).amax(1)


# -------------------------------------------------------------------------------------------------------- samples


def one_of_each(clusters: np.ndarray, count: int) -> np.ndarray:
    """Which hypotheses are shown in training: int64 [min(count, M)], positions among clusters [M], best first.

    The best of each cluster (the paper's choice), then the second best of each, and so on up to count.
    """
    same = clusters[:, None] == clusters[None]
    turn = np.tril(same, -1).sum(1)  # how many better ones its cluster has
    return np.argsort(turn, kind="stable")[:count]


@dataclass(frozen=True)
class Wholes:
    """Whole photographs, mirrored and jittered at random, with boxes: (row, rng) → image u8 [3,side,side], tags bool
    [C], boxes i64 [per_image + 1, 4]: the whole photograph, and its hypotheses in the image's pixels.

    Where there are fewer hypotheses, the whole photograph takes their place: a maximum does not count twice.
    """

    photographs: store.Artifact
    hypotheses: store.Artifact
    per_image: int
    jitter: float
    fill: np.ndarray  # uint8 [3]
    tags: np.ndarray  # bool [N,C]

    def __call__(self, i: int, rng: np.random.Generator) -> train.Sample:
        h, w = photographs.size(self.photographs, i)
        side = -(-int(self.photographs["rgb"].shape[1]) // STRIDE) * STRIDE
        canvas = np.empty((side, side, 3), np.uint8)
        canvas[:] = self.fill
        canvas[:h, :w] = photographs.image(self.photographs, i)
        boxes = np.tile(np.array([0, 0, h, w]), (self.per_image + 1, 1))
        chosen = one_of_each(hypotheses.clusters(self.hypotheses, i), self.per_image)
        boxes[1 : 1 + len(chosen)] = hypotheses.boxes(self.hypotheses, i)[chosen]
        if rng.random() < 0.5:
            canvas = canvas[:, ::-1]
            boxes[:, [1, 3]] = side - boxes[:, [3, 1]]
        if self.jitter:
            canvas = jitter(canvas, self.jitter, rng)
        return {"image": np.ascontiguousarray(canvas.transpose(2, 0, 1)), "tags": self.tags[i], "boxes": boxes}


# ------------------------------------------------------------------------------------------------------- training


def phase(job: Job, name: str, epochs: float) -> Job:
    """The job of one phase: its length, and a checkpoint of its own in the scratch folder of the whole.

    A run killed in the second phase finds the first one's last checkpoint, which is its result, and goes on from there.
    """
    return replace(job, settings=job.settings.model_copy(update={"epochs": epochs}), out=job.part / f"{name}.json")


def run(job: Job) -> None:
    settings: Hcp = job.settings
    pictures, tags, weights = job.photographs, job.inputs["tags"], job.inputs["weights"]
    rows = photographs.split(pictures, "train")
    if not len(rows):
        raise InputError(f"{pictures.path}: split train is empty")
    table, ids, loss = said.tags(tags), classes.foreground(tags).tolist(), LOSSES[settings.loss]
    if settings.loss == "squared" and len(ids) < 2:  # a softmax over one class is 1: no loss, and nothing learnt
        raise InputError(
            f"{tags.path}: {len(ids)} class that can be tagged found; the squared loss tells classes apart and expects "
            "two; set loss: soft_margin in the settings of 'hcp'"
        )
    torch.manual_seed(job.seed)
    model, fill = new_classifier(weights, tags, settings.stride), photographs.mean_colour(pictures, rows)

    def on_images(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        return {"loss": loss(net(batch["image"]), batch["tags"][:, ids])}

    def on_hypotheses(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        return {"loss": loss(pooled_scores(net, batch["image"], batch["boxes"]), batch["tags"][:, ids])}  # type: ignore[arg-type]

    def heads(net: nn.Module) -> list[nn.Parameter]:
        return list(net.score.parameters())  # type: ignore[union-attr,arg-type]

    crops = Crops(pictures, settings.crop, settings.scale, settings.jitter, fill, table)
    first = train.fit(model, rows, crops, on_images, phase(job, "images", settings.epochs), heads)
    wholes = Wholes(pictures, job.inputs["hypotheses"], settings.per_image, settings.jitter, fill, table)
    job_2 = phase(job, "hypotheses", settings.hypothesis_epochs)
    second = train.fit(model, rows, wholes, on_hypotheses, job_2, heads)

    arrays, index = packed(model.state_dict())
    curves = {name: np.concatenate([first[name], second[name]]) for name in first}
    meta = {**classifier_meta(model, tags, settings.stride), "index": index}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Hcp)
