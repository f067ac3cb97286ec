"""What is told of a data set before anything is trained: its classes, and its problems by kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.store import DIGEST
from pipeline.datasets.files import FOREIGN, SUFFIXES, printable, some

if TYPE_CHECKING:
    from pipeline.datasets.inventory import Inventory

WHOLE = 30  # classes that are listed one by one; of more, the rarest and the most frequent
WIDE = 36  # letters of a name
LINES = 50  # of a message
ALONE = 3  # equal problems that are told one by one


def class_list(inventory: Inventory, name: str) -> list[str]:
    """A table of 80 columns: photographs with each tag, for training and validation, and how many have a mask."""
    classes, background = inventory.about["classes"], inventory.about["background"]
    rows = [inventory.splits[split] for split in ("train", "val")]
    masked = (inventory.mask_digest != np.zeros(DIGEST, np.uint8)).any(1)
    tagged = np.array([inventory.tags[listed].sum(0) for listed in rows])
    drawn = np.array([(inventory.tags[listed] & masked[listed, None]).sum(0) for listed in rows])
    ids = [i for i in range(len(classes)) if i != background]
    shown, gap = ids, ""
    if len(ids) > WHOLE:
        order = sorted(ids, key=lambda i: (-tagged[:, i].sum(), classes[i]))
        shown = order[: WHOLE // 3] + order[-WHOLE * 2 // 3 :]
        gap = f"... {len(ids) - WHOLE} more classes, neither frequent nor rare"
    titles = {i: shortened(classes[i]) for i in shown}
    width = max(13, *map(len, titles.values()))
    line = "{:<" + str(width) + "}  {:>7} {:>7}  {:>16} {:>7}"
    lines = [
        f"data set '{name}': {len(ids)} classes",
        line.format("photographs", "train", "val", "with mask: train", "val"),
        line.format("(all)", *map(len, rows), *(int(masked[listed].sum()) for listed in rows)),
    ]
    for place, i in enumerate(shown):
        if gap and place == WHOLE // 3:
            lines.append(gap)
        lines.append(line.format(titles[i], *tagged[:, i], *drawn[:, i]))
    none = inventory.about["counts"]["negative"]
    if none["train"] or none["val"]:
        lines.append(line.format("(no class)", none["train"], none["val"], "", "").rstrip())
    score = inventory.splits["score"]
    if not np.array_equal(score, rows[0]):
        lines.append(f"labels are scored on {len(score)} training photographs, {masked[score].sum()} with a mask")
    if single := [classes[i] for i in ids if tagged[0, i] == 1]:
        names = some([f"'{printable(one)}'" for one in single])
        lines.append(f"warning: {len(single)} class(es) of a single training photograph, too few to learn: {names}")
    return lines


def shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= WIDE else name[: WIDE - 1] + "…"


def grouped(problems: list[str], most: int, root: Path | None = None) -> list[str]:
    """At most `most` lines, and one that counts the rest. Problems that differ in names and numbers alone are one, with
    the other names behind the first; the kinds come in the order they were found. root: of the data set; pictures in
    subfolders are of one kind."""
    kinds: dict[str, list[str]] = {}
    for line in problems:
        kinds.setdefault(kind(line, root), []).append(line)
    lines = list[str]()
    for group in kinds.values():
        lines += group if len(group) <= ALONE else [f"{group[0]} [and {len(group) - 1} more: {others(group, root)}]"]
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]


def kind(line: str, root: Path | None) -> str:
    """A problem without what makes it that of one file: `file: what 'name' is; remedy`."""
    subject, _, rest = line.partition(": ")
    rest = re.sub(r"'.*?'|\(.*?\d.*?\)|the first \S+|\S*[/\d×]\S*", "…", rest)
    return f"{folder_of(Path(subject), root) if pictured(subject) else subject}: {rest}"


def pictured(subject: str) -> bool:
    return Path(subject.split(" (")[0]).suffix.lower() in SUFFIXES + FOREIGN


def folder_of(file: Path, root: Path | None) -> Path:
    """The folder below the root that holds a file, in whatever subfolder."""
    below = file.relative_to(root).parts if root is not None and file.is_relative_to(root) else ()
    return file.parents[max(0, len(below) - 2)]


def others(group: list[str], root: Path | None) -> str:
    """What tells the problems of one kind apart: their files, or the first name in each."""
    names = list[str]()
    for line in group[1:]:
        subject, _, rest = line.partition(": ")
        quoted, file = re.search(r"'.*?'|\d+", rest), Path(subject)
        if pictured(subject):
            names.append(file.relative_to(folder_of(file, root)).as_posix())
        else:
            names.append(quoted[0] if quoted else rest)
    return some(list(dict.fromkeys(names)))
