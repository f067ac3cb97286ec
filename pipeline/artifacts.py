"""House-keeping of a results folder: `verify` re-reads artifacts against their manifests, `clean` deletes them.

    python -m pipeline.artifacts verify results/demo [--needs MANIFEST ...]
    python -m pipeline.artifacts clean results/demo

Only files that the pipeline itself makes are ever deleted. Cost of verify: reading everything once.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import cli, integrity, store
from pipeline.datasets.inventory import FILE as INVENTORY


def manifests(root: Path) -> list[Path]:
    """Manifests below a folder, stores not searched; damaged ones too, where their store lies beside them."""
    return sorted(
        path
        for path in root.rglob("*.json")
        if not any(part.endswith((".zarr", ".part")) for part in path.relative_to(root).parts)
        and (integrity.is_manifest(path) or integrity.is_store(store.store_of(path)))
    )


def verify(root: Path, needs: Sequence[Path] = ()) -> None:
    """needs: manifests that must be there. Raises ArtifactError naming every artifact that is damaged or missing, and
    what to do: Snakemake makes a missing file anew only if it is asked for, where what was made from it is complete."""
    paths = manifests(root)
    if not paths:
        raise store.ArtifactError(f"{root}: no artifact found")
    found = {path: integrity.verify(path) for path in paths}
    damaged = [path for path, problems in found.items() if problems]
    missing = [path for path in needs if not path.exists() and path not in found]
    for line in [line for path in damaged for line in found[path]] + [f"{path}: missing" for path in missing]:
        print(line, flush=True)
    if damaged or missing:
        raise store.ArtifactError(
            f"{len(damaged)} of {len(paths)} artifacts are damaged, {len(missing)} missing. "
            + integrity.remedy(damaged, missing)
        )
    print(f"{len(paths)} artifacts are as their manifests say")


def clean(root: Path) -> None:
    """Delete manifests, stores, what unfinished runs left, reports, and the folders that this empties."""
    scratch = [path for path in root.rglob("*.part") if path.is_dir() and integrity.is_scratch(path)]
    begun = {store.store_of(path) for path in scratch}
    stores = [path for path in root.rglob("*.zarr") if path in begun or integrity.is_store(path)]
    discarded = list(root.rglob(".*.zarr.discarded"))
    reports = [path for name in ("*.html", "*.listing.json") for path in root.glob(f"report/{name}")]
    files = [*manifests(root), *root.rglob(".*.json.[0-9]*"), *reports, *root.glob(INVENTORY)]
    for path in (*scratch, *stores, *discarded):
        shutil.rmtree(path, ignore_errors=True)
    for path in files:
        path.unlink(missing_ok=True)
    for path in sorted({*scratch, *stores, *files}, reverse=True):
        folder = path.parent
        while folder.is_relative_to(root) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
    print(f"deleted {len(stores)} stores and {len(files)} files below {root}")


def follow(before: Sequence[Path]) -> None:
    """Delete the stores of those manifests that are gone, and the inventory of photographs that are."""
    gone = [path for path in before if not path.exists()]
    for path in gone:
        shutil.rmtree(store.store_of(path), ignore_errors=True)
        if path.name == "photographs.json":
            (path.parent / INVENTORY).unlink(missing_ok=True)
    print(f"deleted {len(gone)} stores")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("verify", "clean"))
    parser.add_argument("root", type=Path, help="a folder below results/")
    parser.add_argument("--needs", type=Path, nargs="*", default=[], help="manifests that `verify` must find")
    args = parser.parse_args(argv)
    cli.guarded(lambda: verify(args.root, args.needs) if args.action == "verify" else clean(args.root))


if __name__ == "__main__":
    main()
