"""From your photographs to the settings of a run: looks at what is there, and writes a file to run it with.

    python -m pipeline.start photos/                                   photographs with their labels beside them
    python -m pipeline.start photos/ --labels instances.json           and what an annotation tool wrote about them
    python -m pipeline.start photos/ --corrections export.json         and masks that were corrected since the last run

Says which layout it is, which classes there are and how often, and everything that is wrong, at once (exit code 2);
then writes mine.yaml, commented, and says how long its run will take and with which command it starts. Nothing is
trained, and no photograph is touched; what the look at them found is kept, so that the run does not look again.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from snakemake.utils import update_config

from pipeline.core import cli, resources, store
from pipeline.core.config import ConfigError, own_file, parse, parse_block
from pipeline.core.data import EXPORTS, LARGEST, Data, block_of
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.core.progress import Progress
from pipeline.core.recipe import recipe_nodes
from pipeline.datasets.corrections import counted
from pipeline.datasets.files import SUFFIXES, printable, see
from pipeline.datasets.inventory import FILE, Inventory, take_inventory
from pipeline.datasets.layouts import LAYOUTS, READERS, read_source
from pipeline.datasets.source import Picture, Source

STOCK = Path("configs/photographs.yaml")  # settings for photographs in general, which come before one's own
LOOKED_AT = 200  # photographs whose size decides how large they are stored
ON_CPU, ON_GPU = 320, 512  # pixels, of the longer side as stored, at most
STARTS = 10.0  # seconds, of a step on its way to its first photograph
RESULTS = "results"  # as in config.yaml
FEW = 0.95  # with masks of a smaller share of the training photographs than this, they are few


def found_layout(photographs: Path, labels: Sequence[Path], stated: str | None) -> tuple[str, dict[str, Any]]:
    """The layout and its block of settings.

    Raises InputError where nothing says what the photographs show.
    """
    if missing := [path for path in (photographs, *labels) if not path.exists()]:
        raise InputError("\n  ".join(["not there:", *(printable(path.absolute()) for path in missing)]))
    if not photographs.is_dir():
        raise InputError(f"{printable(photographs)}: a file; name the folder that the photographs lie in")
    candidates = labels or [photographs, *sorted(photographs.iterdir()), *sorted(photographs.glob("*/*.json"))]
    tried = [stated] if stated else [name for name in LAYOUTS if name in EXPORTS or not labels]
    if not labels:
        if photographs.name == "images" and "folder" in tried and LAYOUTS["folder"].recognised(photographs.parent):
            photographs = photographs.parent
        for name in ("voc", "folder"):
            if name in tried and (stated or LAYOUTS[name].recognised(photographs)):
                return name, {"root": str(photographs), **(lists_of(photographs) if name == "voc" else {})}
    for name in tried:
        found = [path for path in candidates if LAYOUTS[name].recognised(path)] if name in EXPORTS else []
        found = [path for path in found if not {*path.parents} & {*found}] or ([*labels] if stated in EXPORTS else [])
        if found:
            return name, {"root": str(pictures_of(photographs)), "labels": [str(path) for path in labels or found]}
    expected = f"an export of {', '.join(EXPORTS)}" if labels else "tags.csv beside images/, masks/, or an export"
    where = ", ".join(map(str, labels)) or str(photographs)
    raise InputError(
        f"{printable(where)}: nothing here says what the photographs show; {expected} expected. Point to what your "
        "annotation tool wrote with --labels, or put a table beside them as the README says"
    )


def pictures_of(photographs: Path) -> Path:
    """The folder of the photographs themselves, where labels lie beside it."""
    return photographs / "images" if (photographs / "images").is_dir() else photographs


def lists_of(devkit: Path) -> dict[str, Any]:
    """Which of a devkit's lists and labels there are: its own names are those of VOC 2012."""
    lists = {path.stem for path in (devkit / "ImageSets" / "Segmentation").glob("*.txt")}
    found: dict[str, Any] = {"train": "train_aug" if "train_aug" in lists else "train"}
    if "train" not in lists:
        found["score"] = None
    if not (devkit / "Annotations").is_dir():
        found["tags"] = "csv" if (devkit / "tags.csv").exists() else "masks"
    return found


