"""Match: triplets over a random graph of patches, the second half of Mix-and-Match tuning.

Zhan, Liu, Luo, Tang, Loy: "Mix-and-Match Tuning for Self-Supervised Semantic Segmentation", AAAI 2018,
arXiv 1712.00661, the "match" step. Every patch of the batch is an anchor. Its positive and its negative
are drawn at random, but such that the positive links connect all patches of a class: each class is then
pulled together as a whole, where independent triplets would leave islands. No hard mining, no projection
head.

One iteration: `features = embed(trunk.embedding(patches))`, then `triplet_terms(features, *connect(classes, rng))`
(kernels/triplets.py). Ours: `match: all`, the mean over all triplets that there are. Ours, against the released code:
the bank holds a few fixed draws of patches per image instead of new ones in every iteration, and patches are mirrored
one by one, not with their image.

Axes: N patches of the batch; C, h, w channels, rows and columns of the last feature map; D = C·h·w. Reads: photographs,
patches, weights. Makes: weights (the tuned backbone) and the loss curve. Cost: epochs x images x patches per image
passes through the backbone; `connect` about 0.2 ms for N = 400, `triplet_loss` a few passes over [N, D].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.loop import Losses
from pipeline.core.steps.weights import Triplet
from pipeline.kernels.triplets import all_triplet_terms, connect, embed, triplet_terms
from pipeline.kinds import photographs
from pipeline.kinds.patches import draws_by_image
from pipeline.kinds.pixels import crop
from pipeline.networks.backbones import backbone_meta, load_backbone
from pipeline.networks.states import packed


def join(samples: list[train.Sample]) -> dict[str, Tensor]:
    """The patches of several images as one batch: [sum n, 3, size, size] and their classes."""
    patches = torch.from_numpy(np.concatenate([sample["patches"] for sample in samples]))
    classes = torch.from_numpy(np.concatenate([sample["classes"] for sample in samples]))
    return {"patches": patches.contiguous(memory_format=torch.channels_last), "classes": classes}


def run(job: Job) -> None:
    settings: Triplet = job.settings
    pictures, bank, weights = job.photographs, job.inputs["patches"], job.inputs["weights"]
    draws, size = draws_by_image(bank), bank.meta["size"]

    def cut(i: int, rng: np.random.Generator) -> train.Sample:
        boxes, classes = draws[i][rng.integers(len(draws[i]))]
        rgb = photographs.image(pictures, i)
        patches = np.stack([crop(rgb, box, size) for box in boxes])
        mirrored = rng.random(len(patches)) < 0.5
        patches[mirrored] = patches[mirrored, :, ::-1]
        return {"patches": patches.transpose(0, 3, 1, 2), "classes": classes}

    model = load_backbone(weights, settings.stride)
    refuse_enlarging(model, size, settings)

    def step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        maps = net.embedding(batch["patches"])  # type: ignore[operator]
        features = embed(nn.functional.adaptive_avg_pool2d(maps, settings.pool))
        if settings.match == "all":
            return {"loss": all_triplet_terms(features, batch["classes"], settings.margin)}
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        return {"loss": triplet_terms(features, *connect(batch["classes"].cpu().numpy(), rng), settings.margin)}

    curves = train.fit(model, np.asarray(sorted(draws)), cut, step, job, collate=join)
    arrays, index = packed(model.state_dict())
    store.write_table(job.out, job.header, {**arrays, **curves}, {"index": index, **backbone_meta(model)})


def refuse_enlarging(model: nn.Module, size: int, settings: Triplet) -> None:
    """Raises InputError when the pooled map would be larger than the map: its cells would be repeated, not compared."""
    with torch.no_grad():
        found = model.eval().embedding(torch.zeros(1, 3, size, size)).shape[-1]  # type: ignore[operator]
    if settings.pool > found:
        raise InputError(
            f"pool: {settings.pool} asked for, but the map of a patch of {size} px at stride {settings.stride} is "
            f"{found} x {found}; set pool to at most {found}, a smaller stride, or a larger patches.size"
        )


if __name__ == "__main__":
    cli.main(run, Triplet)
