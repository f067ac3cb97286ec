"""What a stage is given: its settings, its inputs by role, where the result goes, and on what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import store


class InputError(ValueError):
    """Data a stage cannot use. The message says what was found, what was expected, what to do, and which file."""


@dataclass(frozen=True)
class Job:
    """All a stage needs. inputs: role → artifact, as the method's settings class names them."""

    settings: Any
    inputs: dict[str, store.Artifact]
    out: Path
    header: store.Header
    seed: int
    device: str
    precision: str
    threads: int
    workers: int = 0

    @property
    def photographs(self) -> store.Artifact:
        return self.inputs["photographs"]

    @property
    def images_at_once(self) -> int:
        """Processes for a network that looks at single photographs."""
        return images_at_once(self.device, self.threads)

    @property
    def part(self) -> Path:
        """Scratch folder; gone once the artifact is complete."""
        return store.part_of(self.out)


def images_at_once(device: str, threads: int) -> int:
    """Processes for a network that looks at single photographs: on a CPU one for each core."""
    return threads if device == "cpu" else 1
