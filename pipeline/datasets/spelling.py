"""Tags as people type them: names that are probably one class, where no classes.txt says which there are.

No numpy, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.datasets.files import some
from pipeline.datasets.tables import same_but_for_case

# Commas and semicolons of other scripts, which separate nothing here, and blanks without width, which nobody sees.
ODD = re.compile(r"[|/\\，、；،؛\u200b\u2060\ufeff]|^\W|[\[({'\".:]$")
RARE = 10  # a name this many times as rare as one like it may be a slip of the pen (ours)


def check_spelling(counts: Mapping[str, int], where: object, problems: list[str], warnings: list[str]) -> None:
    """counts: tag → photographs. Names that differ in capitals alone are problems; what looks like a typing error or
    like another separator is a warning."""

    def shown(name: str) -> str:
        return f"'{name}' ({counts[name]} photograph{'s' * (counts[name] != 1)})"

    often = sorted(counts, key=lambda name: (-counts[name], name))
    for name, other in same_but_for_case(often):
        problems.append(f"{where}: {shown(name)} and {shown(other)} differ in capitals alone; write them alike")
    slips = list[str]()
    for place, name in enumerate(often):
        like = [other for other in often[:place] if rare(counts[name], counts[other]) and slip(name, other)]
        slips += [f"{shown(name)} beside {shown(other)}" for other in like[:1]]
    if slips:
        warnings.append(f"{where}: typing errors? {some(slips)}; correct them, or else they are classes of their own")
    if odd := [name for name in sorted(counts) if ODD.search(name)]:
        names, separate = some([f"'{name}'" for name in odd]), "spaces, commas and semicolons separate tags"
        warnings.append(f"{where}: odd names of classes: {names}; {separate}, all else is part of a name")


def rare(count: int, other: int) -> bool:
    return other > 0 and count * RARE <= other


def slip(one: str, other: str) -> bool:
    """Is the one the other with a letter wrong, missing, extra or swapped with its neighbour, or two in long names?
    Other numbers are other names."""
    one, other = one.casefold(), other.casefold()
    allowed = 0 if min(len(one), len(other)) < 4 else 1 if min(len(one), len(other)) < 8 else 2
    if re.findall(r"\d", one) != re.findall(r"\d", other):
        return False
    return one != other and abs(len(one) - len(other)) <= allowed and distance(one, other) <= allowed


def distance(one: str, other: str) -> int:
    """Edits between two words, a swap of neighbours among them (optimal string alignment)."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        now = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, now[-1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            now.append(cost)
        before, last = last, now
    return last[-1]
