"""Settings of the methods that make labels, hard or soft, and of what they are made from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.core.steps.base import DENSE_CRF, Kind, Scales, Shares, Step, views


class Saliency(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs"}
    makes: ClassVar[Kind] = "saliency"
    stage: ClassVar[str] = "saliency"
    seeded: ClassVar[bool] = False
    method: Literal["saliency"] = "saliency"
    algorithm: Literal["rbd", "mb+", "ft"] = Field("rbd", description="mb+ needs the extra `mb` (numba)")
    side: int = Field(300, ge=32, description="computed at this longer side, then resized back")

    def seconds(self, side: int) -> float:
        return 0.2 + 0.7 * (self.side / side) ** 2


class Crf(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "seeds": "seeds", "saliency": "saliency?"}
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "crf"
    seeded: ClassVar[bool] = False
    method: Literal["crf"] = "crf"
    refine: Literal["crf", "argmax"] = Field("crf", description="argmax: the same rules without the CRF")
    background: float = Field(
        0.08, ge=0, le=1, description="saliency below is background; 0.08 suits rbd (see docs/methods.md)"
    )
    conflicts: bool = Field(True, description="AE-PSL: pixels that two classes claim become 255")
    low_saliency: bool = Field(True, description="AE-PSL: low-saliency pixels inside mined regions become 255")
    certainty: float = Field(0.8, gt=0.5, lt=1, description="probability given to a seed's label in the unary")
    keep: float = Field(0.0, ge=0, lt=1, description="after the CRF, pixels less certain than this become 255")
    iterations: int = Field(10, ge=1, description="of mean field")
    sxy: float = Field(3.0, gt=0, description="Gaussian kernel: pixels")
    compat: float = Field(3.0, ge=0, description="Gaussian kernel: weight")
    bilateral_sxy: float = Field(
        80.0, gt=0, description="bilateral kernel: pixels of a photograph of 500 px, in proportion for others"
    )
    bilateral_srgb: float = Field(8.0, gt=0, description="bilateral kernel: grey levels")
    bilateral_compat: float = Field(7.0, ge=0, description="bilateral kernel: weight")

    def seconds(self, side: int) -> float:
        return DENSE_CRF if self.refine == "crf" else 0.2


class Masks(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "masks": "masks"}
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "masks"
    threads: ClassVar[int] = 1
    method: Literal["masks"] = "masks"
    fraction: float = Field(1.0, gt=0, le=1, description="class-balanced share of the training masks that is used")


class Relabel(Step):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "tags": "tags",
        "model": "model",
        "covered": "labels|soft?",
    }
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "relabel"
    seeded: ClassVar[bool] = False
    infers: ClassVar[bool] = True
    method: Literal["relabel"] = "relabel"
    images: Literal["all", "covered"] = Field(
        "all", description="which training images: all, or those that the labels before cover (STC's simple ones)"
    )
    tags: bool = Field(True, description="only the background and the image's own tags are possible")
    foreground: float = Field(0.0, ge=0, lt=1, description="less certain foreground becomes 255")
    background: float = Field(0.0, ge=0, lt=1, description="less certain background becomes 255")
    scales: Scales = Field((1.0,), description="sizes whose probabilities are averaged")
    flip: bool = Field(True, description="mirror images too")
    crf: bool = Field(False, description="refine the probabilities with the dense CRF first")
    rescue: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="a tag that wins a smaller share of the pixels gets its most probable 1 % of them (STC: 0.001)",
    )

    def passes(self, side: int) -> float:
        return views(self.scales, self.flip)

    def seconds(self, side: int) -> float:
        return DENSE_CRF if self.crf else 0.2


class Infer(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "model": "model@dis"}
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "infer"
    seeded: ClassVar[bool] = False  # follows its model's seed
    infers: ClassVar[bool] = True
    method: Literal["infer"] = "infer"
    steps: int = Field(10, ge=0, description="of the descent towards an image and its tags; 0: none")
    least: float = Field(0.6, ge=0, le=1, description="pixels whose best class is less probable become 255")

    def passes(self, side: int) -> float:
        return 2.0  # the descent asks the small heads alone


class Merge(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "true": "labels@masks", "pseudo": "labels"}
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "merge"
    seeded: ClassVar[bool] = False
    threads: ClassVar[int] = 1
    method: Literal["merge"] = "merge"
    by: Literal["image", "class"] = Field(
        "image",
        description="image: a true mask replaces the pseudo-labels of its image; class: only of the classes it shows",
    )


class Simple(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "saliency": "saliency"}
    makes: ClassVar[Kind] = "soft"
    stage: ClassVar[str] = "simple"
    seeded: ClassVar[bool] = False
    method: Literal["simple"] = "simple"
    tags: int = Field(1, ge=1, description="an image has at least one and at most this many; they share its saliency")
    area: Shares = Field((0.05, 0.7), description="share of the image that is salient by Otsu's threshold, from and to")
    border: float = Field(
        0.06, ge=0, le=1, description="mean saliency along the image's border, less than this; 0.06 suits rbd"
    )
    grid: int = Field(4, ge=1, description="pixels a side of a cell of the soft labels")


class Soften(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "seeds": "seeds"}
    makes: ClassVar[Kind] = "soft"
    stage: ClassVar[str] = "soften"
    seeded: ClassVar[bool] = False
    threads: ClassVar[int] = 1
    method: Literal["soften"] = "soften"


class Harden(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "soft": "soft"}
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "harden"
    seeded: ClassVar[bool] = False
    method: Literal["harden"] = "harden"
    least: float = Field(0.6, ge=0, le=1, description="pixels whose best class is less probable become 255")
    crf: bool = Field(False, description="refine the probabilities with the dense CRF first")

    def seconds(self, side: int) -> float:
        return DENSE_CRF if self.crf else 0.2


LabelsStep = Saliency | Crf | Masks | Relabel | Infer | Merge | Simple | Soften | Harden
