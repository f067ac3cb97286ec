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
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from pipeline.core import cli, resources
from pipeline.core.config import ConfigError, own_file, parse, parse_block
from pipeline.core.data import Data, block_of
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.core.recipe import recipe_nodes
from pipeline.datasets import folder
from pipeline.datasets.files import SUFFIXES, printable, some
from pipeline.datasets.inventory import FILE, Inventory, counted, load, take_inventory
from pipeline.datasets.layouts import LAYOUTS, read_source, root_of
from pipeline.datasets.recognise import found_layout, stored_side
from pipeline.datasets.source import Source

STOCK = Path("configs/photographs.yaml")  # settings for photographs in general, which come before one's own
STARTS = 10.0  # seconds, of a step on its way to its first photograph
RESULTS = "results"  # as in config.yaml
FEW = 0.95  # with masks of a smaller share of the training photographs than this, they are few


def recipe_for(inventory: Inventory, corrected: bool = False) -> tuple[str, str, list[str]]:
    """The recipe that fits the labels, why, and others worth a try; by our own comparisons, docs/results/systems.md.

    corrected: its photographs have tags, and some got their masks by corrections: they stay photographs with tags.
    """
    counts = inventory.about["counts"]
    train, masked = counts["train"], counts["with_mask"]["train"]
    if masked >= FEW * train and not corrected:
        return "supervised", f"all {train} training photographs have masks", ["contrast"]
    if masked:
        return "tags-few", f"{masked} of {train} training photographs have masks", ["tags", "dis", "contrast-tags"]
    return "tags", f"{train} training photographs have tags and none a mask", ["erasing", "stc", "ae-psl"]


def written(
    data: dict[str, Any], why: dict[str, str], recipe: tuple[str, str, list[str]], given: str, rest: dict[str, Any]
) -> str:
    """The file of settings, as YAML with comments. With corrections the recipe without any stays, to compare with.

    rest: what stands in it beside `data` and `run`.
    """
    name, reason, others = recipe
    run = ["tags", name] if "corrections" in data and name == "tags-few" else [name]
    lines = [f"# Written on {date.today()} by: python -m pipeline.start {given}", "data:"]
    for key, value in data.items():
        comment = f"  # {why[key]}" if key in why else ""
        text = yaml.safe_dump({key: value}, allow_unicode=True, width=1000, sort_keys=False).rstrip()
        lines.append("  " + text.replace("\n", "\n  ") + comment)
    lines += [f"run: [{', '.join(run)}]  # {reason}; worth a try: {', '.join(others)}"]
    lines += [yaml.safe_dump(rest, allow_unicode=True, sort_keys=False).rstrip()] if rest else []
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
    rest: dict[str, Any] = {"results": args.results} if args.results != RESULTS else {}
    reasons: dict[str, str] = {}
    if args.corrections and args.out.exists():
        raw, rest = settings_of(args)
    else:
        raw, reasons = found_settings(args)
    if args.corrections:
        raw["corrections"] = [*raw.get("corrections", ()), *(str(path) for path in args.corrections)]
    data = checked(raw)
    source = read_source(data)
    if "untagged" not in raw and (unknown := unlabelled(source)):
        raw["untagged"], reasons["untagged"] = "drop", f"nothing is known of {unknown} training photographs"
        data = checked(raw)
    file = Path(rest.get("results", RESULTS)) / data.name / FILE
    refuse_another(file, source, data.name)
    print(f"{printable(root_of(data))}: {data.format}")
    try:
        inventory = take_inventory(data, file, counted(file))
    except InputError as error:
        asks = "`data: " in str(error) or "set data." in str(error)
        hint = "\nSettings of `data` that this asks for are given here with --data '{…}'." if asks else ""
        raise InputError(f"{error}{hint}") from None
    before = read_source(data.model_copy(update={"corrections": ()})) if data.corrections else source
    recipe = recipe_for(inventory, before is not source and tagged_alone(before))
    write_atomic(args.out, written(raw, reasons, recipe, shlex.join(args.given), rest))
    print(f"\n{args.out} written: recipe `{recipe[0]}`, since {recipe[1]}.")
    for line in unscored(inventory):
        print(line)
    try:
        base = own_file()
    except ConfigError:  # installed, without a checkout
        print(f"\nNext, in a checkout of the workflow: snakemake --cores all --configfile {STOCK} {args.out}")
        return
    stock = base.parent / STOCK
    print("\n".join(estimate([base, stock, args.out], inventory, has_gpu())))
    elsewhere = "" if base.parent == Path() else f"-s {shlex.quote(str(base.parent / 'Snakefile'))} "
    files = shlex.join([str(stock), str(args.out)])
    print(f"\nNext:    snakemake {elsewhere}--cores all --configfile {files}")
    print(f"Beside:  python -m pipeline.status --watch --configfile {files}")


