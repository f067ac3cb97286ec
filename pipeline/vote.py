"""Where each tag of a photograph is, by the votes of its object hypotheses.

"Learning to segment with image-level annotations", Pattern Recognition 2016. Three steps for each tag c of an image I:

1. H_c(I), its confident hypotheses: of the `most` best as objects, those with s_c >= `confident` · max s_c.
2. What recurs in other images of the class is the class: D_c(h) is the mean, over up to `partners` other images I' of
   the class, of the distance to the nearest of H_c(I'), 1 - cos(φ, φ'). The `keep` smallest stay.
3. Votes: M_c(u) = Σ_h w_h · 1[u ∈ h], with w_h = s_c(h) · exp(-D_c(h) / sigma); divided by its maximum.

Ours where the description leaves it open: all numbers and the weight w_h; the mean for the sum, so that D does not grow
with the class; a sample of the class, evenly spaced over its images; φ, the mean of the classifier's last feature map
inside the box, of length 1, from one pass over the photograph (`look: cut`: over the box cut out and resized, as HCP
has it; docs/methods/hcp.md says what that is worth); s_c, log(1 + e^v) of the linear score v of that mean: as
good as v where a class is seen and never negative. (Probabilities reach 1 for half of all hypotheses, and tell no good
one from a better one.) The best as objects and not the best in s_c, since a mean is largest in the small boxes around
the most telling part. Segments vote where `by` says so, else boxes.

Reads: photographs, tags, hypotheses, classifier (of `hcp`). Makes: seeds, as `cam` does: scores f16 [N,K,g,g] in
[0,1], classes u8 [N,K], claimed u8 [N,K,g,g]. A row rests on its own photograph and on the sample: a change in the
sample recomputes all. Cost: one pass a photograph and two over the sample at worst (`cut`: `most` passes over crops
instead of each), then most x most x partners cosines a tag. Memory: the sample's features, classes x partners x most x
D numbers of 2 bytes (20 classes, EfficientNet-Lite0: 0.5 GB), however many photographs there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core import cli, store
from pipeline.core.job import Job
from pipeline.core.processes import over_processes
from pipeline.core.progress import Progress
from pipeline.core.steps.seeds import Vote
from pipeline.core.train import autocast
from pipeline.kinds import classes, hypotheses, photographs, seeds
from pipeline.kinds import tags as said
from pipeline.kinds.crops import resize_by_torch
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import Classifier, load_classifier
from pipeline.networks.pictures import to_tensor
from pipeline.networks.regions import means
from pipeline.networks.states import for_inference

CUT_OUTS = 16  # at once


class Candidates(NamedTuple):
    """The confident hypotheses of one tag of one photograph, best score first."""

    which: np.ndarray  # i64 [n], among the photograph's hypotheses
    scores: np.ndarray  # f64 [n]
    features: np.ndarray  # f16 [n,D], of length 1


# ------------------------------------------------------------------------------------------------------- the rules


def confident(scores: np.ndarray, share: float) -> np.ndarray:
    """Positions of the scores [M] that are at least share x the best one, best first: i64 [n]."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= share * scores[order[0]]]


def distances(own: Tensor, partners: Iterable[Tensor]) -> np.ndarray:
    """D_c of each own hypothesis: mean over partners of 1 - the largest cosine with one of theirs, f64 [n].

    own [n,D] and each partner [m,D]: features of length 1. Without a partner nothing is known: all 0. One matrix
    product a partner, so that memory does not grow with their number.
    """
    own, total, count = own.float(), torch.zeros(len(own), dtype=torch.float64, device=own.device), 0
    for partner in partners:
        total += 1 - (own @ partner.float().T).amax(1).double()
        count += 1
    return (total / max(count, 1)).cpu().numpy()


def votes(
    boxes: np.ndarray, inside: Sequence[np.ndarray] | None, weights: np.ndarray, size: tuple[int, int], grid: int
) -> np.ndarray:
    """Sum of weights [n] over the pixels of each box [n,4], or of the mask inside it; the mean in each cell, divided by
    its maximum: f32 [gh,gw]. size: height and width of the photograph.
    """
    total = np.zeros(size, np.float32)
    for k, ((y0, x0, y1, x1), weight) in enumerate(zip(boxes.tolist(), weights / weights.max(), strict=True)):
        total[y0:y1, x0:x1] += np.float32(weight) if inside is None else np.float32(weight) * inside[k]
    cells = F.avg_pool2d(torch.from_numpy(total)[None], grid, ceil_mode=True, count_include_pad=False)[0].numpy()
    return cells / max(float(cells.max()), np.finfo(np.float32).tiny)


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most count of these rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]


# ----------------------------------------------------------------------------------------------------- the network


