"""The settings of a data set, the block `data` of config.yaml: where photographs and labels lie, in which layout.

This module must not import torch: a dry run has to answer in about a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.core.steps.base import Settings

LARGEST = 4096  # pixels, of data.max_side


def _at_home(path: Path) -> Path:
    """With ~ as the home folder."""
    if "\0" in str(path):
        raise ValueError("a path without NUL expected: no file system knows one")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"a path that exists expected ({error})") from None


Root = Annotated[Path, AfterValidator(_at_home)]


Band = Annotated[int, Field(ge=1)]


class Demo(Settings):
    train: int = Field(160, ge=2, description="training pictures")
    val: int = Field(48, ge=1, description="validation pictures")
    seed: int = Field(0, description="another seed composes other pictures")


class Voc(Settings):
    root: Root = Field(Path("data/VOCdevkit/VOC2012"), description="folder with JPEGImages and ImageSets")
    masks: str = Field("SegmentationClass", description="folder of palette masks below root")
    train: str = Field("train_aug", description="list of training images (tags, pseudo-labels, training)")
    val: str = Field("val", description="list the final network is scored on")
    score: str | None = Field("train", description="list label quality is scored on; null: the training list")
    tags: Literal["xml", "csv", "masks"] = Field(
        "xml", description="image tags from Annotations, tags.csv or the masks"
    )
    download: bool = Field(False, description="fetch and unpack the public devkit first if root does not exist")
    url: str | None = Field(None, description="where to fetch it from; null: torchvision's address")


class Folder(Settings):
    root: Root = Field(Path("data/photos"), description="folder with images/, tags.csv and optional masks/, splits/")
    tags: Literal["table", "folders"] = Field(
        "table",
        description="image tags from tags.csv (without it: from the masks), or from the folder that each lies in",
    )
    val_share: float = Field(0.2, gt=0, lt=1, description="seeded validation share where there is no splits/val.txt")
    seed: int = Field(0, description="seed of that draw")


class Export(Settings):
    root: Root = Field(Path("data/photos"), description="folder of the photographs, searched with subfolders")
    labels: tuple[Root, ...] = Field((), description="what the annotation tool wrote: files, or a folder of them")
    val_share: float = Field(0.2, gt=0, lt=1, description="seeded validation share where the export names no val")
    seed: int = Field(0, description="seed of that draw")


# What annotation tools write, each read by a module of datasets/; all of them have the block `export`.
Tool = Literal[
    "coco",
    "cvat",
    "label-studio",
    "labelme",
    "yolo",
    "cvat-mask",
    "roboflow",
    "colours",
    "binary",
    "cityscapes",
    "ade20k",
]
EXPORTS: tuple[str, ...] = get_args(Tool)
FREE = ("cityscapes", "ade20k")  # of a background: what is not one of their classes is void


class Data(Settings):
    name: str = Field("demo", pattern=r"^[A-Za-z0-9_-]+$", description="folder below results/")
    format: Literal["demo", "voc", "folder", Tool] = Field(
        "demo", description="layout; left out: that of the block given, voc or folder, and demo where neither is"
    )
    max_side: int = Field(512, ge=16, le=LARGEST, description="longer images are reduced; scores use the original size")
    background: Literal["first", "none"] = Field(
        "first",
        description="first: the first class, mask value 0, is the background; none: it is one as any other; left out: "
        "first, of cityscapes and ade20k none",
    )
    bands: tuple[Band, Band, Band] | None = Field(
        None,
        description="which bands of each picture are red, green and blue, counted from 1, where it has more than three",
    )
    classes: list[str] | None = Field(None, description="keep only these classes (without background); null: all")
    other: Literal["error", "background", "void"] = Field(
        "error", description="what a mask value of a class not kept becomes; error: refuse the data set"
    )
    untagged: Literal["error", "drop"] = Field(
        "error",
        description="training images without a tag, as classes leave some: refuse the data set, or drop them; "
        "those said to show none of the classes (tag `background`, empty mask) stay",
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of the training images used, for a first try; a score list is kept whole"
    )
    corrections: tuple[Root, ...] = Field(
        (),
        description="masks corrected elsewhere, which replace the data set's own: exports, or predicted masks edited",
    )
    demo: Demo = Field(Demo(), description="which of the built-in pictures")
    voc: Voc = Field(Voc(), description="where a PASCAL VOC devkit lies")
    folder: Folder = Field(Folder(), description="where a plain folder of photographs lies")
    export: Export = Field(Export(), description="photographs and what an annotation tool wrote about them")

    @model_validator(mode="before")
    @classmethod
    def _layout(cls, raw: Any) -> Any:
        """Infer the format, and refuse settings that would run other data than they name. A block `demo` decides
        nothing: config.yaml, which is read first, has one."""
        if not isinstance(raw, dict):
            return raw
        given = [block for block in ("voc", "folder", "export") if block in raw]
        name, stated = raw.get("name", "demo"), raw.get("format")
        if stated is None:
            if len(given) > 1:
                both = " and ".join(f"data.{block}" for block in given)
                raise ValueError(f"{both} are both set; say which one counts with data.format")
            if given == ["export"]:
                raise ValueError(
                    f"data.export is set but nothing says who wrote it: set data.format to one of {', '.join(EXPORTS)}"
                )
            if not given and name != "demo":
                raise ValueError(
                    f"data.name is '{name}' but nothing says where the photographs are: set data.folder.root or "
                    "data.voc.root, or data.format: demo for the built-in pictures"
                )
            return {**raw, "format": given[0] if given else "demo"}
        for block in given:
            if block != block_of(stated):
                other = f"one of {', '.join(EXPORTS)}" if block == "export" else block
                raise ValueError(
                    f"data.{block} is set but data.format is '{stated}', which does not read it: "
                    f"set data.format: {other}, or remove data.{block}"
                )
        return {"background": "none", **raw} if stated in FREE else raw

    @model_validator(mode="after")
    def _no_background(self) -> Data:
        if self.background == "none" and self.other == "background":
            raise ValueError("data.other is 'background' but data.background is 'none'; use other: void or error")
        return self

    @model_serializer(mode="wrap")
    def _own_block(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the blocks of other layouts, so that what is written can be read again."""
        others = {"demo", "voc", "folder", "export"} - {block_of(self.format)}
        return {key: value for key, value in handler(self).items() if key not in others}


def block_of(layout: str) -> str:
    """The block of `data` that says where a data set of this layout lies."""
    return "export" if layout in EXPORTS else layout
