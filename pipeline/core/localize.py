"""Training a tag classifier and reading class activation maps from it: shared by classify, cam and erase."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core import data, train
from pipeline.core.cli import InputError, Job
from pipeline.core.config import Cam, Classify, Erase
from pipeline.core.models import Classifier, load_backbone, pack
from pipeline.core.store import Artifact

Erased = Callable[[int], np.ndarray]  # row → bool [h,w]


def fit_classifier(
    job: Job, erased: Erased | None = None
) -> tuple[Classifier, dict[str, np.ndarray], dict[str, object]]:
    """Train a multi-label classifier from the job's weights on the tags of split train.

    Loss: multi-label soft margin (as Ahn & Kwak 2018). erased regions are filled with the mean colour before
    augmentation (Wei et al. 2017). Returns the network in eval mode, its curves, and the meta `load_classifier` needs.
    """
    settings: Classify = job.settings
    images, weights = job.images, job.inputs["weights"]
    rows = data.split(images, "train")
    if not len(rows):
        raise InputError(f"{images.path}: split train is empty")
    torch.manual_seed(job.seed)
    model = Classifier(load_backbone(weights, settings.stride), data.image_tags(images).shape[1])
    cut = data.Crops(
        images, settings.crop, settings.scale, settings.jitter, fill=data.mean_colour(images, rows), erase=erased
    )

    def step(net: torch.nn.Module, batch: dict[str, Tensor]) -> train.Losses:
        errors = F.multilabel_soft_margin_loss(net(batch["image"]), batch["tags"].float(), reduction="none")
        return {"loss": (errors.sum(), torch.tensor(len(errors)))}

    curves = train.fit(model, rows, cut, step, job, heads=lambda net: list(net.score.parameters()))  # type: ignore[union-attr,arg-type]
    meta = {
        "backbone": weights.meta["backbone"],
        "gray": weights.meta["gray"],
        "stride": settings.stride,
        "classes": data.class_names(images),
    }
    return model, curves, meta


def packed(
    model: Classifier, curves: dict[str, np.ndarray], meta: dict[str, object]
) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and meta of a `classifier` artifact."""
    arrays, index = pack(model.state_dict())
    return {**arrays, **curves}, {**meta, "index": index}


def grid_size(images: Artifact, grid: int) -> int:
    """Side of the stored maps for the whole canvas."""
    return -(-images["rgb"].shape[1] // grid)


@torch.no_grad()
def activation(
    model: Classifier,
    rgb: np.ndarray,
    classes: np.ndarray,
    settings: Cam | Erase,
    grid: int,
    device: str,
    precision: str,
) -> np.ndarray:
    """Class activation maps of these classes, float32 [len(classes), ceil(h/grid), ceil(w/grid)] in [0,1].

    Zhou et al. 2016, in the multi-scale form of Ahn & Kwak 2018: ReLU maps of all scales and their mirror images are
    summed and divided by each class's maximum. rgb: uint8 [h,w,3]. classes: ids from 1.
    """
    total = torch.zeros(len(classes), *rgb.shape[:2])
    chosen = torch.from_numpy(classes.astype(np.int64) - 1)
    for scale in settings.scales:
        size = tuple(max(32, round(side * scale)) for side in rgb.shape[:2])
        x = data.to_tensor(data.resize_image(rgb, *size))[None]
        if settings.flip:
            x = torch.cat([x, x.flip(3)])
        x = model.trunk.whole(x.to(device))
        with train.autocast(device, precision):
            maps = model.maps(x)[:, chosen].float().relu().cpu()
        # Cells → the padded pixels they were made from → the photograph's pixels: no step shifts the map.
        maps = F.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
        if settings.flip:
            maps = torch.stack([maps[0], maps[1].flip(2)])
        total += F.interpolate(maps, rgb.shape[:2], mode="bilinear", align_corners=False).sum(0)
    total = F.avg_pool2d(total[None], grid, ceil_mode=True, count_include_pad=False)[0]
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()


@torch.no_grad()
def recall(
    model: Classifier, image: Callable[[int], np.ndarray], images: Artifact, rows: np.ndarray, job: Job
) -> float:
    """Share of the images whose best-scoring class is one of their tags: how much is still recognised."""
    tags, hits, count = data.image_tags(images), 0, 0
    for i in rows:
        if tags[i].any():
            with train.autocast(job.device, job.precision):
                scores = model(data.to_tensor(image(int(i)))[None].to(job.device))[0].cpu().numpy()
            hits += bool(tags[i][scores.argmax()])
            count += 1
    return hits / max(count, 1)
