"""Does prohibitive segmentation learning train as fast as plain `segment`? Both in turns, in one process and thread.

    python benchmarks/psl_speed.py [--width 256] [--turns 9]

Training steps on random pictures (batch 16, crops of 112 and 160 px) of an EfficientNet-Lite0 at stride 16 with random
weights: forward, backward and optimizer. Prints for each head and crop the ratio of images per second, psl / segment,
over the turns: median, least, most. Times are CPU seconds of the process, so that others on the machine matter little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.core.loop import objective
from pipeline.core.train import autocast
from pipeline.networks.backbones import backbone
from pipeline.networks.prohibitive import Prohibitive
from pipeline.networks.segmenter import Segmenter
from pipeline.psl import psl_step
from pipeline.segment import hard_step

CLASSES, BATCH = 7, 16


def batch_of(crop: int) -> dict[str, Tensor]:
    torch.manual_seed(crop)
    image = torch.randint(0, 256, (BATCH, 3, crop, crop), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    return {
        "image": image,
        "label": torch.randint(0, CLASSES, (BATCH, crop, crop), dtype=torch.uint8),
        "tags": torch.rand(BATCH, CLASSES) < 0.4,
        "inside": torch.ones(BATCH, crop, crop, dtype=torch.bool),
    }


def trainer(net: nn.Module, step: Callable, batch: dict[str, Tensor], precision: str) -> Callable[[], float]:
    """A function that takes one training step and says what it cost, in seconds."""
    net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def one() -> float:
        started = time.process_time()
        with autocast("cpu", precision):
            losses = step(net, batch)
        loss = objective(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return time.process_time() - started

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--width", type=int, default=256, help="channels of the head; 256 is the default of both methods"
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    foreground = list(range(1, CLASSES))
    for head in ("deeplabv3+", "largefov"):
        for crop in (112, 160):
            batch, made = (
                batch_of(crop),
                (Segmenter(backbone("efficientnet_lite0", 16), head, CLASSES, args.width, 16) for _ in "12"),
            )
            plain = trainer(next(made), hard_step, batch, args.precision)
            prohibitive = trainer(Prohibitive(next(made), foreground), psl_step(foreground, 0), batch, args.precision)
            plain(), prohibitive()  # the first steps allocate
            times = np.array([(plain(), prohibitive()) for _ in range(args.turns)])
            ratio, speed = times[:, 0] / times[:, 1], BATCH / np.median(times, 0)
            print(
                f"{head}, width {args.width}, crop {crop}, {args.precision}: psl / segment = {np.median(ratio):.3f} "
                f"(least {ratio.min():.3f}, most {ratio.max():.3f}; {speed[1]:.1f} and {speed[0]:.1f} images/s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
