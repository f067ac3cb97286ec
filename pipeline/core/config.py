"""Every setting of the project, checked by pydantic.

`config.yaml` is one `Config`. Each step of a recipe is one settings class below; the class also says which kinds of
artifact the method takes and makes, which module runs it, and whether a seed changes its result. Adding a method means
adding one class here, one stage file and one rule.

This module must not import torch: a dry run has to answer in about a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

Kind = Literal["images", "saliency", "weights", "classifier", "seeds", "labels", "patches", "model"]
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "efficientnet_lite0"]


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the key, what was found and what was expected."""


def _ascending(pair: Any) -> Any:
    if pair[0] > pair[1]:
        raise ValueError("the smaller number first, expected")
    return pair


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
Scales = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------------------- data


class Demo(Settings):
    train: int = Field(160, ge=2, description="training pictures")
    val: int = Field(48, ge=1, description="validation pictures")
    seed: int = Field(0, description="another seed composes other pictures")


class Voc(Settings):
    root: Path = Field(Path("data/VOCdevkit/VOC2012"), description="folder with JPEGImages and ImageSets")
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
    root: Path = Field(Path("data/photos"), description="folder with images/, tags.csv and optional masks/, splits/")
    val_share: float = Field(0.2, gt=0, lt=1, description="seeded validation share where there is no splits/val.txt")
    seed: int = Field(0, description="seed of that draw")


