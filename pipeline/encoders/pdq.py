"""PDQ: a 256-bit perceptual hash (Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ
Image-Hashing Algorithm", section on PDQ).

With Y the luma, averaged twice along each axis by boxes of ceil(n / 128) pixels and sampled at
64 x 64 places (Jarosz's approximation of a tent),

    F = D Y Dᵀ,    D[k, i] = sqrt(2 / 64) cos(π (k + 1) (2 i + 1) / 128),    k = 0 ... 15

and a bit says whether its coefficient is above the median of all 256. Averaging and sampling are
linear along each axis, so they are one sparse matrix an axis: the bits are those of the reference
implementation (which filters every pixel), in a tenth of its time.

Two pictures match at a Hamming distance of 31 or less. Hashes of featureless pictures are noise:
their quality (0 to 100, the sum of the differences between neighbours) is below 50, and they are
left out of joins.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse

from pipeline.encoders.base import Encoded, Metric

BITS = 256
_SIDE = 64
_WINDOWS = 2 * _SIDE
_MOST = 1024  # sixteen pixels a sample; the matrix for a side of millions would fill the memory
_DCT = np.sqrt(2 / _SIDE) * np.cos(
    np.pi / (2 * _SIDE) * np.outer(np.arange(1, 17), 2 * np.arange(_SIDE) + 1)
)


class Pdq:
    """Packed bits (n, 32) uint8, with the quality of each."""

    metric: Metric = "hamming"
    fingerprint = "pdq:256:2"
    least_side = 1024
    """Sixteen pixels a sample. On 293 photographs and mosaics a decode reduced to this changed at
    most 8 bits; one reduced to 512 changed up to 16, and implementations must agree within 10."""

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        codes = np.zeros((len(pictures), BITS // 8), np.uint8)
        quality = np.zeros(len(pictures), np.float32)
        for row, picture in enumerate(pictures):
            small = _sample(np.asarray(_luma(picture)))
            frequencies = _DCT @ small @ _DCT.T
            median = np.partition(frequencies, BITS // 2 - 1, axis=None)[BITS // 2 - 1]
            codes[row] = np.packbits(frequencies[::-1, ::-1] > median)  # the last one comes first
            quality[row] = _quality(small)
        return Encoded(codes, quality)


def _luma(picture: Image.Image) -> Image.Image:
    """Grey, with block averages of it where a side has 2048 pixels or more."""
    grey = picture.convert("L")
    factors = max(1, grey.width // _MOST), max(1, grey.height // _MOST)
    return grey if factors == (1, 1) else grey.reduce(factors)


def _sample(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The filtered luma (h, w) at 64 x 64 places."""
    rows, columns = (_smoothing(length) for length in luma.shape)
    narrow = rows @ luma.astype(np.float32)
    return (columns @ np.ascontiguousarray(narrow.T)).T.astype(np.float64)


@lru_cache(maxsize=256)
def _smoothing(length: int) -> sparse.csr_array:
    """Two box averages along `length` pixels, at 64 places: (64, length) float32."""
    width = -(-length // _WINDOWS)
    ahead = (width + 2) // 2
    at = np.arange(length)
    first = np.maximum(at - (width - ahead), 0)
    last = np.minimum(at + ahead, length)  # one past the end
    counts = last - first
    ends = np.cumsum(counts)
    columns = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(first, counts)
    weights = np.repeat(1 / counts, counts)
    box = sparse.csr_array((weights, columns, np.r_[0, ends]), shape=(length, length))
    places = ((np.arange(_SIDE) + 0.5) * length / _SIDE).astype(np.int64)
    return (box[places] @ box).astype(np.float32).tocsr()


def _quality(small: npt.NDArray[np.float64]) -> int:
    """Sum of the differences between neighbours in whole percent of white, over 90, at most 100."""
    total = sum(
        int(np.abs(np.trunc(np.diff(small, axis=axis) * 100 / 255)).sum()) for axis in (0, 1)
    )
    return min(100, total // 90)
