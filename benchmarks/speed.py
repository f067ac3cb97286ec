"""How fast the kernels are, each beside a peer that gives the same numbers: both in turns, in one process.

    python -m benchmarks.speed [WHAT ...] [--turns 7] [--threads 1]      (peers: pip install '.[peers]')

Writes docs/results/speed.json, a row per comparison, and the table in docs/results/speed.md: the ratio of the peer's
CPU seconds to ours over the turns (median, least, most), how far the results agree (largest relative difference of a
gradient's norm), and the bar it is held against. Rows of comparisons that were not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.kernels import dilated as kernel  # noqa: E402
from pipeline.kernels.contrast import Pixels, paper, released  # noqa: E402
from pipeline.kernels.dilated import conv2d  # noqa: E402
from pipeline.kernels.pixel_losses import pixel_loss  # noqa: E402
from pipeline.kernels.triplets import all_triplet_terms, embed  # noqa: E402
from pipeline.networks import padding  # noqa: E402
from pipeline.networks.backbones import backbone  # noqa: E402
from pipeline.networks.segmenter import Segmenter  # noqa: E402

RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
BF16 = torch.backends.cpu.get_cpu_capability() in ("AVX512_BF16", "AMX") or "amx" in Path("/proc/cpuinfo").read_text()
Run = Callable[[], Tensor]  # does the work and gives the gradient


class Comparison(NamedTuple):
    what: str
    peer: str
    size: str
    ours: Run
    theirs: Run
    bar: float | None = None


def class_map(side: int) -> Tensor:
    """A label map of five classes that photographs could have: background, two large objects, two small ones."""
    y, x = (torch.arange(side).float() / side for _ in range(2))
    y, x = torch.meshgrid(y, x, indexing="ij")
    out = torch.zeros(side, side, dtype=torch.long)
    for number, (row, column, radius) in enumerate(
        [(0.3, 0.3, 0.23), (0.7, 0.6, 0.24), (0.2, 0.8, 0.1), (0.9, 0.1, 0.05)]
    ):
        out[(y - row) ** 2 + (x - column) ** 2 < radius**2] = number + 1
    return out.flatten()


def unit_features(classes: Tensor, width: int = 256) -> Tensor:
    torch.manual_seed(0)
    return F.normalize(torch.randn(len(classes), width) + torch.randn(5, width)[classes] / 2, dim=1)


def plain_contrast(features: Tensor, classes: Tensor, form: str, temperature: float = 0.07) -> Tensor:
    """The loss as one would write it: all pairs at once."""
    s = features @ features.T / temperature
    positive = (classes[:, None] == classes[None]).to(s.dtype)
    e = s.exp()
    against = (e * (1 - positive)).sum(1, keepdim=True) + (
        e if form == "released" else (e * positive).sum(1, keepdim=True)
    )
    return ((against.log() - s) * positive).sum(1).div(positive.sum(1)).sum()


def contrast_run(side: int, form: str, kind: torch.dtype = torch.float32) -> Run:
    classes = class_map(side)
    features, image = unit_features(classes).to(kind), torch.zeros_like(classes)

    def run() -> Tensor:
        leaf = features.clone().requires_grad_()
        both = Pixels(leaf, classes, image)
        return torch.autograd.grad((released(both, 0.07) if form == "released" else paper(both, both, 0.07))[0], leaf)[
            0
        ]

    return run


def plain_run(side: int, form: str, loss: Callable[..., Tensor] = plain_contrast) -> Run:
    classes = class_map(side)
    features = unit_features(classes)

    def run() -> Tensor:
        leaf = features.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, classes, form), leaf)[0]

    return run


def contrast() -> Iterator[Comparison]:
    compiled = torch.compile(plain_contrast)
    for form in ("released", "paper"):
        name = f"pixel contrast, {form} form"
        bars = (3.3, 1.5) if form == "released" else (None, None)
        yield Comparison(
            f"{name}, f32", "plain torch", "4,225 px, d 256", contrast_run(65, form), plain_run(65, form), bars[0]
        )
        yield Comparison(
            f"{name}, f32",
            "torch.compile",
            "4,225 px, d 256",
            contrast_run(65, form),
            plain_run(65, form, compiled),
            bars[1],
        )
        if BF16:
            low = contrast_run(65, form, torch.bfloat16)
            yield Comparison(f"{name}, bf16", "plain torch, f32", "4,225 px, d 256", low, plain_run(65, form), 8.0)
            yield Comparison(
                f"{name}, bf16", "torch.compile, f32", "4,225 px, d 256", low, plain_run(65, form, compiled), 4.0
            )
    yield Comparison("pixel contrast, released form, f32", "plain torch", "10,000 px, d 256",
                     contrast_run(100, "released"), plain_run(100, "released"))  # fmt: skip


def triplets() -> Iterator[Comparison]:
    """Every triplet of 1,000 patches, against pytorch-metric-learning, which lists them."""
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.reducers import MeanReducer

    torch.manual_seed(0)
    features, labels = embed(torch.rand(1000, 128, 1, 1)), torch.randint(20, (1000,))
    peer = TripletMarginLoss(
        margin=2.1, distance=LpDistance(power=2, normalize_embeddings=False), reducer=MeanReducer()
    )

    def ours() -> Tensor:
        leaf = features.clone().requires_grad_()
        total, count = all_triplet_terms(leaf, labels)
        return torch.autograd.grad(total / count, leaf)[0]

    def theirs() -> Tensor:
        leaf = features.clone().requires_grad_()
        return torch.autograd.grad(peer(leaf, labels) / 2, leaf)[0]

    yield Comparison("match: all", "pytorch-metric-learning", "1,000 patches, d 128", ours, theirs)


def gradients_of(layer: Callable[..., Tensor], channels: int, out: int, kernel: int, groups: int) -> Run:
    torch.manual_seed(0)
    x = torch.randn(16, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out, channels // groups, kernel, kernel)
    grad = torch.randn(16, out, 8, 8).contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        return torch.cat([g.flatten() for g in torch.autograd.grad(layer(*leaves), leaves, grad)])

    return run


def dilated() -> Iterator[Comparison]:
    """Both gradients of EfficientNet-Lite0's dilated depthwise layers, and of a branch of DeepLab-v3+."""
    deep, branch = (1152, 1152, 5, 1152), (1280, 64, 3, 1)
    yield Comparison(
        "dilated convolution, 5x5 depthwise of 1,152 channels, dilation 2",
        "torch",
        "16 maps of 8x8",
        gradients_of(lambda x, w: conv2d(x, w, None, 4, 2, 1152), *deep),
        gradients_of(lambda x, w: F.conv2d(x, w, None, 1, 4, 2, 1152), *deep),
    )
    yield Comparison(
        "dilated convolution, 3x3 from 1,280 to 64 channels, dilation 12",
        "torch",
        "16 maps of 8x8",
        gradients_of(lambda x, w: conv2d(x, w, None, 12, 12), *branch),
        gradients_of(lambda x, w: F.conv2d(x, w, None, 1, 12, 12), *branch),
    )