def stored_side(photographs: Path, gpu: bool) -> tuple[int, str]:
    """How large photographs are stored, and why."""
    from pipeline.datasets.pictures import raw_size

    sides = []
    for path in list(see(photographs).found.values())[:LOOKED_AT]:
        try:
            sides.append(max(raw_size(path)[0]))
        except Exception:  # found, with all else that is wrong, when they are looked at
            continue
    limit = ON_GPU if gpu else ON_CPU
    if not sides:
        return limit, "of no photograph the size could be read"
    middle = int(median(sides))
    side = min(limit, LARGEST, max(64, -(-middle // 32) * 32))
    why = f"their longer side is {middle} pixels in the middle, {max(sides)} at most"
    return side, f"{why}; more shows finer outlines and takes longer by its square"


def recipe_for(inventory: Inventory, corrected: int = 0) -> tuple[str, str, list[str]]:
    """The recipe that fits the labels, why, and others worth a try; by our own comparisons, docs/results/systems.md.

    corrected: how many masks are corrections. They do not make another data set of one that learns from tags.
    """
    counts = inventory.about["counts"]
    train, masked = counts["train"], counts["with_mask"]["train"]
    tagged = int(inventory.tags[inventory.splits["train"]].any(1).sum()) + counts["negative"]["train"]
    if masked - corrected >= FEW * train or (masked >= FEW * train and inventory.about["tags_from"] == "masks"):
        return "supervised", f"all {train} training photographs have masks", ["contrast"]
    if masked and (tagged > masked or corrected):
        why = f"{masked} of {train} training photographs have masks, {'all' if tagged >= train else 'others'} tags"
        return "tags-few", why, ["tags", "dis", "contrast-tags"]
    if masked:
        return "masks", f"{masked} of {train} training photographs have masks", ["contrast-semi", "mix-and-match"]
    return "tags", f"{train} training photographs have tags and none a mask", ["erasing", "stc", "ae-psl"]


def written(
    data: dict[str, Any], why: dict[str, str], recipe: tuple[str, str, list[str]], given: str, results: str
) -> str:
    """The file of settings, as YAML with comments. With corrections the recipe without any stays, to compare with."""
    name, reason, others = recipe
    run = ["tags", name] if "corrections" in data and name == "tags-few" else [name]
    lines = [f"# Written on {date.today()} by: python -m pipeline.start {given}", "data:"]
    for key, value in data.items():
        comment = f"  # {why[key]}" if key in why else ""
        text = yaml.safe_dump({key: value}, allow_unicode=True, width=1000, sort_keys=False).rstrip()
        lines.append("  " + text.replace("\n", "\n  ") + comment)
    lines += [f"run: [{', '.join(run)}]  # {reason}; worth a try: {', '.join(others)}"]
    lines += [yaml.safe_dump({"results": results}, allow_unicode=True).rstrip()] if results != RESULTS else []
    return "\n".join(lines) + "\n"


def estimate(files: Sequence[Path], inventory: Inventory, gpu: bool) -> list[str]:
    """How long the run will take and how much memory it wants, from the size of the data."""
    raw: dict[str, Any] = {}
    for file in files:
        update_config(raw, yaml.safe_load(file.read_text()) or {})
    config = parse(raw)
    cores, side, photographs = cli.usable_cores(), config.data.max_side, len(inventory.id)
    work, most = 0.0, 0
    for node in {node for name in config.run for node in recipe_nodes(config, name, config.seeds[0])}:
        if (step := node.settings) is not None:
            uses = gpu and step.gpu
            work += STARTS + resources.seconds(step, photographs, side, cores, uses)
            most = max(most, resources.memory(step, side, cores, uses, config.compute.workers))
    device = "a GPU" if gpu else f"{cores} core{'s' * (cores > 1)} and no GPU"
    hours = f"{work / 3600:.1f} hours" if work > 5400 else f"{max(1, round(work / 60))} minute(s)"
    return [f"About {hours} on this machine ({device}), {most / 1000:.1f} GB of memory at most; a rough estimate."]


def run(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.overwrite:
        raise InputError(f"{args.out}: there already; name another with --out, or replace it with --overwrite")
    layout, block = found_layout(args.photographs, args.labels, args.format)
    root = Path(block["root"])
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", (root.parent if root.name == "images" else root).resolve().name)
    gpu, folder = has_gpu(), root / {"voc": "JPEGImages", "folder": "images"}.get(layout, "")
    side, why = stored_side(folder, gpu)
    raw = {"name": name.strip("-") or "photographs", "format": layout, "max_side": side}
    reasons = {"max_side": why}
    if args.corrections:
        raw["corrections"] = [str(path) for path in args.corrections]
    more = yaml.safe_load(args.data) or {}
    if not isinstance(more, dict):
        raise InputError(f"--data {args.data}: settings expected, as '{{classes: [cat, dog]}}'")
    raw |= {key: value for key, value in more.items() if key != block_of(layout)}
    raw[block_of(layout)] = {**block, **more.get(block_of(layout), {})}
    data = checked(raw)
    source = read_source(data)
    if "untagged" not in raw and (unknown := unlabelled(source)):
        raw["untagged"], reasons["untagged"] = "drop", f"nothing is known of {unknown} training photographs"
        data = checked(raw)
    print(f"{printable(root)}: {layout}")
    try:
        inventory = looked_at(data, Path(args.results) / data.name / FILE)
    except InputError as error:
        asks = "`data: " in str(error)
        hint = "\nSettings of `data` that this asks for are given here with --data '{…}'." if asks else ""
        raise InputError(f"{error}{hint}") from None
    recipe = recipe_for(inventory, counted(data, READERS) if data.corrections else 0)
    words = [args.photographs, *(["--labels", *args.labels] if args.labels else [])]
    words += ["--corrections", *args.corrections] if args.corrections else []
    given = shlex.join(map(str, words))
    write_atomic(args.out, written(raw, reasons, recipe, given, args.results))
    print(f"\n{args.out} written: recipe `{recipe[0]}`, since {recipe[1]}.")
    if not inventory.about["counts"]["with_mask"]["val"]:
        print("No validation photograph has a mask: the report will show pictures and a verdict, but no scores.")
    try:
        base = own_file()
    except ConfigError:  # installed, without a checkout
        print(f"\nNext, in a checkout of the workflow: snakemake --cores all --configfile {STOCK} {args.out}")
        return
    stock = base.parent / STOCK
    print("\n".join(estimate([base, stock, args.out], inventory, gpu)))
    elsewhere = "" if base.parent == Path() else f"-s {shlex.quote(str(base.parent / 'Snakefile'))} "
    files = shlex.join([str(stock), str(args.out)])
    print(f"\nNext:  snakemake {elsewhere}--cores all --configfile {files}")


def checked(raw: dict[str, Any]) -> Data:
    return parse_block(Data, json.dumps(raw), "data")


def unlabelled(source: Source) -> int:
    """Training photographs without mask and tags."""
    train = set(source.splits.get("train", ()))
    return sum(one.id in train and one.mask is None and not one.tags for one in source.pictures)


def looked_at(data: Data, file: Path) -> Inventory:
    def passing(pictures: list[Picture]) -> Any:
        progress = Progress(store.part_of(file), len(pictures), "photographs")
        try:
            yield from progress.count(pictures)
        finally:
            progress.file.unlink(missing_ok=True)

    return take_inventory(data, file, passing)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, help=f"folder of them ({', '.join(SUFFIXES)}), or a whole data set")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], help="what an annotation tool wrote")
    layouts = [name for name in LAYOUTS if name != "demo"]
    parser.add_argument(
        "--corrections", type=Path, nargs="+", default=[], help="masks corrected since: exports, or edited predictions"
    )
    parser.add_argument("--format", choices=layouts, help="layout; default: by what is found")
    parser.add_argument("--data", default="{}", help="further settings of the block data: '{classes: [cat, dog]}'")
    parser.add_argument("--name", help="of the data set, a folder below results/; default: the folder's")
    parser.add_argument("--out", type=Path, default=Path("mine.yaml"), help="file to write")
    parser.add_argument("--results", default=RESULTS, help="folder that runs lie in")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    args = parser.parse_args(argv)
    cli.guarded(lambda: run(args))


if __name__ == "__main__":
    main()
