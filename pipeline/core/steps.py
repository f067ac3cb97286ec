"""Every method's settings, one class each, checked by pydantic; the class also says what the method is to the workflow.

    takes    role → kind. A role takes the nearest artifact of its kind to the left in the recipe, a second role of the
             same kind the next nearest. 'labels|soft': the nearer of the two. 'saliency?': optional. 'labels@masks':
             only what the method `masks` made. Photographs, tags and masks come from the data set.
    makes    the kind of artifact; stage: the module that runs it; seeded: whether a seed changes the result.
    gpu, threads, passes, seconds: what a job asks for, see core/resources.py. seconds: of one core, per megapixel.
    lengths  settings in pixels that follow from the photographs' longer side where they are not given.

Adding a method means adding one class here and one stage file. This module must not import torch: a dry run has to
answer in about a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Kind = Literal[
    "photographs", "tags", "masks", "saliency", "weights", "classifier", "seeds", "labels", "soft", "patches", "model"
]  # fmt: skip
DATA = ("photographs", "tags", "masks")  # kinds that the data set itself is, directly below its folder
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "efficientnet_lite0"]


def _ascending(pair: Any) -> Any:
    if pair is not None and pair[0] > pair[1]:
        raise ValueError("the smaller number first, expected")
    return pair


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
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
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(Settings):
    """What every method shares."""

    takes: ClassVar[dict[str, str]] = {}
    makes: ClassVar[Kind]
    stage: ClassVar[str]
    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = False
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


def _views(scales: tuple[float, ...], flip: bool) -> float:
    """Passes over a photograph that is looked at in these sizes."""
    return sum(scale * scale for scale in scales) * (1 + flip)


class Classify(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "weights": "weights"}
    makes: ClassVar[Kind] = "classifier"
    stage: ClassVar[str] = "classify"
    method: Literal["classify"] = "classify"
    stride: Stride = Field(16, description="output stride of the network")


class Claims(Step):
    """What a maker of seeds claims of its maps. Changing it never recomputes a map."""

    reading: Literal["of_max", "top_of_max", "top_pixels"] = Field(
        "of_max", description="'top 20 %': H > t·max, H >= (1-t)·max, or the highest t of all pixels"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="t of the reading: what is claimed for a class")
    largest: float = Field(0.7, gt=0, le=1, description="a map that would claim more of an image raises its threshold")


class Cam(Claims):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "classifier": "classifier"}
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "cam"
    seeded: ClassVar[bool] = False  # follows its classifier's seed
    infers: ClassVar[bool] = True
    method: Literal["cam"] = "cam"
    scales: Scales = Field((1.0, 0.5, 1.5, 2.0), description="sizes whose maps are added")
    flip: bool = Field(True, description="mirror images too")
    grid: int = Field(4, ge=1, description="the stored maps have one cell per grid x grid pixels")

    def passes(self, side: int) -> float:
        return _views(self.scales, self.flip)


class Erase(Classify):
    takes: ClassVar[dict[str, str]] = {**Classify.takes, "seeds": "seeds"}
    stage: ClassVar[str] = "erase"
    method: Literal["erase"] = "erase"  # type: ignore[assignment]
    stop_loss: float = Field(2.0, gt=1, description="stop when the loss plateau exceeds this times round 1's")
    stop_recall: float = Field(0.6, ge=0, le=1, description="stop when fewer images have a tag as their best class")


class Mine(Claims):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "seeds": "seeds",
        "classifier": "classifier@erase",
    }
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "mine"
    seeded: ClassVar[bool] = False
    infers: ClassVar[bool] = True
    method: Literal["mine"] = "mine"
    scales: Scales = Field((1.0, 0.5, 1.5, 2.0), description="sizes whose maps are added")
    flip: bool = Field(True, description="mirror images too")
    recognised: float = Field(
        0.9, ge=0, lt=1, description="ours: a class less probable in the erased image is mined no further; 0: all are"
    )
    elsewhere: bool = Field(
        True, description="ours: only cells that no class has claimed count, for the maximum too; false: the paper's"
    )
    stop_mined: float = Field(0.02, ge=0, le=1, description="stop when a round mines less new area than this")

    def passes(self, side: int) -> float:
        return _views(self.scales, self.flip) + 1


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

    def passes(self, side: int) -> float:
        return _views(self.scales, self.flip)

    def seconds(self, side: int) -> float:
        return DENSE_CRF if self.crf else 0.2


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
    margin: float = Field(2.1, gt=0, description="of the hinge; at 2.1 it is never at rest")
    stride: Stride = Field(32, description="output stride of the network")
    pool: int = Field(4, ge=1, description="side of the feature map that is flattened into the embedding")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("step", description="of the learning rate")
    weight_decay: float = Field(5e-4, ge=0, description="as the optimizer defines it")

    def passes(self, side: int) -> float:
        return 3 * self.epochs * 10 / 16  # ten patches of a quarter of the side, as `patches` draws them


class Segment(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "labels": "labels|soft", "weights": "weights"}
    makes: ClassVar[Kind] = "model"
    stage: ClassVar[str] = "segment"
    method: Literal["segment"] = "segment"
    head: Literal["deeplabv3+", "largefov"] = Field("deeplabv3+", description="what turns features into classes")
    stride: Stride = Field(16, description="output stride of the network")
    width: int = Field(256, ge=8, description="channels of the head")
    epochs: float = Field(20, gt=0, description="passes over the images that the labels cover")


AnyStep = Annotated[
    Imagenet
    | Random
    | Proxy
    | Saliency
    | Classify
    | Cam
    | Erase
    | Mine
    | Crf
    | Masks
    | Relabel
    | Merge
    | Patches
    | Triplet
    | Segment,
    Field(discriminator="method"),
]
METHODS: dict[str, type[Step]] = {cls.model_fields["method"].default: cls for cls in get_args(get_args(AnyStep)[0])}
