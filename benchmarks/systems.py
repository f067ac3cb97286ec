"""Studies of whole systems: run them, collect their scores into a JSON file, and write tables into a Markdown file.

    python -m benchmarks.systems run --configfile configs/voc2012.yaml benchmarks/voc_mini.yaml benchmarks/systems.yaml
    python -m benchmarks.systems tables

`run` goes through the seeds one by one: Snakemake, then `collect`; stopped at any moment, the same command goes on.
`collect` reads metrics artifacts that exist and says which are missing; rows of other data sets stay. One row per
recipe, stage, split and seed: mIoU (of seeds, at their best single threshold), what seeds claim, IoU of each class,
mIoU after each number of steps of a descent (DIS), coverage, seconds, the artifact's digest, and the commit of the
checkout that first collected that digest.
`tables` rewrites what stands between the markers in docs/results/systems.md, and docs/results/claims.md with its
claims.json (benchmarks/claims.py); the text around is written by hand. `--json`, `--markdown`: of another study.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import claims  # noqa: E402
from pipeline.core import metrics, recipe, store  # noqa: E402
from pipeline.core.config import Config, parse  # noqa: E402

RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
Row = dict[str, Any]


def merged(base: dict, over: dict) -> dict:
    """Snakemake's rule for several config files: blocks merge, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def load(files: list[Path]) -> Config:
    raw: dict = {}
    for file in [ROOT / "config.yaml", *files]:
        raw = merged(raw, yaml.safe_load(file.read_text()))
    return parse(raw)


def seconds(benchmark: Path) -> float | None:
    if not benchmark.is_file():
        return None
    with benchmark.open() as file:
        return round(float(next(csv.DictReader(file, delimiter="\t"))["s"]), 1)


def best(artifact: store.Artifact) -> tuple[float | str | None, np.ndarray]:
    """Threshold and confusion matrix of the best score; of what has no threshold, of the thing itself."""
    matrices, levels = artifact.read("confusion")[0], artifact.meta["thresholds"]
    if None in levels:
        return None, matrices[levels.index(None)]
    single = [t for t, level in enumerate(levels) if level != "claimed"]
    scores = [metrics.miou(matrices[t], background=artifact.meta["background"]) for t in single]
    return levels[single[int(np.nanargmax(scores))]], matrices[single[int(np.nanargmax(scores))]]


def percent(value: float) -> float:
    return round(100 * value, 2)


def scores(artifact: store.Artifact) -> Row:
    """What a row says of a metrics artifact."""
    background, names = artifact.meta["background"], artifact.meta["classes"]
    threshold, matrix = best(artifact)
    found: Row = {
        "threshold": threshold,
        "miou": percent(metrics.miou(matrix, background=background)),
        "miou_labelled": percent(metrics.miou(matrix, "ignore", background)),
        "coverage": round(100 * metrics.coverage(matrix), 1),
        "classes": {
            name: percent(iou)
            for name, iou in zip(names, metrics.per_class_iou(matrix, background=background), strict=True)
            if np.isfinite(iou)
        },
    }
    if "claimed" in artifact.meta["thresholds"]:
        claimed = artifact.read("confusion")[0][artifact.meta["thresholds"].index("claimed")]
        found["claimed"] = percent(metrics.miou(claimed, background=background))
    if "steps" in artifact.meta:
        for number, counts in zip(artifact.meta["steps"], artifact.read("confusion")[0], strict=True):
            found[f"after {number}"] = percent(metrics.miou(counts, background=background))
    return found


def collect(config: Config, base: Path) -> list[Row]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=base, capture_output=True, text=True
    ).stdout.strip()
    root, rows = config.results / config.data.name, []
    for name in config.run:
        for seed in config.seeds:
            nodes, counts = recipe.recipe_nodes(config, name, seed), Counter[str]()
            last = {node.kind == "model": node for node in nodes if node.scored}  # the network, and what taught it
            often = {step for step, count in Counter(node.name for node in nodes).items() if count > 1}
            for node in nodes:
                counts[node.name] += 1
                if not node.scored:
                    continue
                path = base / root / node.folder / f"{node.kind}.metrics.json"
                if not path.is_file():
                    print(f"missing: {path}", file=sys.stderr)
                    continue
                artifact = store.Artifact(path)
                numbered = node.name in often or node.method == "mine"
                rows.append(
                    {
                        "data": config.data.name,
                        "recipe": name,
                        "stage": f"{node.name} {counts[node.name]}" if numbered else node.name,
                        "split": artifact.meta["splits"][0],
                        "seed": seed,
                        "last": node is last[node.kind == "model"],
                        **scores(artifact),
                        "seconds": seconds(base / "logs" / "benchmark" / root / node.folder / f"{node.method}.tsv"),
                        "commit": commit,
                        "digest": artifact.manifest["digest"],
                    }
                )
    return rows


