"""What a batch of pictures is, checked in one place.

`Pictures`: uint8 (n, h, w, 3) in 0..255, or float32 (n, h, w, 3) in [0, 1]; RGB.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError

Pictures: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def check_pictures(pictures: Pictures) -> None:
    """Raise MeasureError unless `pictures` is what the module says."""
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape[1:]:
        raise MeasureError(f"pictures: expected shape (n, h, w, 3), got {pictures.shape}")
    if pictures.dtype == np.uint8:
        return
    if pictures.dtype != np.float32:
        raise MeasureError(f"pictures: expected uint8 or float32, got {pictures.dtype}")
    if pictures.size and not (pictures.min() >= 0 and pictures.max() <= 1):
        raise MeasureError("pictures: float32 values must be finite and in [0, 1]; divide by 255")


def check_comparable(a: Pictures, b: Pictures) -> None:
    """Raise MeasureError unless the pictures of `a` and `b` have one size and one dtype."""
    check_pictures(a)
    check_pictures(b)
    if a.shape[1:] != b.shape[1:]:
        raise MeasureError(f"pictures: sizes differ, {a.shape[1:3]} and {b.shape[1:3]}; resize one")
    if a.dtype != b.dtype:
        raise MeasureError(f"pictures: dtypes differ, {a.dtype} and {b.dtype}; convert one")


def check_paired(a: Pictures, b: Pictures) -> None:
    """Raise MeasureError unless `a[i]` can be compared with `b[i]` for every i."""
    check_comparable(a, b)
    if len(a) != len(b):
        raise MeasureError(f"pictures: {len(a)} cannot be paired with {len(b)}")


def full_scale(pictures: Pictures) -> float:
    """The value of white: 255 for uint8, 1 for float32."""
    return 255.0 if pictures.dtype == np.uint8 else 1.0


def as_rows(pictures: Pictures) -> Pictures:
    """The same values as (n, h * w * 3)."""
    return pictures.reshape(len(pictures), math.prod(pictures.shape[1:]))


def as_unit(pictures: Pictures) -> npt.NDArray[np.float64]:
    """The same pictures as float64 in [0, 1]."""
    return pictures.astype(np.float64) / full_scale(pictures)
