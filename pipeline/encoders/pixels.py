"""The picture itself, small: Euclidean distance between vectors is the l2 of Carlini et al. 2023.

A picture is squeezed to size x size by box averaging and scaled so that

    |u - v| = sqrt(mean((a - b)^2))    for a, b in [0, 1]^(size x size x 3)
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.encoders.base import Encoded, Metric
from pipeline.encoders.transforms import MARGIN
from pipeline.io.images import to_square


class Pixels:
    """Vectors (n, 3 size^2) whose Euclidean distance is the root mean square difference."""

    metric: Metric = "l2"

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self.least_side = MARGIN * size
        self.fingerprint = f"pixels:{size}"

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        squares = np.stack([to_square(picture, self._size) for picture in pictures])
        flat = squares.reshape(len(pictures), -1).astype(np.float32)
        return Encoded(flat / np.float32(255 * np.sqrt(flat.shape[1])))
