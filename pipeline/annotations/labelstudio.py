"""Label Studio's tasks with predictions to correct: `label-studio.json`, and the labelling configuration that they
belong to: `label-studio.xml`.

A task is a photograph; its prediction has one brush region for each class that the mask shows, in the run lengths of
brush.py. `data.photograph` is the photograph's path below the folder given, so that corrections find home whatever the
address. Tags are choices in the configuration; none is chosen beforehand, a person ticks them. Sizes are those of the
upright photograph, as browsers show it, and the brush is laid over what they show (`image_rotation` 0).

Label Studio keeps no photographs with tasks, it fetches `data.image`. Its own address for files on its disk is
/data/local-files/?d=<path below LOCAL_FILES_DOCUMENT_ROOT>; they must lie in a folder below that root that was added
as a storage of the project (label_studio/io_storages/localfiles/README.md there).

Source: labelstud.io/guide/predictions, labelstud.io/tags/brushlabels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.annotations import brush
from pipeline.annotations.labelled import About, Labelled
from pipeline.core.durable import write_atomic, writing
from pipeline.core.show import css

FILES = ("label-studio.json", "label-studio.xml")
IMAGE, BRUSH, TAGS = "image", "label", "tags"  # names of the controls
LOCAL = "/data/local-files/?d="


def write(out: Path, photos: Iterable[Labelled], about: About) -> str:
    """Write tasks and configuration into a folder; returns what is in it and how Label Studio is told where the
    photographs are. One photograph is held at a time."""
    number = 0
    with writing(out / FILES[0]) as file:
        for photo in photos:
            number += 1
            file.write(("[\n" if number == 1 else ",\n").encode() + json.dumps(task(photo, about)).encode())
        file.write(b"\n]\n" if number else b"[]\n")
    write_atomic(out / FILES[1], configuration(about))
    lines = [
        f"{number} tasks. In a new project paste {FILES[1]} (Settings, Labeling Interface, Code), then import this"
    ]
    if about.image_url is None:
        root, folders = served(about.sources)
        lines += [
            "  It fetches the photographs from its own disk (or name their address with --image-url). Start it with",
            f"    LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}",
            *(f"  and add to the project, Cloud Storage, Local files (no sync): {folder}" for folder in folders),
        ]
    return "\n".join(lines)


def task(photo: Labelled, about: About) -> dict[str, Any]:
    """A photograph with its mask as a task with one prediction. Ids follow from the photograph's name and the class."""
    height, width = photo.labels.shape
    regions = []
    for k in about.objects:
        if (inside := photo.labels == k).any():
            name = about.names[k]
            value = {"format": "rle", "rle": brush.encode(inside).tolist(), "brushlabels": [name]}
            regions.append(
                {
                    "id": hashlib.sha256(f"{photo.file}\n{name}".encode()).hexdigest()[:10],
                    "type": "brushlabels",
                    "from_name": BRUSH,
                    "to_name": IMAGE,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": value,
                }
            )
    prediction: dict[str, Any] = {"model_version": about.model[:16], "result": regions}
    if photo.score is not None:
        prediction["score"] = photo.score
    return {"data": {"image": address(photo, about), "photograph": photo.file}, "predictions": [prediction]}


def configuration(about: About) -> str:
    """The labelling configuration, XML: a brush and a choice for each class but the background, in the colours of our
    overlays."""
    names = [(quoteattr(about.names[k]), css(about.colour(k))) for k in about.objects]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="$image" zoom="true" zoomControl="true"/>',
            f'  <BrushLabels name="{BRUSH}" toName="{IMAGE}">',
            *(f'    <Label value={name} background="{colour}"/>' for name, colour in names),
            "  </BrushLabels>",
            f'  <Choices name="{TAGS}" toName="{IMAGE}" choice="multiple" showInline="true">',
            *(f"    <Choice value={name}/>" for name, _ in names),
            "  </Choices>",
            "</View>",
            "",
        ]
    )


def address(photo: Labelled, about: About) -> str:
    """Where Label Studio finds a photograph."""
    if about.image_url is not None:
        return about.image_url + quote(photo.file)
    return LOCAL + quote(os.fsencode(os.path.relpath(photo.path, served(about.sources)[0])))


def served(sources: Sequence[Path]) -> tuple[str, list[str]]:
    """The document root for these folders or files, and the folders below it to add as storages."""
    folders = sorted({os.path.abspath(source if source.is_dir() else source.parent) for source in sources})
    common = os.path.commonpath(folders)
    return (os.path.dirname(common) if common in folders else common), folders


def refused(names: Sequence[str]) -> str:
    """Why no configuration can hold these names of classes; '' where one can."""
    for name in names:
        if not name.strip() or any(c < " " or "\ud800" <= c <= "\udfff" or c in "\x7f\ufffe\uffff" for c in name):
            return f"the class {name!r}, as it is blank or holds control characters, which XML cannot"
    return ""
