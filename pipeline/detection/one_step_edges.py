"""Edges that one-step pictures of several seeds have in common (Webster 2023, the black-box score).

    edge at a pixel    sum over the channels of hypot(G_x, G_y) > 1.5, pictures in [0, 1],
                       at 256 x 256
    score              the share of pixels that are an edge in more than half of the pictures

A single step from pure noise gives a blur; where the model replays a training image it is sharp
already, and the same for every seed. G is Sobel's gradient, not normalized: (-1, 0, 1) along one
side, (1, 2, 1) along the other and, as his call of scipy does it and his 1.5 expects it, along the
channels too; at the ends values are repeated. Pictures smaller than 256 x 256 are not enlarged:
that would blur the edges away. So scores of different sizes are not comparable.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from pipeline.detection.pictures import Pictures, as_unit, check_pictures

SIDE = 256
MIN_GRADIENT = 1.5
MIN_SHARE = 0.5


def edge_score(pictures: Pictures) -> float:
    """The share of common edges of one caption's pictures (seeds, h, w, 3); uint8, or float32.

    float32 pictures are not resized. Raises MeasureError on what are no pictures.
    """
    check_pictures(pictures)
    if pictures.dtype == np.uint8 and max(pictures.shape[1:3]) > SIDE:
        pictures = np.stack([_resized(picture) for picture in pictures])
    edges = edge_maps(pictures)
    return float((edges.mean(axis=0) > MIN_SHARE).mean()) if len(edges) else 0.0


def edge_maps(pictures: Pictures) -> npt.NDArray[np.bool_]:
    """Which pixels (n, h, w) of pictures (n, h, w, 3) are edges."""
    unit = as_unit(pictures)
    smooth = ndimage.correlate1d(unit, [1, 2, 1], axis=3)
    down, across = (
        ndimage.correlate1d(ndimage.correlate1d(smooth, [-1, 0, 1], axis=a), [1, 2, 1], axis=b)
        for a, b in ((1, 2), (2, 1))
    )
    return np.asarray(np.hypot(down, across).sum(axis=-1) > MIN_GRADIENT)


def _resized(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
