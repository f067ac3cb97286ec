"""What every method's settings class has: what the method takes and makes, and what its job asks for.

    takes    role → kind. A role takes the nearest artifact of its kind to the left in the recipe, a second role of the
             same kind the next nearest. 'labels|soft': the nearer of the two. 'saliency?': optional. 'labels@masks':
             only what the method `masks` made. Photographs, tags and masks come from the data set.
    makes    the kind of artifact; stage: the module that runs it; seeded: whether a seed changes the result.
    gpu, threads, passes, seconds: what a job asks for, see core/resources.py. seconds: of one core, per megapixel.
    lengths  settings in pixels that follow from the photographs' longer side where they are not given.

Must not import torch: a dry run has to answer in about a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Kind = Literal[
    "photographs", "tags", "masks", "saliency", "hypotheses", "weights", "classifier", "seeds", "labels", "soft",
    "patches", "model",
]  # fmt: skip
DATA = ("photographs", "tags", "masks")  # kinds that the data set itself is, directly below its folder
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "efficientnet_lite0"]
HeadName = Literal["deeplabv3+", "largefov", "hypercolumn"]


def _ascending(pair: Any) -> Any:
    if pair is not None and pair[0] > pair[1]:
        raise ValueError("the smaller number first, expected")
    return pair


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
if TYPE_CHECKING:  # a stage is only ever given settings that `sized` has filled in
    Length = int
    Sides = tuple[int, int]
else:
    Length = int | None
    Sides = Annotated[tuple[PositiveInt, PositiveInt] | None, AfterValidator(_ascending)]
Scales = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
Stride = Literal[8, 16, 32]
DENSE_CRF = 1.6  # seconds of one core per megapixel


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Step(Settings):
    """What every method shares."""

    takes: ClassVar[dict[str, str]] = {}
    makes: ClassVar[Kind]
    stage: ClassVar[str]
    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    whole: ClassVar[bool] = False  # trains on whole photographs too, which take more memory than its crops
    infers: ClassVar[bool] = False  # runs a network, so precision can change its result
    threads: ClassVar[int] = 8  # at most; 1 where the stage uses one
    lengths: ClassVar[dict[str, float | tuple[float, float]]] = {}  # setting → share of the longer side
    method: str

    @property
    def gpu(self) -> bool:
        return self.trains or self.infers

    def passes(self, side: int) -> float:
        """How often a network runs forward over a photograph stored with this longer side; a training step is three."""
        return 0.0

    def seconds(self, side: int) -> float:
        """What all else costs one core, per megapixel of the stored photograph."""
        return 0.2

    def sized(self, side: int) -> Self:
        """These settings with every length that is not given set in proportion to the photographs' longer side."""
        missing = {name: share for name, share in self.lengths.items() if getattr(self, name) is None}
        return self.model_copy(update={name: _length(side, share, name) for name, share in missing.items()})


def _length(side: int, share: float | tuple[float, float], name: str) -> int | tuple[int, int]:
    """Lengths are even; crops and patches, which networks see, are whole multiples of 16 and no smaller than 64."""
    if isinstance(share, tuple):
        low, high = (max(8, 2 * round(side * part / 2)) for part in share)
        return low, high
    if name == "border":
        return round(side * share)
    return max(64, 16 * round(side * share / 16))


class Training(Step):
    """Settings of the one training loop (core/train.py)."""

    trains: ClassVar[bool] = True
    epochs: float = Field(10, gt=0, description="passes over the training images")
    batch: int = Field(16, ge=1, description="images of one iteration")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW")
    lr: float = Field(0.01, gt=0, description="learning rate of pretrained layers")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="as the optimizer defines it")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field(
        "poly", description="of the learning rate; poly: (1 - t)^0.9"
    )
    milestones: tuple[float, ...] = Field((0.75,), description="step schedule: lr ÷ 10 at these shares of training")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of training with linearly rising lr")

    def passes(self, side: int) -> float:
        return 3 * self.epochs


class CropTraining(Training):
    """Training on random crops, of a network with a new head."""

    lengths: ClassVar[dict[str, float | tuple[float, float]]] = {"crop": 0.7}
    crop: Length = Field(  # type: ignore[assignment]
        None, ge=32, description="side of the square training crop, pixels; null: in proportion to data.max_side"
    )
    scale: Range = Field((0.7, 1.5), description="random resize before cropping, smallest and largest")
    jitter: float = Field(0.2, ge=0, le=1, description="random brightness and contrast, 0 = none")
    head_lr: float = Field(10.0, gt=0, description="new layers learn this many times faster")

    def passes(self, side: int) -> float:
        return 3 * self.epochs * (self.crop / side) ** 2


def views(scales: tuple[float, ...], flip: bool) -> float:
    """Passes over a photograph that is looked at in these sizes."""
    return sum(scale * scale for scale in scales) * (1 + flip)


class Claims(Step):
    """What a maker of seeds claims of its maps. Changing it never recomputes a map."""

    reading: Literal["of_max", "top_of_max", "top_pixels"] = Field(
        "of_max", description="'top 20 %': H > t·max, H >= (1-t)·max, or the highest t of all pixels"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="t of the reading: what is claimed for a class")
    largest: float = Field(0.7, gt=0, le=1, description="a map that would claim more of an image raises its threshold")