def found_settings(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """The block `data` by what is there, and the reasons of its settings."""
    layout, block = found_layout(args.photographs, args.labels, args.format)
    more = yaml.safe_load(args.data) or {}
    if not isinstance(more, dict):
        raise InputError(f"--data {args.data}: settings expected, as '{{classes: [cat, dog]}}'")
    root = Path(block["root"])
    images = {"voc": root / "JPEGImages", "folder": folder.images_of(root)}.get(layout, root)
    if not images.is_dir():
        raise InputError(f"{printable(images.absolute())}: no such folder; {layout} has its photographs there")
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", (root.parent if root.name == "images" else root).resolve().name)
    side, why = stored_side(images, has_gpu())
    raw = {"name": name.strip("-") or "photographs", "format": layout, "max_side": side}
    raw |= {key: value for key, value in more.items() if key != block_of(layout)}
    raw[block_of(layout)] = {**block, **more.get(block_of(layout), {})}
    return raw, {"max_side": why}


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The block `data` of the file that is to be replaced, and the rest of it but for `run`: with corrections all else
    stays as it was."""
    try:
        rest = yaml.safe_load(args.out.read_text())
        raw = rest.pop("data")
        checked(raw)
    except (AttributeError, KeyError, OSError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{args.out}: not as `start` writes it ({error}); name another with --out") from None
    rest.pop("run", None)
    print(f"{args.out}: its settings stay, the corrections are added")
    return raw, rest


def refuse_another(file: Path, source: Source, name: str) -> None:
    """Another data set of this name would replace the results of this one. Raises InputError."""
    before = load(file) if file.is_file() else None
    if before is not None and source.pictures and not {*before.id} & {one.id for one in source.pictures}:
        raise InputError(
            f"{file.parent}: the results of another data set ({some(before.id)}); give this one a name with --name, as "
            f"--name {name}2, or delete that folder"
        )


def tagged_alone(source: Source) -> bool:
    """Whether some of its training photographs have tags and no mask."""
    train = set(source.splits.get("train", ()))
    return any(one.id in train and one.mask is None and one.tags for one in source.pictures)


def unscored(inventory: Inventory) -> list[str]:
    """What the report will have no scores of."""
    if not inventory.about["counts"]["with_mask"]["val"]:
        return ["No validation photograph has a mask: the report will show pictures and a verdict, but no scores."]
    val = inventory.tags[inventory.splits["val"]].any(0)
    names, background = inventory.about["classes"], inventory.about["background"]
    missing = [name for number, name in enumerate(names) if number != background and not val[number]]
    none = "no validation photograph shows them, so they will have no score"
    return [f"{len(missing)} of {len(names)} classes: {none}: {some(missing)}"] if missing else []


def checked(raw: dict[str, Any]) -> Data:
    return parse_block(Data, json.dumps(raw), "data")


def unlabelled(source: Source) -> int:
    """Training photographs without mask and tags."""
    train = set(source.splits.get("train", ()))
    return sum(one.id in train and one.mask is None and not one.tags for one in source.pictures)


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
    args.given = sys.argv[1:] if argv is None else list(argv)
    cli.guarded(lambda: run(args))


if __name__ == "__main__":
    main()
