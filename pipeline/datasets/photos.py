"""Photographs that users hand to `predict` and `suggest`, each with the places of what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.job import InputError
from pipeline.datasets.files import SUFFIXES, Seen, foreign, identity, printable, see
from pipeline.datasets.pictures import read_mask, reason


@dataclass(frozen=True)
class Photo:
    """A photograph and the files made from it. name: its path below the folder given, without suffix."""

    path: Path
    name: str
    mask: Path
    overlay: Path

    @property
    def file(self) -> str:
        """Its path below the folder given."""
        return Path(*self.path.parts[-1 - self.name.count("/") :]).as_posix()


def find_photos(sources: Sequence[Path], out: Path) -> tuple[list[Photo], dict[Path, str]]:
    """All photographs below these folders or files, what lies in `out` excepted; and the pictures that are not read,
    with the reason. What else is left out is printed.

    Raises InputError when there are none, when two would share a mask, or when a result would replace a photograph.
    """
    found, refused = dict[str, Photo](), dict[Path, str]()

    def shared(path: Path, first: Path, name: str) -> InputError:
        return InputError(printable(f"{path} and {first} would share the mask {name}.png; rename one"))

    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
        if source.is_dir():
            seen = see(source, out=out)
        elif source.suffix.lower() in SUFFIXES:
            seen = Seen({identity(source.name): source})
        else:
            seen = Seen(foreign={source.stem: source})
        for note in seen.notes(source):
            print(note, flush=True)
        for second, first in seen.twins:
            raise shared(second, first, identity(second.relative_to(source).as_posix()))
        refused |= {path: foreign(path).partition(": ")[2] for path in seen.foreign.values()}
        refused |= {source / name: reason for name, _, reason in (line.partition(": ") for line in seen.left.closed)}
        for name, path in seen.found.items():
            if name in found:
                raise shared(path, found[name].path, name)
            found[name] = Photo(path, name, out / f"{name}.png", out / "overlays" / f"{name}.jpg")
    if not found:
        reasons = [f"  {path}: {reason}" for path, reason in refused.items()]
        where = f"{', '.join(map(str, sources))}: no photographs found ({', '.join(SUFFIXES)} expected)"
        raise InputError(printable("\n".join([where, *reasons])))
    originals = {photo.path.resolve() for photo in found.values()}
    for photo in found.values():
        for result in (photo.mask, photo.overlay):
            if result.resolve() in originals:
                raise InputError(f"--out {out}: {result} is one of the photographs; choose another folder")
    return list(found.values()), refused


def class_ids(mask: Path) -> np.ndarray:
    """Values of a mask. ValueError, with the reason and what to do, where it cannot be read."""
    try:
        return read_mask(mask)
    except Exception as error:
        raise ValueError(reason(error)) from None
