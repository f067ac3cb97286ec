"""Settings of the methods that make seeds: tag classifiers, and where they look; and of what seeds are made from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.core.steps.base import Claims, CropTraining, Kind, Scales, Step, Stride, views


class Classify(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "weights": "weights"}
    makes: ClassVar[Kind] = "classifier"
    stage: ClassVar[str] = "classify"
    method: Literal["classify"] = "classify"
    stride: Stride = Field(16, description="output stride of the network")


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
        return views(self.scales, self.flip)


class Excitation(Claims):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "tags": "tags", "classifier": "classifier"}
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "excitation"
    seeded: ClassVar[bool] = False  # follows its classifier's seed
    infers: ClassVar[bool] = True
    method: Literal["excitation"] = "excitation"
    at: int = Field(4, ge=1, le=5, description="feature level that the maps are read at; 1: finest, 5: the last, CAM's")
    threshold: float = Field(
        0.2, gt=0, lt=1, description="t of the reading: what is claimed for a class; these maps are sparser than CAM's"
    )
    contrast: bool = Field(True, description="minus the map of all that speaks against the class; false: plain EB")
    scales: Scales = Field((1.0, 0.5, 1.5, 2.0), description="sizes whose maps are added")
    flip: bool = Field(True, description="mirror images too")
    grid: int = Field(4, ge=1, description="the stored maps have one cell per grid x grid pixels")

    def passes(self, side: int) -> float:
        return 4 * views(self.scales, self.flip)


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
        return views(self.scales, self.flip) + 1


class Hypotheses(Step):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs"}
    makes: ClassVar[Kind] = "hypotheses"
    stage: ClassVar[str] = "hypotheses"
    seeded: ClassVar[bool] = False
    method: Literal["hypotheses"] = "hypotheses"
    regions: Scales = Field(
        (50.0, 150.0, 300.0), description="k of Felzenszwalb's first regions: the larger, the fewer"
    )
    smallest: float = Field(0.005, ge=0, lt=1, description="share of the photograph that a box covers at least")
    slimmest: float = Field(
        4.0, ge=1, description="a box is at most this many times as long as wide, or as wide as long"
    )
    overlap: float = Field(0.9, gt=0, le=1, description="a box of more IoU with a better one is left out")
    most: int = Field(200, ge=1, description="hypotheses of a photograph")
    clusters: int = Field(10, ge=1, le=256, description="clusters of similar boxes in a photograph")

    def seconds(self, side: int) -> float:
        return 4.0 * len(self.regions)


class Hcp(Classify):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "tags": "tags",
        "hypotheses": "hypotheses",
        "weights": "weights",
    }
    stage: ClassVar[str] = "hcp"
    whole: ClassVar[bool] = True
    method: Literal["hcp"] = "hcp"  # type: ignore[assignment]
    epochs: float = Field(10, gt=0, description="of the first phase, on crops of the whole image")
    hypothesis_epochs: float = Field(5, gt=0, description="of the second phase, on each photograph's hypotheses")
    per_image: int = Field(10, ge=1, description="hypotheses of a photograph in training, beside the whole image")
    loss: Literal["squared", "soft_margin"] = Field(
        "squared", description="softmax against tags that share 1 (the paper's), or each class alone as `classify`"
    )

    def passes(self, side: int) -> float:
        return super().passes(side) + 3 * self.hypothesis_epochs


class Vote(Claims):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "tags": "tags",
        "hypotheses": "hypotheses",
        "classifier": "classifier@hcp",
    }
    makes: ClassVar[Kind] = "seeds"
    stage: ClassVar[str] = "vote"
    seeded: ClassVar[bool] = False  # follows its classifier's seed
    infers: ClassVar[bool] = True
    method: Literal["vote"] = "vote"
    look: Literal["pooled", "cut"] = Field(
        "pooled",
        description="a hypothesis is the mean of the photograph's feature map in its box, or is cut out and seen",
    )
    most: int = Field(50, ge=1, description="hypotheses of a photograph that are looked at, the best as objects")
    confident: float = Field(0.5, ge=0, le=1, description="of these, those with this share of a tag's best score")
    partners: int = Field(200, ge=0, description="images of a class that an image is compared with; 0: no re-ranking")
    keep: int = Field(20, ge=1, description="hypotheses of a tag that vote: those with the nearest likes elsewhere")
    sigma: float = Field(0.1, gt=0, description="of exp(-distance / sigma), which weighs a vote beside its score")
    by: Literal["segments", "boxes"] = Field("segments", description="what a hypothesis votes for")
    grid: int = Field(4, ge=1, description="the stored maps have one cell per grid x grid pixels")

    def passes(self, side: int) -> float:
        once = 1.0 if self.look == "pooled" else self.most / 2  # of cut-outs: a crop is half a photograph
        return 2 * once  # images that others are compared with are looked at twice at worst

    def seconds(self, side: int) -> float:
        return 0.5 + 0.2e6 / (side * side)  # the comparison costs a photograph as much, however large it is


SeedsStep = Classify | Cam | Excitation | Erase | Mine | Hypotheses | Hcp | Vote