@torch.no_grad()
def seen(
    model: Classifier, rgb: np.ndarray, boxes: np.ndarray, side: int | None, device: str, precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the network says of boxes [M,4] of a photograph u8 [h,w,3]: scores f64 [M,F] > 0, of the foreground classes
    in order, and features f32 [M,D] of length 1. side: boxes are cut out and resized to this; None: pooled."""
    if side is None:
        x = model.trunk.whole(to_tensor(rgb)[None].to(device))
        with autocast(device, precision):
            maps = model.trunk(x)[-1]
        features = means(maps, torch.from_numpy(boxes)[None].to(device), x.shape[2] / maps.shape[2])[0]
    else:
        parts = torch.stack([cut_out(rgb, box, side) for box in boxes.tolist()])
        with autocast(device, precision):
            maps = [model.trunk(some.to(device))[-1].float().mean((2, 3)) for some in parts.split(CUT_OUTS)]
        features = torch.cat(maps)
    scores = F.linear(features, model.score.weight.flatten(1)).double()
    return F.softplus(scores).cpu().numpy(), F.normalize(features, dim=1).cpu().numpy()


def cut_out(rgb: np.ndarray, box: Sequence[int], side: int) -> Tensor:
    """The box of a photograph, resized to a square whatever its aspect, as HCP does: u8 [3,side,side]."""
    y0, x0, y1, x1 = box
    return torch.from_numpy(resize_by_torch(rgb[y0:y1, x0:x1], side, side)).permute(2, 0, 1)


def finder(
    job: Job, slots: np.ndarray, sample: dict[int, list[int]], keys: Sequence[bytes]
) -> Callable[[list[int]], Iterator[seeds.Found]]:
    """rows → the maps of each.

    sample: class → rows that others are compared with. keys: what each photograph is; none is compared with itself.
    """
    settings: Vote = job.settings
    pictures, source = job.photographs, job.inputs["hypotheses"]
    model = for_inference(load_classifier(job.inputs["classifier"]), job.device)
    side = job.inputs["classifier"].manifest["settings"]["crop"] if settings.look == "cut" else None

    def boxes(i: int) -> np.ndarray:
        found = hypotheses.boxes(source, i)[: settings.most]
        return found if len(found) else np.array([[0, 0, *photographs.size(pictures, i)]])

    def inside(i: int, chosen: np.ndarray) -> list[np.ndarray] | None:
        found = hypotheses.segments(source, i) if settings.by == "segments" else []
        return [found[k] for k in chosen] if found else None

    def look(i: int) -> list[Candidates]:
        """The confident hypotheses of each tag."""
        ids = slots[i][slots[i] != VOID]
        if not len(ids):
            return []
        scores, features = seen(model, photographs.image(pictures, i), boxes(i), side, job.device, job.precision)
        columns = scores[:, model.columns(ids)].T
        kept = [confident(column, settings.confident) for column in columns]
        return [Candidates(k, s[k], features[k].astype(np.float16)) for k, s in zip(kept, columns, strict=True)]

    @cache
    def compared() -> tuple[dict[int, list[Candidates]], dict[int, list[tuple[bytes, Tensor]]]]:
        """The sample: what is seen in each photograph, and class → the key and the features of each."""
        rows = sorted({i for chosen in sample.values() for i in chosen})
        found = over_processes(look, rows, job.images_at_once)
        looks = dict(zip(rows, Progress(job.part, len(rows), "photographs").count(found), strict=True))

        def features(i: int, k: int) -> Tensor:
            return torch.from_numpy(looks[i][slots[i].tolist().index(k)].features).to(job.device)

        return looks, {k: [(keys[i], features(i, k)) for i in chosen] for k, chosen in sample.items()}

    def find(i: int) -> seeds.Found:
        looks, bank = compared()
        maps = []
        for k, found in zip(slots[i].tolist(), looks[i] if i in looks else look(i), strict=False):
            others = (features for key, features in bank[k] if key != keys[i])
            distance = distances(torch.from_numpy(found.features).to(job.device), others)
            best = np.argsort(distance, kind="stable")[: settings.keep]
            # Beside the nearest, which the maximum takes out again: exp of them all may be 0.
            beside = (distance[best] - distance[best[0]]) / settings.sigma
            chosen, weights = found.which[best], found.scores[best] * np.exp(-beside)
            size = photographs.size(pictures, i)
            maps.append(votes(boxes(i)[chosen], inside(i, chosen), weights, size, settings.grid))
        return {"scores": np.stack(maps) if maps else np.zeros((0, 0, 0))}

    def all_of(rows: list[int]) -> Iterator[seeds.Found]:
        compared()  # before the processes are forked
        return over_processes(find, rows, job.images_at_once)

    return all_of


def run(job: Job) -> None:
    settings: Vote = job.settings
    tags, classifier = job.inputs["tags"], job.inputs["classifier"]
    slots, table = said.slots(tags), said.tags(tags)
    train = photographs.split(job.photographs, "train")
    sample = {int(k): evenly(train[table[train, k]], settings.partners).tolist() for k in classes.foreground(tags)}
    keys = store.row_keys(job.header, job.inputs, without=seeds.CLAIM_SETTINGS)
    compared_with = store.sha(store.canonical({k: [keys[i].hex() for i in chosen] for k, chosen in sample.items()}))

    def settle(i: int, stored: seeds.Found) -> seeds.Found:
        return {"claimed": seeds.claim(stored["scores"], settings).astype(np.uint8)}

    seeds.write(
        job,
        slots,
        settings.grid,
        {"scores": ("map", np.float16)},
        finder(job, slots, sample, keys),
        settle,
        {**classes.meta(tags), "grid": settings.grid, "rounds": [seeds.first_round(classifier)]},
        extra=(compared_with,),
    )


if __name__ == "__main__":
    cli.main(run, Vote)
