"""Classification network on image tags: the source of class activation maps.

Zhou et al. 2016 (CAM, section 2) in the fully convolutional form of Ahn & Kwak 2018: backbone, 1x1 convolution, global
average pooling; multi-label soft margin loss.

Reads: images, weights. Makes: classifier (parameters, curve). Cost: epochs x images forward and backward passes.
"""

from __future__ import annotations

from pipeline.core import cli, localize, store
from pipeline.core.config import Classify


def run(job: cli.Job) -> None:
    model, curves, meta = localize.fit_classifier(job)
    arrays, meta = localize.packed(model, curves, meta)
    store.write_table(job.out, job.header, arrays, meta)


if __name__ == "__main__":
    cli.main(run, Classify)
