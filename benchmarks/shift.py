"""How far a backbone's maps lie from where the object is: a planted object, at every backbone and stride.

    python -m benchmarks.shift [backbone ...]

A patch is put on a photograph-like ground; the centre of mass of what it changes in the last feature map is compared
with the patch's own, over positions that cover a whole cell and two image sizes. Prints shift down and to the right
in pixels, mean ± standard error, before (padding 'legacy') and after ('aligned'). EfficientNet-Lite0 has its ImageNet
weights; the others random ones, which have learnt no place yet: there only the difference between strides counts.
`--weights FILE` measures a state dict of ours instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pipeline.networks.backbones import BACKBONES, Backbone, backbone
from pipeline.networks.imagenet import load_imagenet, read_state

SIZES = ((320, 352), (416, 320))
PATCH = 20  # pixels


def shifts(net: Backbone, sizes: tuple[tuple[int, int], ...] = SIZES, positions: int = 8, seed: int = 0) -> np.ndarray:
    """Shift in pixels, down and to the right, of every picture: float64 [pictures, 2]."""
    rng = np.random.default_rng(seed)
    out = []
    for height, width in sizes:
        for step, other in enumerate(rng.permutation(positions)):
            top, left = ((side - PATCH) // 2 - 16 + 32 * k // positions for side, k in ((height, step), (width, other)))
            ground = rng.normal(120, 12, (3, height, width))
            object_ = ground.copy()
            object_[:, top : top + PATCH, left : left + PATCH] = rng.normal(0, 30, (3, PATCH, PATCH)) + rng.uniform(
                0, 255, (3, 1, 1)
            )
            pair = torch.from_numpy(np.stack([ground, object_]).clip(0, 255).astype(np.uint8))
            with torch.no_grad():
                maps = net(net.whole(pair))[-1]
            change = (maps[1] - maps[0]).abs().sum(0).double().numpy()
            change = np.clip(change - 0.2 * change.max(), 0, None)  # the far tail of the receptive field is cut off
            rows, columns = (
                (np.arange(n) + 0.5) * (-(-side // 32) * 32 / n)
                for n, side in zip(change.shape, (height, width), strict=True)
            )
            total = change.sum()
            found = (change.sum(1) @ rows / total, change.sum(0) @ columns / total)
            out.append((found[0] - top - PATCH / 2, found[1] - left - PATCH / 2))
    return np.array(out)


def measured(name: str, stride: int, padding: str, weights: Path | None = None, **options: int) -> np.ndarray:
    torch.manual_seed(0)
    net = backbone(name, stride, padding).eval()
    if weights:
        net.load_state_dict(read_state(weights))
    elif name == "efficientnet_lite0":
        load_imagenet(net, None)
    return shifts(net, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=list(BACKBONES))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--positions", type=int, default=8)
    args = parser.parse_args()
    print("| backbone | stride | before: down, right | after: down, right |\n|---|---|---|---|")
    for name in args.backbones:
        for stride in (32, 16, 8):
            cells = []
            for padding in ("legacy", "aligned"):
                found = measured(name, stride, padding, args.weights, positions=args.positions)
                error = found.std(0) / len(found) ** 0.5
                cells.append(", ".join(f"{mean:+.1f} ± {e:.1f}" for mean, e in zip(found.mean(0), error, strict=True)))
            print(f"| {name} | {stride} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
