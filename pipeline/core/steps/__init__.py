"""Every method's settings, one class each, checked by pydantic; the class also says what the method is to the workflow.

The classes stand beside what they make: weights, seeds, labels, models; what all have in common is in base.py. Adding a
method means adding one class here and one stage file. Must not import torch: a dry run has to answer in about a second.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from pipeline.core.steps.base import Step
from pipeline.core.steps.labels import LabelsStep
from pipeline.core.steps.models import ModelsStep
from pipeline.core.steps.seeds import SeedsStep
from pipeline.core.steps.weights import WeightsStep

AnyStep = Annotated[WeightsStep | SeedsStep | LabelsStep | ModelsStep, Field(discriminator="method")]
METHODS: dict[str, type[Step]] = {cls.model_fields["method"].default: cls for cls in get_args(get_args(AnyStep)[0])}
