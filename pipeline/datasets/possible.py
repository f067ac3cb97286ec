"""Tags of photographs that a model is used on: which of its classes each of them may show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.job import InputError
from pipeline.datasets.summary import LINES, grouped
from pipeline.datasets.tables import read_tags


def possible_classes(path: Path, names: list[str], background: int | None) -> dict[str, np.ndarray]:
    """tags.csv → photo name → which classes are possible there, bool [C]: its tags and the background."""
    problems: list[str] = []
    tags = read_tags(path, problems, names)
    if problems:
        raise InputError("\n  ".join([f"--tags: {len(problems)} problem(s)", *grouped(problems, LINES)]))
    unknown = sorted({tag for found in tags.values() for tag in found} - set(names))
    if unknown:
        message = f"the model does not know {', '.join(unknown)}. It knows {', '.join(names)}; correct the tags"
        if not any(tag in names for found in tags.values() for tag in found):
            raise InputError(f"{path}: {message}")
        print(f"{path}: {message}, others are ignored", flush=True)
    ids = np.arange(len(names))
    return {
        photo: np.isin(names, found) | (np.zeros(len(names), bool) if background is None else ids == background)
        for photo, found in tags.items()
    }
