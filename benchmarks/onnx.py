"""Sizes and agreement of ONNX files: every head over three backbones, and models that are given.

    python -m benchmarks.onnx [model.json ...]

Networks have random weights, five classes, stride 16 and heads of 256 channels; their scores are shifted until every
class is shown somewhere. Each is exported and compared as `pipeline.export` does it, on its 12 built-in pictures.
Writes docs/results/onnx.json and prints the table of docs/export.md. A minute or two on one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.speed import machine
from pipeline import export
from pipeline.core import store
from pipeline.core.steps.models import Segment
from pipeline.datasets.collage import compose
from pipeline.networks.backbones import backbone
from pipeline.networks.door import open_network
from pipeline.networks.graph import onnx_bytes
from pipeline.networks.segmenter import Segmenter, segmenter_meta
from pipeline.networks.states import packed

JSON = Path(__file__).resolve().parents[1] / "docs" / "results" / "onnx.json"
NAMES = ["background", "cat", "owl", "fish", "beetle"]


def random_model(path: Path, name: str, head: str, stride: int = 16, width: int = 256) -> Path:
    """A `model` artifact of random weights whose scores are of mean 0 and deviation 1 on one picture."""
    torch.manual_seed(0)
    net = Segmenter(backbone(name, stride), head, len(NAMES), width, stride).eval()
    score: Any = net.head.score
    x = torch.from_numpy(compose(0, 1)[0]).permute(2, 0, 1)[None]
    with torch.no_grad():
        score.weight /= net(x)[0].flatten(1).std(1)[:, None, None, None]
        score.bias.zero_()
        score.bias -= net(x)[0].flatten(1).mean(1)
    arrays, index = packed(net.state_dict())
    settings = Segment(head=head, crop=64).model_dump(mode="json")  # type: ignore[arg-type]
    header = store.Header("model", "segment", settings, "benchmark")
    store.write_table(path, header, arrays, {"index": index, **segmenter_meta(net, NAMES, 0, 160)})
    return path


def row(path: Path, weights: str) -> dict[str, Any]:
    artifact = store.Artifact(path, "model")
    started = time.process_time()
    network = open_network(artifact)
    content = onnx_bytes(network)
    seconds = time.process_time() - started
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = [export.compared(network, session, *picture) for picture in export.shown_sizes(None, network.max_side)]
    about = {key: artifact.meta[key] for key in ("backbone", "head", "stride", "width")}
    return {
        **about,
        "weights": weights,
        "megabytes": round(len(content) / 1e6, 1),
        "agreement": round(sum(one.same for one in found) / len(found), 6),
        "worst": round(min(one.same for one in found), 6),
        "classes_shown": len(frozenset[int]().union(*(one.shown for one in found))),
        "seconds": round(seconds, 1),
        "commit": commit(),
        "machine": f"{machine()}, onnxruntime {onnxruntime.__version__}",
    }


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| backbone | head | file, MB | pixels alike | worst photograph |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['backbone']}{'' if one['weights'] == 'random' else ', ' + one['weights']} | {one['head']} | "
        f"{one['megabytes']} | {one['agreement']:.3%} | {one['worst']:.3%} |"
        for one in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("efficientnet_lite0", "resnet18", "vgg16"):
            for head in ("deeplabv3+", "largefov", "hypercolumn"):
                rows.append(row(random_model(Path(folder, f"{name}-{len(rows)}.json"), name, head), "random"))
                print(rows[-1], flush=True)
    rows += [row(Path(path), "trained") for path in sys.argv[1:]]
    JSON.write_text("[\n" + ",\n".join(json.dumps(one) for one in rows) + "\n]\n")
    print(table(rows))


if __name__ == "__main__":
    main()
