"""What artifacts say is not believed: whatever lies on the disk, who opens it gets an answer or an ArtifactError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ANEW = "delete it with its store and make it again"
OLDER = (
    "made by an older version of the pipeline. Delete it with its store, or all with `snakemake clean`, and run again"
)
MEANT = "name an artifact's manifest, x.json beside x.zarr; if this one is damaged, copy it again or make it again"
PARTS = {"kind": str, "digest": str, "arrays": dict, "meta": dict, "settings": dict}  # of a manifest


class ArtifactError(RuntimeError):
    """An artifact that is missing, damaged, or not what was asked for. The message names the file and the remedy."""


class Unreadable(ArtifactError):
    """Of bytes that zarr or its codecs cannot make sense of."""


class Meta(dict[str, Any]):
    """What a manifest says beside its arrays. Raises ArtifactError where it says nothing of what is asked."""

    def __init__(self, path: Path, said: dict[str, Any]):
        super().__init__(said)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ArtifactError(f"{self.path}: its manifest says nothing of '{key}'; it is damaged, or was {OLDER}")


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Makes ArtifactErrors of what zarr and its codecs raise at damaged bytes: almost anything. path: the manifest."""
    try:
        yield
    except (ArtifactError, KeyError, IndexError):
        raise
    except Exception as error:
        raise Unreadable(
            f"{path}: {what} cannot be read ({type(error).__name__}: {error}); if it is damaged "
            f"(`python -m pipeline.artifacts verify {path.parent}`), {ANEW}"
        ) from error


class Guarded:
    """An array of a store: as zarr's, but what reading it raises is an ArtifactError."""

    def __init__(self, array: Any, path: Path, name: str):
        self.array, self.path, self.name = array, path, name

    def __getitem__(self, at: Any) -> Any:
        with reading(self.path, f"the array '{self.name}'"):
            return self.array[at]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        return np.asarray(self[...], *args, **options)


def is_manifest(found: object) -> bool:
    """Whether JSON has the parts of a manifest, as far as their types go."""
    return isinstance(found, dict) and all(isinstance(found.get(part), kind) for part, kind in PARTS.items())
