"""What a run's page says in tables and curves: protocol, classes, training, erasing, settings, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.core import charts, data, show, store
from pipeline.core.config import METHODS, Evaluate
from pipeline.report.ladder import Stage


def training_curves(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    found = []
    for stage in stages:
        names = sorted(name for name in stage.artifact.manifest["arrays"] if name.startswith("curve_"))
        curves = {name.removeprefix("curve_"): stage.artifact.read(name) for name in names}
        series = [charts.Line(name, np.arange(1, len(y) + 1).tolist(), y.tolist()) for name, y in curves.items()]
        if any(len(line.y) for line in series):
            last = ", ".join(f"{line.name} {line.y[-1]:.4g}" for line in series if len(line.y))
            found.append({"name": stage.name, "chart": charts.lines(series, "epoch"), "last": last})
    return found


def erasing_rounds(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """What the last erasing round of each chain knows of all rounds: loss, recall, share mined, why it stopped."""
    followed = [stage.parent("seeds", stages) for stage in stages if stage.method == "erase"]
    ends = [stage for stage in stages if stage.method == "erase" and not any(stage is other for other in followed)]
    found = []
    for end in ends:
        chain = [end]
        while before := chain[0].parent("seeds", stages):
            chain.insert(0, before)
        rounds = end.artifact.meta["rounds"]
        rows = [
            {"stage": stage.name, "colour": show.css(show.round_colour(number)), **entry, "passed": False}
            for number, (stage, entry) in enumerate(zip(chain, rounds, strict=False), 1)
        ]
        rows += [{"stage": stage.name, "passed": True} for stage in chain[len(rounds) :]]
        found.append({"name": end.name, "rows": rows})
    return found


def settings_of(stage: Stage) -> dict[str, Any]:
    """A step's settings, with those marked that differ from the method's defaults, and its provenance."""
    fields = METHODS[stage.method].model_fields if stage.method in METHODS else {}
    rows = []
    for name, value in stage.settings.items():
        if name != "method":
            default = TypeAdapter(Any).dump_python(fields[name].default, mode="json") if name in fields else value
            about = (fields[name].description if name in fields else None) or ""
            rows.append({"name": name, "value": value, "changed": value != default, "about": about})
    manifest, made = stage.artifact.manifest, dict(stage.artifact.group.attrs).get("made", {})
    return {"stage": stage, "rows": rows, "manifest": manifest, "made": made}


def costs(stages: Sequence[Stage]) -> dict[str, Any]:
    measured = [stage.cost for stage in stages if stage.cost]
    seconds = [cost["seconds"] for cost in measured if math.isfinite(cost["seconds"])]
    memory = [cost["memory"] for cost in measured if math.isfinite(cost["memory"])]
    return {
        "total": sum(seconds) if seconds else math.nan,
        "longest": max(seconds, default=math.nan),
        "peak": max(memory, default=math.nan),
        "missing": len(stages) - len(measured),
    }


def protocol(images: store.Artifact, stages: Sequence[Stage], seed: int, evaluate: Evaluate) -> list[tuple[str, str]]:
    """What one must know to read the numbers."""
    meta, has_mask = images.meta, images.read("has_mask")
    counts = []
    for name, what in (("train", "trained on"), ("score", "label quality"), ("val", "final network")):
        rows = data.split(images, name)
        counts.append(f"{name} {len(rows)} ({what}; {int(has_mask[rows].sum())} with masks)")
    weights = [stage for stage in stages if stage.kind == "weights"]
    nets = ", ".join(f"{stage.name}: {stage.artifact.meta['backbone']}" for stage in weights)
    gray = ", ".join(stage.name for stage in weights if stage.artifact.meta.get("gray"))
    precisions = sorted({p for stage in stages if (p := stage.artifact.manifest.get("precision"))})
    refined = [
        stage.name for stage in stages if stage.settings.get("crf") is True or stage.settings.get("refine") == "crf"
    ]
    scales = " ".join(f"{scale:g}" for scale in evaluate.scales)
    return [
        ("data set", " · ".join(str(x) for x in (images.path.parent.name, meta.get("format")) if x)),
        ("images", f"{len(has_mask)}, longer side at most {images['rgb'].shape[1]} px; scored at original size"),
        ("splits", "; ".join(counts)),
        ("tags from", str(meta.get("tags_from", "not recorded"))),
        ("initial weights", (nets or "none") + (f" (gray input: {gray})" if gray else "")),
        ("seed", f"{seed}"),
        ("precision", ", ".join(precisions) or "not recorded"),
        ("final network at test time", f"scales {scales}, mirror images {'yes' if evaluate.flip else 'no'}"),
        ("dense CRF at test time", "yes" if evaluate.crf else "no"),
        ("dense CRF on labels", ", ".join(refined) or "no"),
    ]


def class_legend(images: store.Artifact) -> list[dict[str, Any]]:
    names, tags = data.class_names(images), data.image_tags(images)
    counts = {split: tags[data.split(images, split)].sum(0) for split in ("train", "val")}
    return [
        {"name": name, "colour": show.css(colour), **{s: int(n[k - 1]) if k else None for s, n in counts.items()}}
        for k, (name, colour) in enumerate(zip(names, show.palette(len(names)), strict=True))
    ]