def spread(values: list[float]) -> str:
    """Mean ± standard deviation over seeds; a single seed has none."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def tables(rows: list[Row]) -> str:
    """One table per data set: a line per recipe, stage and split; what recipes share stands with the first of them."""
    out = []
    for data in dict.fromkeys(row["data"] for row in rows):
        groups: dict[tuple, list[Row]] = {}
        for row in rows:
            if row["data"] == data:
                groups.setdefault((row["recipe"], row["stage"], row["split"]), []).append(row)
        out += [
            f"### {data}",
            "",
            "| recipe | stage | split | seeds | mIoU | mIoU, labelled pixels | coverage | threshold | seconds |",
        ]
        out.append("|---|---|---|---|---|---|---|---|---|")
        shown: set[tuple] = set()
        for (name, stage, split), members in groups.items():
            same = (stage.split()[0], split, *((row["seed"], row["miou"], row["seconds"]) for row in members))
            if same in shown:
                continue
            shown.add(same)
            cells = [spread([row[key] for row in members]) for key in ("miou", "miou_labelled", "coverage")]
            threshold = "/".join(
                dict.fromkeys("" if row["threshold"] is None else str(row["threshold"]) for row in members)
            )
            took = [row["seconds"] for row in members if row["seconds"] is not None]
            time = f"{np.mean(took):.0f}" if took else ""
            out.append(f"| {name} | {stage} | {split} | {len(members)} | {' | '.join(cells)} | {threshold} | {time} |")
        commits = ", ".join(dict.fromkeys(row["commit"] for row in rows if row["data"] == data))
        out += ["", f"Commit {commits}. mIoU counts unlabelled pixels as background.", ""]
    return "\n".join(out)


def summary(rows: list[Row]) -> str:
    """Per data set one line a recipe: its labels and its network, each as a share of `supervised`, seed by seed."""
    out = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        seeds = sorted({row["seed"] for row in own})
        out += [
            f"### {data}: systems",
            "",
            "| recipe | seeds of both | labels on train | share | network on val | share | no person | share |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in dict.fromkeys(row["recipe"] for row in own):
            cells, counts = [], []
            for side in (("labels", ()), ("network", ()), ("network", ("person",))):
                pairs = [
                    (
                        claims.value(own, claims.Side(name, side[0], without=side[1]), seed),
                        claims.value(own, claims.Side("supervised", side[0], without=side[1]), seed),
                    )
                    for seed in seeds
                ]
                values = [a for a, _ in pairs if a is not None]
                shares = [100 * a / b for a, b in pairs if a is not None and b]
                counts.append(len(values))
                cells += [spread(values) if values else "", f"{np.mean(shares):.0f} %" if shares else ""]
            out.append(f"| {name} | {counts[0]}, {counts[1]} | {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)


def key(row: Row) -> tuple[str | int, ...]:
    return row["data"], row["recipe"], row["stage"], row["seed"]


def save(rows: list[Row], file: Path) -> None:
    """Fresh rows into the file; other rows stay, and so does the commit of a row that has the same digest again."""
    before: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    known = {key(row): row for row in before}
    fresh = {key(row) for row in rows}
    kept = [row for row in before if key(row) not in fresh]
    for row in rows:
        if known.get(key(row), {}).get("digest") == row["digest"]:
            row["commit"] = known[key(row)]["commit"]
    file.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept + rows) + "\n]\n")
    print(f"{len(rows)} rows → {file}", flush=True)


def run(config: Config, files: list[Path], base: Path, cores: int, json_file: Path) -> None:
    """All recipes of one seed after the other. One thread a job: two trainings side by side beat one on two cores."""
    snakemake = ["snakemake", "--cores", str(cores), "--max-threads", "1", "--keep-going", "--rerun-incomplete"]
    for seed in config.seeds:
        command = [*snakemake, "--config", f"seeds=[{seed}]", "--configfile", *map(str, files)]
        code = subprocess.run(command, cwd=base).returncode
        save(collect(config.model_copy(update={"seeds": [seed]}), base), json_file)
        if code:
            sys.exit(f"snakemake ended with {code} at seed {seed}; what it made is collected")


def between_markers(file: Path, text: str) -> None:
    before, _, rest = file.read_text().partition(BEGIN)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "collect", "tables"))
    parser.add_argument("--configfile", nargs="*", type=Path, default=[])
    parser.add_argument("--seeds", nargs="*", type=int, help="instead of the configuration's")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "systems.json")
    parser.add_argument("--markdown", type=Path, default=RESULTS / "systems.md")
    parser.add_argument("--base", type=Path, default=ROOT, help="folder in which snakemake runs")
    args = parser.parse_args()
    if args.action == "tables":
        rows: list[Row] = json.loads(args.json.read_text())
        if args.json.stem != "systems":
            between_markers(args.markdown, tables(rows))
        else:
            between_markers(args.markdown, f"{summary(rows)}\n{tables(rows)}")
            claims.write(rows, args.json.with_name("claims.json"), args.markdown.with_name("claims.md"))
        return
    config = load(args.configfile)
    if args.seeds:
        config = config.model_copy(update={"seeds": args.seeds})
    if args.action == "run":
        run(config, args.configfile, args.base, args.cores, args.json)
    else:
        save(collect(config, args.base), args.json)


if __name__ == "__main__":
    main()