class Data(Settings):
    name: str = Field("demo", pattern=r"^[A-Za-z0-9_-]+$", description="folder below results/")
    format: Literal["demo", "voc", "folder"] = Field(
        "demo", description="layout; left out: that of the block given, voc or folder, and demo where neither is"
    )
    max_side: int = Field(512, ge=16, le=4096, description="longer images are reduced; scores use the original size")
    background: Literal["first", "none"] = Field(
        "first", description="first: the first class, mask value 0, is the background; none: it is one as any other"
    )
    classes: list[str] | None = Field(None, description="keep only these classes (without background); null: all")
    other: Literal["error", "background", "void"] = Field(
        "error", description="what a mask value of a class not kept becomes; error: refuse the data set"
    )
    untagged: Literal["error", "drop"] = Field(
        "error", description="training images without a tag, as classes leave some: refuse the data set, or drop them"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of the training images used, for a first try; a score list is kept whole"
    )
    demo: Demo = Demo()
    voc: Voc = Voc()
    folder: Folder = Folder()

    @model_validator(mode="before")
    @classmethod
    def _layout(cls, raw: Any) -> Any:
        """Infer the format, and refuse settings that would run other data than they name. A block `demo` decides
        nothing: config.yaml, which is read first, has one."""
        if not isinstance(raw, dict):
            return raw
        given = [block for block in ("voc", "folder") if block in raw]
        name, stated = raw.get("name", "demo"), raw.get("format")
        if stated is None:
            if len(given) > 1:
                raise ValueError("data.voc and data.folder are both set; say which one counts with data.format")
            if not given and name != "demo":
                raise ValueError(
                    f"data.name is '{name}' but nothing says where the photographs are: set data.folder.root or "
                    "data.voc.root, or data.format: demo for the built-in pictures"
                )
            return {**raw, "format": given[0] if given else "demo"}
        for block in given:
            if block != stated:
                raise ValueError(
                    f"data.{block} is set but data.format is '{stated}', which does not read it: "
                    f"set data.format: {block}, or remove data.{block}"
                )
        return raw

    @model_validator(mode="after")
    def _no_background(self) -> Data:
        if self.background == "none" and self.other == "background":
            raise ValueError("data.other is 'background' but data.background is 'none'; use other: void or error")
        return self

    @model_serializer(mode="wrap")
    def _own_block(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the blocks of other layouts, so that what is written can be read again."""
        return {
            key: value for key, value in handler(self).items() if key not in {"demo", "voc", "folder"} - {self.format}
        }


# --------------------------------------------------------------------------------------------------------- steps


class Step(Settings):
    """What every method shares. `takes` lists kinds ('?' = optional); `images` is always available."""

    takes: ClassVar[tuple[str, ...]] = ("images",)
    makes: ClassVar[Kind]
    stage: ClassVar[str]
    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    infers: ClassVar[bool] = False  # runs a network, so precision can change its result
    method: str


class Training(Step):
    """Settings of the one training loop (core/train.py)."""

    trains: ClassVar[bool] = True
    epochs: float = Field(10, gt=0, description="passes over the training images")
    batch: int = Field(16, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0, description="of pretrained layers")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("poly", description="poly: (1 - t)^0.9")
    milestones: tuple[float, ...] = Field((0.75,), description="step schedule: lr ÷ 10 at these shares of training")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of training with linearly rising lr")


class CropTraining(Training):
    """Training on random crops, of a network with a new head."""

    crop: int = Field(224, ge=32, description="side of the square training crop, pixels")
    scale: Range = Field((0.7, 1.5), description="random resize before cropping, smallest and largest")
    jitter: float = Field(0.2, ge=0, le=1, description="random brightness and contrast, 0 = none")
    head_lr: float = Field(10.0, gt=0, description="new layers learn this many times faster")


class Imagenet(Step):
    takes: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "init"
    seeded: ClassVar[bool] = False
    method: Literal["imagenet"] = "imagenet"
    backbone: BackboneName = "efficientnet_lite0"
    file: Path | None = Field(None, description="local state dict; null: torchvision's cache or the pip package")


class Random(Step):
    takes: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "init"
    method: Literal["random"] = "random"
    backbone: BackboneName = "resnet18"


class Proxy(CropTraining):
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "proxy"
    method: Literal["proxy"] = "proxy"
    task: Literal["colorization", "jigsaw"] = "colorization"
    backbone: BackboneName = "resnet18"
    epochs: float = Field(20, gt=0)
    lr: float = Field(0.05, gt=0)
    head_lr: float = Field(1.0, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    jitter: float = Field(0.0, ge=0, le=1)
    pixels: int = Field(256, ge=1, description="colorization: random pixels per image")
    border: int = Field(32, ge=0, description="colorization: distance of those pixels from the edge")
    hidden: int = Field(1024, ge=1, description="width of the hidden layer over the hypercolumn or the nine codes")
    permutations: int = Field(100, ge=2, le=2000, description="jigsaw: how many orders are told apart")
    shuffles: int = Field(8, ge=1, description="jigsaw: orders shown of each photograph; only the head runs again")
    tile: int | None = Field(None, ge=8, description="jigsaw: side of a tile; null: 75/85 of a third of the crop")
    code: int = Field(128, ge=1, description="jigsaw: width of a tile's code")
    gray: bool = Field(True, description="colorization: what follows sees gray too, as the released M&M code does")


class Saliency(Step):
    makes: ClassVar[Kind] = "saliency"
    stage: ClassVar[str] = "saliency"
    seeded: ClassVar[bool] = False
    method: Literal["saliency"] = "saliency"
    algorithm: Literal["rbd", "mb+", "ft"] = "rbd"
    side: int = Field(300, ge=32, description="computed at this longer side, then resized back")


class Classify(CropTraining):
    takes: ClassVar[tuple[str, ...]] = ("images", "weights")
    makes: ClassVar[Kind] = "classifier"
    stage: ClassVar[str] = "classify"
    method: Literal["classify"] = "classify"
    stride: Literal[8, 16, 32] = Field(16, description="output stride of the network")


class Cam(Step):
    takes: ClassVar[tuple[str, ...]] = ("images", "classifier")
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "cam"
    seeded: ClassVar[bool] = False  # follows its classifier's seed
    infers: ClassVar[bool] = True
    method: Literal["cam"] = "cam"
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    grid: int = Field(4, ge=1, description="the stored maps have one cell per grid x grid pixels")


class Erase(Classify):
    takes: ClassVar[tuple[str, ...]] = ("images", "seeds", "weights")
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "erase"
    method: Literal["erase"] = "erase"  # type: ignore[assignment]
    reading: Literal["of_max", "top_of_max", "top_pixels"] = Field(
        "of_max", description="'top 20 %': H > t·max, H >= (1-t)·max, or the highest t of all pixels"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="t of the reading")
    largest: float = Field(
        0.7, gt=0, le=1, description="a round that would erase more of an image raises its threshold"
    )
    recognised: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="a class less probable in the erased image is mined no further; 0: all are",
    )
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    stop_loss: float = Field(2.0, gt=1, description="stop when the loss plateau exceeds this times round 1's")
    stop_recall: float = Field(0.6, ge=0, le=1, description="stop when fewer images have a tag as their best class")
    stop_mined: float = Field(0.02, ge=0, le=1, description="stop when a round mines less new area than this")


class Crf(Step):
    takes: ClassVar[tuple[str, ...]] = ("images", "seeds", "saliency?")
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "crf"
    seeded: ClassVar[bool] = False
    method: Literal["crf"] = "crf"
    refine: Literal["crf", "argmax"] = Field("crf", description="argmax: the same rules without the CRF")
    foreground: float = Field(0.4, gt=0, lt=1, description="scores above are foreground (CAM seeds; AE has regions)")
    background: float = Field(
        0.08, ge=0, le=1, description="saliency below is background; 0.08 suits rbd (see docs/methods.md)"
    )
    conflicts: bool = Field(True, description="AE-PSL: pixels that two classes claim become 255")
    low_saliency: bool = Field(True, description="AE-PSL: low-saliency pixels inside mined regions become 255")
    certainty: float = Field(0.8, gt=0.5, lt=1, description="probability given to a seed's label in the unary")
    keep: float = Field(0.0, ge=0, lt=1, description="after the CRF, pixels less certain than this become 255")
    iterations: int = Field(10, ge=1)
    sxy: float = Field(3.0, description="Gaussian kernel: pixels")
    compat: float = 3.0
    bilateral_sxy: float = Field(
        80.0, description="bilateral kernel: pixels of a photograph of 500 px, in proportion for others"
    )
    bilateral_srgb: float = Field(8.0, description="bilateral kernel: grey levels")
    bilateral_compat: float = 7.0


class Masks(Step):
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "masks"
    method: Literal["masks"] = "masks"
    fraction: float = Field(1.0, gt=0, le=1, description="class-balanced share of the training masks that is used")


class Relabel(Step):
    takes: ClassVar[tuple[str, ...]] = ("images", "model")
    makes: ClassVar[Kind] = "labels"
    stage: ClassVar[str] = "relabel"
    seeded: ClassVar[bool] = False
    infers: ClassVar[bool] = True
    method: Literal["relabel"] = "relabel"
    tags: bool = Field(True, description="only the background and the image's own tags are possible")
    foreground: float = Field(0.0, ge=0, lt=1, description="less certain foreground becomes 255")
    background: float = Field(0.0, ge=0, lt=1, description="less certain background becomes 255")
    scales: Scales = (1.0,)
    flip: bool = True
    crf: bool = Field(False, description="refine the probabilities with the dense CRF first")


class Patches(Step):
    takes: ClassVar[tuple[str, ...]] = ("images", "labels")
    makes: ClassVar[Kind] = "patches"
    stage: ClassVar[str] = "patches"
    method: Literal["patches"] = "patches"
    per_image: int = Field(10, ge=1, description="patches of an image in one draw")
    draws: int = Field(4, ge=1, description="draws per image kept in the bank")
    sides: Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)] = Field(
        (64, 256), description="smallest and largest side, pixels; even"
    )
    size: int = Field(128, ge=16, le=1024, description="patches are resized to this side")
    background_share: float = Field(0.1, ge=0, lt=1)
    overlap: float = Field(0.6, gt=0, le=1, description="a patch more covered by earlier ones than this is dropped")
    background: int | None = Field(0, description="class id of the background; null: the data set has none")


class Triplet(Training):
    takes: ClassVar[tuple[str, ...]] = ("images", "patches", "weights")
    makes: ClassVar[Kind] = "weights"
    stage: ClassVar[str] = "triplet"
    method: Literal["triplet"] = "triplet"
    epochs: float = Field(10, gt=0, description="passes over the images of the patch bank")
    batch: int = Field(16, ge=2, description="images per batch; each brings one draw of patches")
    margin: float = Field(2.1, gt=0)
    stride: Literal[8, 16, 32] = 32
    pool: int = Field(4, ge=1, description="side of the feature map that is flattened into the embedding")
    schedule: Literal["poly", "cosine", "step", "constant"] = "step"
    weight_decay: float = Field(5e-4, ge=0)


class Segment(CropTraining):
    takes: ClassVar[tuple[str, ...]] = ("images", "labels", "weights")
    makes: ClassVar[Kind] = "model"
    stage: ClassVar[str] = "segment"
    method: Literal["segment"] = "segment"
    head: Literal["deeplabv3+", "largefov"] = "deeplabv3+"
    stride: Literal[8, 16, 32] = 16
    width: int = Field(256, ge=8, description="channels of the head")
    epochs: float = Field(20, gt=0)


AnyStep = Annotated[
    Imagenet | Random | Proxy | Saliency | Classify | Cam | Erase | Crf | Masks | Relabel | Patches | Triplet | Segment,
    Field(discriminator="method"),
]
METHODS: dict[str, type[Step]] = {cls.model_fields["method"].default: cls for cls in get_args(get_args(AnyStep)[0])}


class Evaluate(Settings):
    scales: Scales = Field((1.0,), description="of the final network")
    flip: bool = False
    crf: bool = Field(False, description="dense CRF on the final network's predictions; recorded in the report")
    thresholds: int = Field(19, ge=1, description="seeds are scored at this many thresholds between 0 and 1")


class Report(Settings):
    images: int = Field(8, ge=1, description="pictures shown at every stage")


class Compute(Settings):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: cuda if there is one")
    precision: Literal["auto", "bf16", "f32"] = Field(
        "auto", description="auto: bf16 where the hardware computes it, else f32"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 suits few cores")


class Config(Settings):
    """The whole of config.yaml."""

    results: Path = Field(Path("results"), description="where every artifact goes")
    data: Data = Data()
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="each recipe is run once per seed")
    run: list[str] = Field(description="recipes that `snakemake` makes")
    steps: dict[str, AnyStep] = Field(default_factory=dict)
    recipes: dict[str, list[str]]
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _names(self) -> Config:
        for name in self.steps:
            if not name.replace("_", "").replace("-", "").isalnum() or name.startswith("seed"):
                raise ValueError(f"steps.{name}: a step's name uses letters, digits, - and _, and not 'seed…'")
        for name in self.run:
            if name not in self.recipes:
                raise ValueError(f"run: no recipe is called '{name}'. Recipes: {', '.join(sorted(self.recipes))}")
        return self

    def step(self, name: str) -> Step:
        """The settings of a step. A method's own name is a step with its defaults."""
        if name in self.steps:
            return self.steps[name]
        if name in METHODS:
            return METHODS[name]()  # type: ignore[call-arg]
        known = sorted({*self.steps, *METHODS})
        raise ConfigError(f"no step is called '{name}'. Steps: {', '.join(known)}. Add it under `steps:`.")


def parse(raw: dict[str, Any]) -> Config:
    """config.yaml as read → Config. A step without `method` takes the method of its own name."""
    raw = dict(raw)
    steps = {}
    for name, block in (raw.get("steps") or {}).items():
        block = dict(block or {})
        if "method" not in block and name in METHODS:
            block["method"] = name
        steps[name] = block
    raw["steps"] = steps
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, "config.yaml")) from None


def parse_step(text: str) -> Step:
    """One step's settings from the JSON a rule passes."""
    try:
        return TypeAdapter(AnyStep).validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain(error, "--settings")) from None


def explain(error: ValidationError, where: str) -> str:
    """Pydantic's findings, one line each: key, what is wrong, what was found."""
    lines = [f"{where}: {error.error_count()} setting(s) cannot be used"]
    for item in error.errors():
        parts = [str(part) for part in item["loc"]]
        tag = 2 if parts[:1] == ["steps"] else 0  # the method, which pydantic adds to a step's key
        if parts[tag : tag + 1] and parts[tag] in METHODS:
            del parts[tag]
        key = ".".join(parts)
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        elif item["type"] == "union_tag_not_found":
            message = f"`method` is missing; methods: {', '.join(METHODS)}"
        found = "" if isinstance(item["input"], dict | Config) else f" (found: {item['input']!r})"
        lines.append(f"  {key}: {message}{found}")
    return "\n".join(lines)
