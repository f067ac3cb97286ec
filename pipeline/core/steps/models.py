"""Settings of the methods that make the segmentation network."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.core.steps.base import CropTraining, HeadName, Kind, Stride


class Segment(CropTraining):
    takes: ClassVar[dict[str, str]] = {"photographs": "photographs", "labels": "labels|soft", "weights": "weights"}
    makes: ClassVar[Kind] = "model"
    stage: ClassVar[str] = "segment"
    method: Literal["segment"] = "segment"
    head: HeadName = Field("deeplabv3+", description="what turns features into classes")
    stride: Stride = Field(16, description="output stride of the network")
    width: int = Field(256, ge=8, description="channels of the head")
    epochs: float = Field(20, gt=0, description="passes over the images that the labels cover")


class Psl(Segment):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "tags": "tags",
        "labels": "labels",
        "weights": "weights",
    }
    stage: ClassVar[str] = "psl"
    method: Literal["psl"] = "psl"  # type: ignore[assignment]
    gate: float = Field(
        0.1, ge=0, lt=1, description="at test time a class less probable in the image than this is impossible; 0: none"
    )
    prohibit_after: float = Field(
        1.0, ge=0, description="ours: epochs before the network learns from its own masks as well"
    )


class Dis(CropTraining):
    takes: ClassVar[dict[str, str]] = {
        "photographs": "photographs",
        "tags": "tags",
        "labels": "labels",
        "true": "labels@masks?",
        "weights": "weights",
        "model": "model@dis?",
    }
    makes: ClassVar[Kind] = "model"
    stage: ClassVar[str] = "dis"
    method: Literal["dis"] = "dis"
    stride: Stride = Field(16, description="output stride of the network")
    epochs: float = Field(20, gt=0, description="passes over the images that the labels cover")
    steps: int = Field(10, ge=0, description="of the descent on an image's latents at test time; 0: none")

    def passes(self, side: int) -> float:
        return 2 * super().passes(side)  # where some labels are true and others inferred, the fewer are repeated


ModelsStep = Segment | Psl | Dis
