"""What a run's page says in tables and curves: protocol, classes, training, erasing, settings, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.core import show
from pipeline.core.config import Evaluate
from pipeline.core.steps import METHODS
from pipeline.kinds import classes, masks, photographs, tags
from pipeline.report import charts
from pipeline.report.dataset import Dataset
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
    """Per chain of erasing, what each round says of itself: loss, recall, share mined, why it stopped.

    A round is two steps, the training that erases and the one that mines; the first round is whatever made seeds first.
    """
    mines = [stage for stage in stages if stage.method == "mine"]
    followed = [stage.parent("seeds", stages) for stage in mines]
    found = []
    for end in mines:
        if any(end is other for other in followed):
            continue
        chain = [end]
        while before := chain[0].parent("seeds", stages):
            chain.insert(0, before)
        rows, known = [], 0
        for stage in chain:
            classifier = stage.parent("classifier", stages)
            names = [step.name for step in (classifier, stage) if step and step.method in ("erase", stage.method)]
            entries = stage.artifact.meta["rounds"]
            for number, entry in enumerate(entries[known:], known + 1):
                rows.append({"steps": names, "round": number, "colour": show.css(show.round_colour(number)), **entry})
            if len(entries) == known:
                rows.append({"steps": names, "round": None})
            known = len(entries)
        found.append({"name": end.name, "rows": rows})
    return found


def settings_of(stage: Stage, stages: Sequence[Stage]) -> dict[str, Any]:
    """A step's settings, with those marked that differ from the method's defaults, its inputs and its provenance."""
    fields = METHODS[stage.method].model_fields if stage.method in METHODS else {}
    rows = []
    for name, value in stage.settings.items():
        if name != "method":
            default = TypeAdapter(Any).dump_python(fields[name].default, mode="json") if name in fields else value
            about = (fields[name].description if name in fields else None) or ""
            rows.append({"name": name, "value": value, "changed": value != default, "about": about})
    manifest, made = stage.artifact.manifest, dict(stage.artifact.group.attrs).get("made", {})
    parents = {role: stage.parent(role, stages) for role in stage.inputs}
    inputs = [(role, parent.name if parent else "data set") for role, parent in parents.items()]
    return {"stage": stage, "rows": rows, "inputs": inputs, "manifest": manifest, "made": made}


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


def protocol(data: Dataset, stages: Sequence[Stage], seed: int, evaluate: Evaluate) -> list[tuple[str, str]]:
    """What one must know to read the numbers."""
    pictures, has_mask = data.photographs, masks.has_mask(data.masks)
    counts = []
    for name, what in (("train", "trained on"), ("score", "label quality"), ("val", "final network")):
        rows = photographs.split(pictures, name)
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
        ("data set", " · ".join(str(x) for x in (pictures.path.parent.name, pictures.meta.get("format")) if x)),
        ("images", f"{len(has_mask)}, longer side at most {pictures['rgb'].shape[1]} px; scored at original size"),
        ("splits", "; ".join(counts)),
        ("tags from", str(data.tags.meta.get("tags_from", "not recorded"))),
        ("initial weights", (nets or "none") + (f" (gray input: {gray})" if gray else "")),
        ("seed", f"{seed}"),
        ("precision", ", ".join(precisions) or "not recorded"),
        ("final network at test time", f"scales {scales}, mirror images {'yes' if evaluate.flip else 'no'}"),
        ("dense CRF at test time", "yes" if evaluate.crf else "no"),
        ("dense CRF on labels", ", ".join(refined) or "no"),
    ]


def class_legend(data: Dataset) -> list[dict[str, Any]]:
    """Every class with its id, its colour and how many images are tagged with it; the background is no tag."""
    names, table, tagged = data.classes, tags.tags(data.tags), set(classes.foreground(data.tags).tolist())
    counts = {split: table[photographs.split(data.photographs, split)].sum(0) for split in ("train", "val")}
    return [
        {
            "id": k,
            "name": name,
            "colour": show.css(colour),
            **{s: int(n[k]) if k in tagged else None for s, n in counts.items()},
        }
        for k, (name, colour) in enumerate(zip(names, show.palette(len(names)), strict=True))
    ]


def renumbered(data: Dataset) -> list[tuple[str, int]]:
    """Classes and the values that they have in the data set's own masks, where `data.classes` gave them other ids.

    From the inventory beside the data set; nothing where it is missing.
    """
    try:
        with np.load(data.photographs.path.parent / "inventory.npz", allow_pickle=False) as found:
            ids = found["values"]
    except (OSError, KeyError, ValueError):
        return []
    own = {name: np.flatnonzero(ids == k) for k, name in enumerate(data.classes) if k != data.background}
    if not masks.has_mask(data.masks).any() or all(k in own[data.classes[k]] for k in classes.foreground(data.tags)):
        return []
    return [(name, int(values[0])) for name, values in own.items() if len(values)]
