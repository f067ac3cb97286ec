"""Tables of the chain: collect scores of finished runs into a JSON file, and write its tables into a Markdown file.

    snakemake --cores all --configfile configs/voc2012.yaml benchmarks/voc_mini.yaml
    python benchmarks/chain.py collect --configfile configs/voc2012.yaml benchmarks/voc_mini.yaml
    python benchmarks/chain.py tables

`collect` reads metrics artifacts that exist and says which are missing; rows of other data sets stay. One row per
recipe, stage, split and seed, with threshold, miou, miou_labelled, coverage, seconds, and the commit of the checkout
that ran.
`tables` rewrites what stands between the markers in docs/results/chain.md; the text around them is written by hand.
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


def best(artifact: store.Artifact, rounds: int) -> tuple[float | str | None, np.ndarray]:
    """Threshold and confusion matrix of the best score; of a round of erasing, what it claims."""
    matrices, levels = artifact.read("confusion")[0], artifact.meta["thresholds"]
    if rounds > 1:
        return "claimed", matrices[levels.index("claimed")]
    t = int(np.nanargmax([metrics.miou(matrix, background=artifact.meta["background"]) for matrix in matrices]))
    return levels[t], matrices[t]


def collect(config: Config, base: Path) -> list[Row]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=base, capture_output=True, text=True
    ).stdout.strip()
    root, rows = config.results / config.data.name, []
    for name in config.run:
        for seed in config.seeds:
            nodes, counts = recipe.recipe_nodes(config, name, seed), Counter[str]()
            often = {step for step, count in Counter(node.name for node in nodes).items() if count > 1}
            for node in nodes:
                counts[node.name] += 1
                numbered = node.name in often or node.method == "mine"
                if not node.scored:
                    continue
                path = base / root / node.folder / f"{node.kind}.metrics.json"
                if not path.is_file():
                    print(f"missing: {path}", file=sys.stderr)
                    continue
                artifact = store.Artifact(path)
                threshold, matrix = best(artifact, rounds=1 + (node.method == "mine"))
                background = artifact.meta["background"]
                rows.append(
                    {
                        "data": config.data.name,
                        "recipe": name,
                        "stage": f"{node.name} {counts[node.name]}" if numbered else node.name,
                        "split": artifact.meta["splits"][0],
                        "seed": seed,
                        "threshold": threshold,
                        "miou": round(100 * metrics.miou(matrix, background=background), 2),
                        "miou_labelled": round(100 * metrics.miou(matrix, "ignore", background), 2),
                        "coverage": round(100 * metrics.coverage(matrix), 1),
                        "seconds": seconds(base / "logs" / "benchmark" / root / node.folder / f"{node.method}.tsv"),
                        "commit": commit,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("collect", "tables"))
    parser.add_argument("--configfile", nargs="*", type=Path, default=[])
    parser.add_argument("--json", type=Path, default=RESULTS / "chain.json")
    parser.add_argument("--markdown", type=Path, default=RESULTS / "chain.md")
    parser.add_argument("--base", type=Path, default=ROOT, help="folder in which snakemake ran")
    args = parser.parse_args()
    rows: list[Row] = json.loads(args.json.read_text()) if args.json.is_file() else []
    if args.action == "collect":
        fresh = collect(load(args.configfile), args.base)
        keys = {(row["data"], row["recipe"], row["stage"], row["seed"]) for row in fresh}
        rows = [row for row in rows if (row["data"], row["recipe"], row["stage"], row["seed"]) not in keys] + fresh
        args.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        print(f"{len(fresh)} rows → {args.json}")
        return
    before, _, rest = args.markdown.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    args.markdown.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n{END}{after}")


if __name__ == "__main__":
    main()
