"""docs/formats_in.md, written from the heads of the modules that read each format:

python -m pipeline.datasets.reference > docs/formats_in.md
"""

from __future__ import annotations

import inspect
import sys

from pipeline.core.data import EXPORTS
from pipeline.datasets.layouts import LAYOUTS

HEAD = """# Formats: what comes in

Written by `python -m pipeline.datasets.reference > docs/formats_in.md` from the heads of the modules in
`pipeline/datasets/`.

`python -m pipeline.start PHOTOS --labels WHAT_THE_TOOL_WROTE` recognises each by what is in it (`--format` says it)
and writes the block `data`; the examples show it. Names are matched from their end, so that the tool may know a
photograph by more folders than lie here, or by fewer. Coordinates from before an EXIF rotation are turned with the
photograph. A photograph of which an export says nothing is unlabelled, not empty: `data: {untagged: drop}` leaves it
out of training. Shapes that leave the picture are cut off; a pixel belongs to a polygon when its centre does. Classes
that no photograph shows are left out, and `data.classes`, `data.other` and `data.background` mean what they mean
everywhere ([settings](configuration.md)). What draws no mask, as a box, is a tag.

Beside these: a plain folder with tables and palette masks ([your photographs](tutorials/photographs.md)), and a
PASCAL VOC devkit (`data: {format: voc, voc: {root: ...}}`).
"""


def page() -> str:
    parts = [HEAD]
    for name in EXPORTS:
        module = sys.modules[LAYOUTS[name].source.__module__]
        parts.append(f"## `{name}`\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