def training_step(layer: Callable[..., Tensor]) -> Run:
    """Forward, backward and optimizer of EfficientNet-Lite0 under DeepLab-v3+ at stride 16; layer: its dilated ones."""
    torch.manual_seed(0)
    net = Segmenter(backbone("efficientnet_lite0", 16), "deeplabv3+", 7, 64, 16).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 0.0)  # so that every turn has the same gradients
    image = torch.randint(0, 256, (16, 3, 112, 112), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 7, (16, 112, 112), dtype=torch.uint8)

    def run() -> Tensor:
        torch.manual_seed(0)  # dropout
        with patch.object(kernel, "conv2d", layer), patch.object(padding, "conv2d", layer):
            total, count = pixel_loss(net(image), label)
            optimizer.zero_grad(set_to_none=True)
            (total / count).backward()
            optimizer.step()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    return run


def training() -> Iterator[Comparison]:
    def plain(x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, dilation: int, groups: int = 1) -> Tensor:
        return F.conv2d(x, weight, bias, 1, pad, dilation, groups)

    yield Comparison(
        "a training step, EfficientNet-Lite0 and DeepLab-v3+, f32",
        "torch's gradients of dilated layers",
        "16 crops of 112 px",
        training_step(conv2d),
        training_step(plain),
    )


