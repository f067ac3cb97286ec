"""Settings of the methods that make weights, without labels or by tuning on patches."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.steps.base import BackboneName, CropTraining, HeadName, Kind, Length, Sides, Step, Stride, Training


class Imagenet(Step):
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "init"
    seeded: ClassVar[bool] = False
    threads: ClassVar[int] = 1
    method: Literal["imagenet"] = "imagenet"
    backbone: BackboneName = Field("efficientnet_lite0", description="network whose weights they are")
    file: Path | None = Field(None, description="local state dict; null: torchvision's cache or the pip package")

    def seconds(self, side: int) -> float:
        return 0.0


class Random(Step):
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "init"
    threads: ClassVar[int] = 1
    method: Literal["random"] = "random"
    backbone: BackboneName = Field("resnet18", description="network to initialise")

    def seconds(self, side: int) -> float:
        return 0.0


class Proxy(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs"}
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "proxy"
    lengths: ClassVar[dict[str, float | tuple[float, float]]] = {"crop": 0.7, "border": 0.0625}
    method: Literal["proxy"] = "proxy"
    task: Literal["colorization", "jigsaw"] = Field("colorization", description="what is learnt without labels")
    backbone: BackboneName = Field("resnet18", description="network to pretrain")
    epochs: float = Field(20, gt=0, description="passes over the training images")
    lr: float = Field(0.05, gt=0, description="learning rate")
    head_lr: float = Field(1.0, gt=0, description="the task's layers learn this many times faster")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of training with linearly rising lr")
    jitter: float = Field(0.0, ge=0, le=1, description="random brightness and contrast, 0 = none")
    pixels: int = Field(256, ge=1, description="colorization: random pixels per image")
    border: Length = Field(  # type: ignore[assignment]
        None,
        ge=0,
        description="colorization: distance of those pixels from the edge; null: in proportion to data.max_side",
    )
    hidden: int = Field(1024, ge=1, description="width of the hidden layer over the hypercolumn or the nine codes")
    permutations: int = Field(100, ge=2, le=2000, description="jigsaw: how many orders are told apart")
    shuffles: int = Field(8, ge=1, description="jigsaw: orders shown of each photograph; only the head runs again")
    tile: int | None = Field(None, ge=8, description="jigsaw: side of a tile; null: 75/85 of a third of the crop")
    code: int = Field(128, ge=1, description="jigsaw: width of a tile's code")
    gray: bool = Field(True, description="colorization: what follows sees gray too, as the released M&M code does")


class Patches(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "labels": "labels"}
    makes: ClassVar[Kind] = "patches"
    stage: ClassVar[str] = "patches"
    threads: ClassVar[int] = 1
    lengths: ClassVar[dict[str, float | tuple[float, float]]] = {"sides": (0.15, 0.5), "size": 0.25}
    method: Literal["patches"] = "patches"
    per_image: int = Field(10, ge=1, description="patches of an image in one draw")
    draws: int = Field(4, ge=1, description="draws per image kept in the bank")
    sides: Sides = Field(  # type: ignore[assignment]
        None, description="smallest and largest side, pixels; even; null: in proportion to data.max_side"
    )
    size: Length = Field(  # type: ignore[assignment]
        None, ge=16, le=1024, description="patches are resized to this side; null: in proportion to data.max_side"
    )
    background_share: float = Field(0.1, ge=0, lt=1, description="of the patches of an image")
    overlap: float = Field(0.6, gt=0, le=1, description="a patch more covered by earlier ones than this is dropped")
    reference: Literal["own", "first"] = Field(
        "own", description="area the covered part is compared with: the patch's own, or the first one's as released"
    )


class Triplet(Training):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "patches": "patches", "weights": "weights"}
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "triplet"
    method: Literal["triplet"] = "triplet"
    epochs: float = Field(10, gt=0, description="passes over the images of the patch bank")
    batch: int = Field(16, ge=2, description="images per batch; each brings one draw of patches")
    match: Literal["trees", "all"] = Field(
        "trees",
        description="a triplet per patch, drawn as a tree over each class, or (ours) the mean over all triplets",
    )
    margin: float = Field(2.1, gt=0, description="of the hinge; from 2 on it is never at rest, which `all` needs")
    stride: Stride = Field(32, description="output stride of the network")
    pool: int = Field(4, ge=1, description="side of the feature map that is flattened into the embedding")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("step", description="of the learning rate")
    weight_decay: float = Field(5e-4, ge=0, description="as the optimizer defines it")

    @model_validator(mode="after")
    def _never_at_rest(self) -> Self:
        if self.match == "all" and self.margin < 2:
            raise ValueError(f"match: all needs a margin of at least 2; {self.margin} found")
        return self

    def passes(self, side: int) -> float:
        return 3 * self.epochs * 10 / 16  # ten patches of a quarter of the side, as `patches` draws them


class Contrast(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "labels": "labels", "weights": "weights"}
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "contrast"
    method: Literal["contrast"] = "contrast"
    variant: Literal["within", "cross", "batch"] = Field(
        "cross", description="pixels are compared within an image, with another image's of their class too, or all"
    )
    form: Literal["released", "paper"] = Field(
        "released", description="what a positive stands against: negatives alone, or negatives and other positives"
    )
    temperature: float = Field(0.07, ge=0.02, description="of the similarities")
    distortion: bool = Field(True, description="the second view of an image has other colours, as in SimCLR")
    spacing: int = Field(8, ge=1, description="pixels from one compared pixel to the next")
    head: HeadName = Field("deeplabv3+", description="decoder that is trained along")
    stride: Stride = Field(16, description="output stride of the network")
    width: int = Field(256, ge=8, description="channels of the decoder")
    epochs: float = Field(20, gt=0, description="passes over the images that the labels cover")
    jitter: float = Field(0.0, ge=0, le=1, description="random brightness and contrast of both views, 0 = none")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("cosine", description="of the learning rate")
    weight_decay: float = Field(4e-5, ge=0, description="as the optimizer defines it")

    def passes(self, side: int) -> float:
        return super().passes(side) * (1 + self.distortion)


WeightsStep = Imagenet | Random | Proxy | Patches | Triplet | Contrast
