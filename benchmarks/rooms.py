"""The house: files and lines of every room of the package, and which room imports which how often.

    python benchmarks/rooms.py [folder of a checkout]

Prints two Markdown tables; imports are counted by file, wherever in the file they stand.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path


def room(module: str) -> str:
    """'pipeline.core.store' → 'core'; a stage → 'stages'."""
    parts = module.split(".")[1:]
    return parts[0] if len(parts) > 1 else "stages"


def imported(path: Path, root: Path) -> set[str]:
    """Modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = root.joinpath(*whole.split(".")).with_suffix(".py").is_file()
                found.add(whole if is_module else node.module)
    return found


def main(root: Path) -> None:
    files = [path for path in sorted((root / "pipeline").rglob("*.py")) if path.stat().st_size]
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in files}
    lines = {path: len(path.read_text().splitlines()) for path in files}
    count, total, longest, arrows = Counter[str](), Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for path, name in names.items():
        place = room(name)
        count[place] += 1
        total[place] += lines[path]
        longest[place] = max(longest[place], lines[path])
        arrows.update((place, room(other)) for other in imported(path, root) if room(other) != place)
    print("| room | files | lines | longest file |\n|---|---|---|---|")
    for place in sorted(count):
        print(f"| {place} | {count[place]} | {total[place]} | {longest[place]} |")
    print("\n| imports | " + " | ".join(sorted(count)) + " |\n|" + "---|" * (len(count) + 1))
    for place in sorted(count):
        print(f"| **{place}** | " + " | ".join(str(arrows[place, other] or "") for other in sorted(count)) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]))
