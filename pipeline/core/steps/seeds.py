"""Settings of the methods that make seeds: tag classifiers, and where they look."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.core.steps.base import Claims, CropTraining, Kind, Scales, Stride, views


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
    contrast: bool = Field(True, description="minus the map of all that speaks against the class; false: plain EB")
    scales: Scales = Field((1.0, 0.5, 1.5, 2.0), description="sizes whose maps are added")
    flip: bool = Field(True, description="mirror images too")
    grid: int = Field(4, ge=1, description="the stored maps have one cell per grid x grid pixels")

    def passes(self, side: int) -> float:
        return 3 * views(self.scales, self.flip)


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


SeedsStep = Classify | Cam | Excitation | Erase | Mine
