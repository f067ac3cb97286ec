"""House-keeping of a results folder: `verify` re-reads artifacts against their manifests, `clean` deletes them.

    python -m pipeline.artifacts verify results/demo
    python -m pipeline.artifacts clean results/demo

Only files that the pipeline itself makes are ever deleted. Cost of verify: reading everything once.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pipeline.core import cli, store


def manifests(root: Path) -> list[Path]:
    """Manifests below a folder, stores not searched."""
    return sorted(
        path for path in root.rglob("*.json") if not any(part.endswith((".zarr", ".part")) for part in path.parts)
    )


def verify(root: Path) -> None:
    """Raises ArtifactError naming every damaged artifact and what to do."""
    paths = manifests(root)
    if not paths:
        raise store.ArtifactError(f"{root}: no artifact found")
    problems = [line for path in paths for line in store.verify(path)]
    for line in problems:
        print(line, flush=True)
    if problems:
        raise store.ArtifactError(
            f"{len(problems)} problem(s). Delete the named .json and .zarr and run snakemake again to compute them anew"
        )
    print(f"{len(paths)} artifacts are as their manifests say")


def clean(root: Path) -> None:
    """Delete manifests, stores, scratch folders, reports, and folders left empty."""
    doomed = [path for pattern in ("*.zarr", "*.part", ".*.discarded") for path in root.rglob(pattern) if path.is_dir()]
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
    files = [*manifests(root), *root.glob("report/*.html")]
    for path in files:
        path.unlink(missing_ok=True)
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
    print(f"deleted {len(doomed)} stores and {len(files)} files below {root}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("verify", "clean"))
    parser.add_argument("root", type=Path, help="a folder below results/")
    args = parser.parse_args(argv)
    cli.guarded(lambda: {"verify": verify, "clean": clean}[args.action](args.root))


if __name__ == "__main__":
    main()