GROUPS: dict[str, Callable[[], Iterator[Comparison]]] = {
    "contrast": contrast,
    "triplets": triplets,
    "dilated": dilated,
    "training": training,
}


def took(run: Run) -> tuple[float, Tensor]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def compare(found: Comparison, turns: int, threads: int) -> dict[str, Any]:
    ours, theirs = found.ours().float(), found.theirs().float()  # the first time of each is not counted
    agreement = float((ours - theirs).norm() / theirs.norm())
    ratios, own = [], []
    for _ in range(turns):
        a, b = took(found.ours)[0], took(found.theirs)[0]
        ratios.append(b / a)
        own.append(a)
    median = statistics.median(ratios)
    return {
        "what": found.what,
        "peer": found.peer,
        "size": found.size,
        "threads": threads,
        "ratio_median": round(median, 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "seconds": round(statistics.median(own), 4),
        "agreement": float(f"{agreement:.1e}"),
        "bar": found.bar,
        "met": None if found.bar is None else median >= found.bar,
        "machine": machine(),
    }


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.split('+')[0]}"


def resident() -> float:
    """MB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak(side: int) -> tuple[float, float]:
    """MB above the features that loss and gradient take, looked at every two milliseconds, and seconds."""
    run = contrast_run(side, "released")
    contrast_run(16, "released")()  # what torch itself sets up
    before, seen, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return max(seen) - before, seconds


def memory(threads: int) -> Iterator[dict[str, Any]]:
    for side, bar in ((100, 200.0), (255, None)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            used, seconds = pool.apply(peak, (side,))
        yield {
            "what": "pixel contrast, released form, f32: MB above the features",
            "peer": "",
            "size": f"{side * side:,} px, d 256",
            "threads": threads,
            "value": round(used),
            "unit": "MB",
            "seconds": round(seconds, 2),
            "bar": bar,
            "met": None if bar is None else used < bar,
            "machine": machine(),
        }


def every_triplet(threads: int) -> Iterator[dict[str, Any]]:
    """Seconds of loss and gradient of all triplets there are among 100,000 patches: the median of seven."""
    torch.manual_seed(0)
    features, labels = embed(torch.rand(100_000, 128, 1, 1)), torch.randint(20, (100_000,))

    def once() -> float:
        leaf = features.clone().requires_grad_()
        started = time.perf_counter()
        total, count = all_triplet_terms(leaf, labels)
        torch.autograd.grad(total / count, leaf)
        return time.perf_counter() - started

    seconds = statistics.median(once() for _ in range(7))
    yield {
        "what": "match: all: seconds of loss and gradient",
        "peer": "",
        "size": "100,000 patches, d 128",
        "threads": threads,
        "value": round(seconds, 3),
        "unit": "s",
        "seconds": round(seconds, 3),
        "bar": 1.0,
        "met": seconds < 1.0,
        "machine": machine(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| what | peer | size | threads | peer ÷ ours: median (least to most) | ours, s | agreement | bar | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "value" in row:
            ratio, agreement = f"{row['value']} {row['unit']}", ""
        else:
            ratio = f"{row['ratio_median']} ({row['ratio_min']} to {row['ratio_max']})"
            agreement = f"{row['agreement']:.0e}"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        bar = "" if row["bar"] is None else row["bar"]
        cells = (row["what"], row["peer"], row["size"], row["threads"], ratio, row["seconds"], agreement, bar, met)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    machines = "; ".join(dict.fromkeys(row["machine"] for row in rows))
    return "\n".join([*lines, "", f"Machine: {machines}.", ""])


ALONE = {"memory": memory, "every_triplet": every_triplet}  # without a peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*GROUPS, *ALONE], default=[*GROUPS, *ALONE])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for name in args.what:
        if name in ALONE:
            made = ALONE[name](args.threads)
        else:
            made = (compare(found, args.turns, args.threads) for found in GROUPS[name]())
        for row in made:
            print(json.dumps(row), flush=True)
            rows.append(row)
    before = json.loads(args.json.read_text()) if args.json.is_file() else []

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["what"], row["peer"], row["size"], row["threads"]

    fresh = {key(row): row for row in rows}
    kept = [fresh.pop(key(row), row) for row in before]
    rows = [*kept, *fresh.values()]
    args.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    page = args.json.with_suffix(".md")
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
