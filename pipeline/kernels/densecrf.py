"""Dense CRF (Krähenbühl & Koltun 2011) through pydensecrf.

pydensecrf holds the interpreter lock, so images are spread over processes (core/processes.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

USUAL_SIDE = 500  # pixels: the longer side of the photographs for which published kernels were chosen


class Kernels(Protocol):
    """Kernel settings; `config.Crf` has them."""

    @property
    def iterations(self) -> int: ...
    @property
    def sxy(self) -> float: ...
    @property
    def compat(self) -> float: ...
    @property
    def bilateral_sxy(self) -> float: ...
    @property
    def bilateral_srgb(self) -> float: ...
    @property
    def bilateral_compat(self) -> float: ...


@dataclass(frozen=True)
class DeepLabKernels:
    """The CRF of DeepLab-v2, for refining a network's softmax (Chen et al. 2017)."""

    iterations: int = 10
    sxy: float = 1.0
    compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0


def dense_crf(rgb: np.ndarray, probabilities: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Mean-field posterior, float32 [C,h,w].

    rgb: uint8 [h,w,3], the raw photograph (kernel widths are in its grey levels). probabilities: [C,h,w], summing to 1;
    pass only the classes that are possible in the image: it is faster, and gives the same labels.
    `bilateral_sxy` is meant for photographs of USUAL_SIDE, VOC's, and used in proportion to this one's longer side.
    Raises ValueError for any other photograph, or one of another size than the probabilities.
    """
    import pydensecrf.densecrf

    classes, height, width = probabilities.shape
    if rgb.dtype != np.uint8 or rgb.shape != (height, width, 3):
        # A photograph in 0..1 would be cast to zeros, and the CRF would see no edge at all.
        raise ValueError(
            f"dense CRF: a photograph {rgb.dtype} {list(rgb.shape)} found for probabilities "
            f"{list(probabilities.shape)}; uint8 {[height, width, 3]} expected, grey levels from 0 to 255"
        )
    if classes == 1:
        return np.ones_like(probabilities, np.float32)
    model = pydensecrf.densecrf.DenseCRF2D(width, height, classes)
    unary = -np.log(np.clip(probabilities, 1e-6, 1.0))
    model.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1), np.float32))
    model.addPairwiseGaussian(sxy=kernels.sxy, compat=kernels.compat)
    model.addPairwiseBilateral(
        sxy=kernels.bilateral_sxy * max(height, width) / USUAL_SIDE,
        srgb=kernels.bilateral_srgb,
        rgbim=np.array(rgb, np.uint8, order="C"),  # a copy: it refuses read-only arrays
        compat=kernels.bilateral_compat,
    )
    return np.array(model.inference(kernels.iterations), np.float32).reshape(classes, height, width)
