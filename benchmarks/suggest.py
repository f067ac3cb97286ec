"""Is an hour of correcting better spent on what `pipeline.suggest` names than on a random choice?

    python -m benchmarks.suggest run --base results/voc_systems --seeds 0 1 2 --work /tmp/suggest \\
        --configfile configs/voc2012.yaml benchmarks/{voc_mini,systems}.yaml
    python -m benchmarks.suggest table

Base: results of that configuration with recipe `tags`. Its network suggests; its labels the corrected masks replace
(`merge`); a new network learns from them from ImageNet weights, in the same number of steps. True masks stand
for the corrector. Candidates: the training photographs that have one. Rows go to docs/results/suggest.json at once:
those that are there are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.systems import load, scores  # noqa: E402
from pipeline.core import store  # noqa: E402
from pipeline.core.durable import write_atomic  # noqa: E402
from pipeline.kinds.photographs import ids, split  # noqa: E402

ROWS, PAGE = ROOT / "docs/results/suggest.json", ROOT / "docs/results/people.md"
BEGIN, END = "<!-- suggest: begin -->", "<!-- suggest: end -->"
LABELS = "imagenet/classify/cam/saliency/crf"


def stage(name: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", f"pipeline.{name}", *map(str, words)], check=True, cwd=ROOT)


def suggested(args: argparse.Namespace, seed: int, names: list[str], voc: Path) -> list[str]:
    """The candidates, as suggest puts them: as many as the largest count."""
    out = args.work / f"seed{seed}" / "suggest"
    if not (out / "suggest.csv").is_file():
        model = args.base / f"seed{seed}" / LABELS / "ce/model.json"
        photos = [voc / "JPEGImages" / f"{name}.jpg" for name in names]
        stage("suggest", model, *photos, "--tags", voc / "tags.csv", "--count", max(args.counts), "--out", out)
    with (out / "suggest.csv").open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def score(args: argparse.Namespace, config: object, seed: int, chosen: list[str], out: Path, voc: Path) -> dict:
    """Train from the labels of tags with these true masks over them, and score on val."""
    base, photographs = args.base, args.base / "photographs.json"
    masks = out / "SegmentationClass"
    masks.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        if not (masks / f"{name}.png").exists():
            (masks / f"{name}.png").symlink_to(voc / "SegmentationClass" / f"{name}.png")
    data = config.data.model_copy(update={"voc": config.data.voc.model_copy(update={"root": voc, "masks": str(masks)})})
    stage(
        "prepare",
        "--make",
        "masks",
        "--photographs",
        photographs,
        "--settings",
        data.model_dump_json(),
        "--out",
        out / "masks.json",
    )
    common = ["--photographs", photographs]
    few, labels, model = out / "few/labels.json", out / "merged/labels.json", out / "ce/model.json"
    stage(
        "masks",
        *common,
        "--tags",
        base / "tags.json",
        "--masks",
        out / "masks.json",
        "--settings",
        '{"method": "masks"}',
        "--out",
        few,
        "--seed",
        seed,
    )
    pseudo = base / f"seed{seed}" / LABELS / "labels.json"
    stage("merge", *common, "--true", few, "--pseudo", pseudo, "--settings", '{"method": "merge"}', "--out", labels)
    weights = next((base / "imagenet").rglob("weights.json"))
    compute = ["--threads", 1]
    given = config.steps["ce"].model_dump_json()
    stage(
        "segment",
        *common,
        "--labels",
        labels,
        "--weights",
        weights,
        "--seed",
        seed,
        "--settings",
        given,
        "--out",
        model,
        *compute,
    )
    metrics = out / "ce/model.metrics.json"
    settings = config.evaluate.model_dump_json()
    stage(
        "evaluate",
        *common,
        "--masks",
        args.work / "masks.json",
        "--of",
        model,
        "--settings",
        settings,
        "--out",
        metrics,
        *compute,
    )
    return scores(store.Artifact(metrics, "metrics"))


def run(args: argparse.Namespace) -> None:
    config = load(args.configfile)
    voc = (ROOT / config.data.voc.root).resolve()
    photographs = store.Artifact(args.base / "photographs.json", "photographs")
    whole = config.data.model_copy(update={"voc": config.data.voc.model_copy(update={"root": voc})})
    given = ["--photographs", photographs.path, "--settings", whole.model_dump_json()]
    stage("prepare", "--make", "masks", *given, "--out", args.work / "masks.json")  # those of base may be older
    everyone = ids(photographs)
    names = [everyone[row] for row in split(photographs, "score")]
    rows = json.loads(ROWS.read_text()) if ROWS.is_file() else []
    done = {(row["seed"], row["count"], row["by"]) for row in rows}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    for seed in args.seeds:
        if (seed, 0, "tags") not in done:
            found = scores(store.Artifact(args.base / f"seed{seed}" / LABELS / "ce/model.metrics.json", "metrics"))
            rows.append(
                {
                    "seed": seed,
                    "count": 0,
                    "by": "tags",
                    "miou": found["miou"],
                    "classes": found["classes"],
                    "commit": commit,
                }
            )
        order = {"suggest": suggested(args, seed, names, voc), "random": random.Random(seed).sample(names, len(names))}
        for count in args.counts:
            for by in ("suggest", "random"):
                if (seed, count, by) in done:
                    continue
                out = args.work / f"seed{seed}" / f"{by}-{count}"
                found = score(args, config, seed, order[by][:count], out, voc)
                rows.append(
                    {
                        "seed": seed,
                        "count": count,
                        "by": by,
                        "miou": found["miou"],
                        "classes": found["classes"],
                        "commit": commit,
                    }
                )
                write_atomic(ROWS, json.dumps(rows, indent=1) + "\n")
                print(f"seed {seed}: {count} by {by}: {found['miou']}", flush=True)


def table() -> str:
    rows = json.loads(ROWS.read_text())
    lines = ["| corrected masks | chosen by suggest | at random | seeds |", "|---|---|---|---|"]
    for count in sorted({row["count"] for row in rows}):
        cells = []
        for by in ("suggest", "random") if count else ("tags", "tags"):
            cells.append([row["miou"] for row in rows if row["count"] == count and row["by"] == by])
        shown = [" / ".join(f"{value:.1f}" for value in found) for found in cells]
        lines.append(f"| {count} | {shown[0]} | {shown[1]} | {max(map(len, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--configfile", type=Path, nargs="+", default=[])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 100])
    args = parser.parse_args()
    if args.what == "run":
        args.base, args.work = args.base.resolve(), args.work.resolve()
        run(args)
        return
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
