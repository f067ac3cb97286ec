"""CVAT's "Segmentation mask 1.1": `cvat.zip`, to upload as annotations of a task that holds the photographs.

    labelmap.txt                            name:r,g,b:: a class, the background first and black
    ImageSets/Segmentation/default.txt      the photographs, by path without suffix
    SegmentationClass/<photograph>.png      classes by colour
    SegmentationObject/<photograph>.png     objects by colour, each of one class; 0 is none

Pictures have a palette, in which a value is its class's line in labelmap.txt and its object's number, so that readers
that look at colours and those that look at values find the same. An object is a connected component of a class. There
are 255 colours: of more components the largest have one of their own, and the others of a class share one. Masks are
upright, as CVAT turns photographs by their EXIF when a task is made.

Source: docs.cvat.ai (formats, Segmentation mask), cvat/apps/dataset_manager/formats/mask.py, and datumaro's voc format.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.annotations.labelled import About, Labelled
from pipeline.core.durable import writing
from pipeline.core.show import palette_png

FILES = ("cvat.zip",)
MOST = 255  # objects of a photograph


def write(out: Path, photos: Iterable[Labelled], about: About) -> str:
    """Write cvat.zip into a folder; returns what is in it. One photograph is held at a time."""
    names = list[str]()
    with writing(out / FILES[0]) as file, zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = zipfile.ZipInfo(name)  # of the year 1980: the same masks make the same bytes
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)

        add("labelmap.txt", labelmap(about).encode())
        for photo in photos:
            names.append(listed(photo.file))
            classes, objects = layers(photo.labels, about)
            add(f"SegmentationClass/{names[-1]}.png", palette_png(classes))
            add(f"SegmentationObject/{names[-1]}.png", palette_png(objects))
        add("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in names).encode())
    return f"{len(names)} photographs. In a task with them and these labels: Upload annotations, Segmentation mask 1.1"


def labelmap(about: About) -> str:
    """labelmap.txt. Where an ordinary class is called background, the black that is nothing has another name."""
    names = [about.names[k] for k in about.objects]
    nothing = "background"
    while nothing in names:
        nothing = f"no-{nothing}"
    lines = [
        f"{nothing}:0,0,0::",
        *(f"{about.names[k]}:{','.join(map(str, about.colour(k)))}::" for k in about.objects),
    ]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def layers(labels: np.ndarray, about: About) -> tuple[np.ndarray, np.ndarray]:
    """A mask uint8 [H,W] → lines of labelmap.txt and numbers of objects, both uint8 [H,W], 0 where there is none."""
    parts, classes = about.components(labels)
    numbers = np.arange(len(classes))
    if len(classes) - 1 > MOST:
        order = 1 + np.argsort(-np.bincount(parts.ravel(), minlength=len(classes))[1:], kind="stable")
        shown, own = np.unique(classes[1:]), MOST - len(np.unique(classes[1:]))
        numbers[order[:own]] = np.arange(1, own + 1)
        numbers[order[own:]] = own + 1 + np.searchsorted(shown, classes[order[own:]])
    return about.places[labels], numbers.astype(np.uint8)[parts]


def refused(names: Sequence[str]) -> str:
    """Why labelmap.txt cannot hold these names of classes; '' where it can."""
    for name in names:
        if name != name.strip() or not name or name[0] == "#" or ":" in name or not name.isprintable():
            return f"the class {name!r}: no colon, no # at the beginning, no blank at the ends, nothing unprintable"
        if names.count(name) > 1:
            return f"two classes {name!r}"
    return ""


def listed(file: str) -> str:
    """How default.txt names a photograph."""
    return str(PurePosixPath(file).with_suffix(""))


def unlisted(file: str) -> bool:
    """Whether default.txt cannot name a photograph: it is read line by line, without blanks at the ends."""
    name = listed(file)
    return name != name.strip() or name[0] == "#" or len(name.splitlines()) > 1
