"""Classification network on image tags: the source of class activation maps.

Zhou et al. 2016 (CAM, section 2) in the fully convolutional form of Ahn & Kwak 2018: backbone, 1x1 convolution, global
average pooling; multi-label soft margin loss. Network, loss and maps are in networks/classifier.py.

Reads: photographs, tags, weights. Makes: classifier (parameters, curve). Cost: epochs x images forward and backward
passes.
"""

from __future__ import annotations

import torch

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.steps.seeds import Classify
from pipeline.kinds import classes, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.crops import Crops
from pipeline.networks.classifier import classifier_meta, classifier_step, new_classifier
from pipeline.networks.states import packed


def run(job: Job) -> None:
    settings: Classify = job.settings
    pictures, tags, weights = job.photographs, job.inputs["tags"], job.inputs["weights"]
    rows = photographs.split(pictures, "train")
    if not len(rows):
        raise InputError(f"{pictures.path}: split train is empty")
    torch.manual_seed(job.seed)
    model = new_classifier(weights, tags, settings.stride)
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=photographs.mean_colour(pictures, rows),
        tags=said.tags(tags),
    )
    step = classifier_step(classes.foreground(tags))
    curves = train.fit(model, rows, cut, step, job, heads=lambda net: list(net.score.parameters()))  # type: ignore[union-attr,arg-type]
    arrays, index = packed(model.state_dict())
    meta = {**classifier_meta(model, tags, settings.stride), "index": index}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Classify)
