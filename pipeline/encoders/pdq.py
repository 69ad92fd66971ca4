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

Beside the standard hash two others tell a picture that was changed in ways which the hash does not
survive. Mirrored, the coefficients of odd horizontal frequencies change their sign; as the median
of all is near zero, the hash changes in about these bits, which `MIRROR` flips (on 5,000
photographs and edits 7 bits are then wrong in the mean, 22 in one of a hundred). And where there is
a border, bars above and below or on one side, the hash of what it encloses is computed, too.
"""

from collections.abc import Collection, Sequence
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
MIRROR = np.packbits(np.tile(np.arange(16) % 2 == 0, (16, 1))[::-1, ::-1])
"""(32,) uint8: a hash xor this is nearly that of the mirrored picture."""

_Hash = tuple[npt.NDArray[np.uint8], int]

_UNIFORM = 16  # grey levels, from the darkest to the lightest, of a line that begins a border
_STRAY = 32  # from it, of the lines that continue it: compression rings beside an edge
_LEAST_LEFT = 4  # a quarter of each side


def mirror_of(variants: Collection[str]) -> npt.NDArray[np.uint8] | None:
    """The mask of the mirrored hash, if `variants` (pairs.pdq_variants) name it."""
    return MIRROR if "mirrored" in variants else None


class Pdq:
    """Packed bits (n, 32) uint8, with the quality of each; and those inside borders."""

    metric: Metric = "hamming"
    fingerprint = "pdq:256:3"
    least_side = 1024
    """Sixteen pixels a sample. On 293 photographs and mosaics a decode reduced to this changed at
    most 8 bits; one reduced to 512 changed up to 16, and implementations must agree within 10."""

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        hashes = [_hashes(np.asarray(_luma(picture))) for picture in pictures]
        whole, inside = ([both[i] for both in hashes] for i in (0, 1))
        return Encoded(*_stacked(whole), Encoded(*_stacked(inside)))


def inside_border(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What a uniform border of `luma` (h, w) encloses; `luma` itself where there is none.

    A border may be on any of the four sides. Of a picture that is left with less than a quarter of
    its height or width the whole is meant.
    """
    inside = _between_bars(_between_bars(luma).T).T
    if any(_LEAST_LEFT * some < side for some, side in zip(inside.shape, luma.shape, strict=True)):
        return luma
    return luma if inside.shape == luma.shape else np.ascontiguousarray(inside)


def _between_bars(lines: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The rows of (h, w) between a bar at the top and one at the bottom; all if nothing is."""
    first, last = _bar(lines), len(lines) - _bar(lines[::-1])
    return lines[first:last] if first < last else lines


def _bar(lines: npt.NDArray[np.uint8]) -> int:
    """How many rows of (h, w) are of the grey of the first one, itself uniform."""
    darkest, lightest = int(lines[0].min()), int(lines[0].max())
    if lightest - darkest > _UNIFORM:
        return 0
    grey = (darkest + lightest) / 2
    like = (lines.min(axis=1) >= grey - _STRAY) & (lines.max(axis=1) <= grey + _STRAY)
    return len(like) if like.all() else int(like.argmin())


def _hashes(luma: npt.NDArray[np.uint8]) -> tuple[_Hash, _Hash]:
    """Of the whole picture, and of what its border encloses."""
    whole, inside = _hash(luma), inside_border(luma)
    return whole, whole if inside is luma else _hash(inside)


def _hash(luma: npt.NDArray[np.uint8]) -> _Hash:
    """Code and quality."""
    small = _sample(luma)
    frequencies = _DCT @ small @ _DCT.T
    median = np.partition(frequencies, BITS // 2 - 1, axis=None)[BITS // 2 - 1]
    return np.packbits(frequencies[::-1, ::-1] > median), _quality(small)  # the last one first


def _stacked(
    hashes: Sequence[_Hash],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    codes = np.array([code for code, _ in hashes], np.uint8).reshape(-1, BITS // 8)
    return codes, np.array([quality for _, quality in hashes], np.float32)


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


@lru_cache(maxsize=1024)
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
