"""How much a frozen backbone knows: a linear classifier of the image tags on its globally averaged features.

    python -m pipeline.init --settings '{"method": "random"}' --out random.json
    python -m pipeline.proxy --photographs photographs.json --out colorization.json
    python benchmarks/linear_probe.py --photographs photographs.json --tags tags.json \
        --weights random.json colorization.json

Fits one logistic regression per tag on the training images and prints the mean average precision on the validation
images, for the last stage, the one before it, and both together. Features are brought to mean 0 and deviation 1; the
strength of the penalty is chosen by cross-validation within the training images, never on the validation images.
BatchNorm statistics are taken anew from the training images, for all weights alike: random ones have none so far.
`--gray` shows all of them gray photographs, as colorization trains with.
About 20 ms per image of 128 px and backbone (resnet18), and for 2,651 training images a minute for the regressions.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.core import cli, store  # noqa: E402
from pipeline.kinds import photographs  # noqa: E402
from pipeline.kinds import tags as said  # noqa: E402
from pipeline.kinds.crops import Crops  # noqa: E402
from pipeline.networks.backbones import load_backbone  # noqa: E402
from pipeline.networks.pictures import to_tensor  # noqa: E402
from pipeline.networks.trunk import Backbone  # noqa: E402

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 3


@torch.no_grad()
def take_norms(net: Backbone, pictures: store.Artifact, rows: np.ndarray) -> None:
    """BatchNorm statistics from crops of these images: the mean over 20 batches."""
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain mean
    crops = Crops(pictures, 96, (0.7, 1.5), 0.0, photographs.mean_colour(pictures, rows))
    rng = np.random.default_rng(0)
    net.train()
    for _ in range(20):
        batch = np.stack([crops(int(i), rng)["image"] for i in rng.choice(rows, 32)])
        net(torch.from_numpy(batch))
    net.eval()


@torch.inference_mode()
def pooled(net: Backbone, pictures: store.Artifact, rows: np.ndarray) -> list[np.ndarray]:
    """Mean over each image of the features of the two last stages: float64 [R,D] each."""
    found = []
    for i in rows:
        maps = net(to_tensor(photographs.image(pictures, int(i)))[None])[-2:]
        found.append([m[0].double().mean((1, 2)).numpy() for m in maps])
    return [np.stack(level) for level in zip(*found, strict=True)]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean precision at the rank of each positive: the area under the precision-recall curve, without interpolation."""
    hits = truth[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def mean_average_precision(scores: np.ndarray, tags: np.ndarray) -> float:
    """Over the tags that occur."""
    return float(
        np.mean([average_precision(scores[:, c], tags[:, c]) for c in range(tags.shape[1]) if tags[:, c].any()])
    )


def fit(features: np.ndarray, tags: np.ndarray, penalty: float) -> np.ndarray:
    """Logistic regressions, one per tag, with penalty · |w|²/2 on the weights: float64 [D+1,C], the bias last."""
    x, y = torch.from_numpy(features), torch.from_numpy(tags.astype(np.float64))
    weights = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        error = F.binary_cross_entropy_with_logits(x @ weights + bias, y, reduction="none").sum(1).mean()
        total = error + penalty / 2 * weights.square().sum()
        total.backward()
        return total

    solver.step(loss)
    return torch.cat([weights, bias[None]]).detach().numpy()


def scores(train: np.ndarray, tags: np.ndarray, test: np.ndarray, penalty: float) -> np.ndarray:
    """Of `test`, after fitting on `train`: float64 [R,C]."""
    mean, deviation = train.mean(0), train.std(0).clip(1e-8)
    weights = fit((train - mean) / deviation, tags, penalty)
    return (test - mean) / deviation @ weights[:-1] + weights[-1]


def best_penalty(features: np.ndarray, tags: np.ndarray) -> float:
    """The penalty with the best mean average precision on held-out folds of the training images."""
    fold = np.random.default_rng(0).permutation(len(features)) % FOLDS

    def held_out(penalty: float) -> float:
        out = np.empty(tags.shape)
        for k in range(FOLDS):
            out[fold == k] = scores(features[fold != k], tags[fold != k], features[fold == k], penalty)
        return mean_average_precision(out, tags)

    return max(PENALTIES, key=held_out)


def probe(pictures: store.Artifact, known: np.ndarray, net: Backbone) -> dict[str, tuple[float, float]]:
    """Mean average precision on the validation images and the penalty chosen, by features used."""
    rows = {name: photographs.split(pictures, name) for name in ("train", "val")}
    tags = {name: known[rows[name]] for name in rows}
    take_norms(net, pictures, rows["train"])
    levels = {name: pooled(net, pictures, rows[name]) for name in rows}
    out = {}
    for name, chosen in {"last": slice(1, 2), "before": slice(0, 1), "both": slice(0, 2)}.items():
        train, val = (np.concatenate(levels[split][chosen], 1) for split in ("train", "val"))
        penalty = best_penalty(train, tags["train"])
        out[name] = mean_average_precision(scores(train, tags["train"], val, penalty), tags["val"]), penalty
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="manifest of photographs (.json)")
    parser.add_argument("--tags", type=Path, required=True, help="manifest of tags (.json)")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="manifests of weights (.json)")
    parser.add_argument("--gray", action="store_true", help="all weights see gray photographs")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    def work() -> None:
        cli.limit_threads(args.threads)
        pictures = store.Artifact(args.photographs, "photographs")
        known = said.tags(store.Artifact(args.tags, "tags"))
        tags = known[photographs.split(pictures, "val")]
        print(f"chance: mAP {100 * tags.mean(0)[tags.any(0)].mean():.1f}")
        for path in args.weights:
            started = time.monotonic()
            net = load_backbone(store.Artifact(path, "weights"), 32)
            net.gray = net.gray or args.gray
            found = probe(pictures, known, net)
            text = "  ".join(
                f"{name} {100 * value:.1f} (penalty {penalty:g})" for name, (value, penalty) in found.items()
            )
            print(f"{path}: mAP  {text}  {time.monotonic() - started:.0f} s", flush=True)

    cli.guarded(work)


if __name__ == "__main__":
    main()
