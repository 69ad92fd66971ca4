"""What vectors and ids must be before an index may hold them.

A NaN or infinity, a zero vector under cosine, or an id given twice does not raise in FAISS: it
returns wrong neighbours. So each is refused here, when vectors are added and when they are asked.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.errors import DimensionMismatch, NonFiniteVectors, VectorError
from indexes.metrics import NORM_TOLERANCE, AnyVectors, Codes, Ids, Metric, Rows, Vectors

CODE_BYTES = 32
"""Bytes of a binary code: PDQ's 256 bits."""

LARGEST_NORM = 1e18
"""Beyond it a squared distance overflows float32."""

_ROWS_AT_ONCE = 1 << 14


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scale each row of (n, d) to norm 1 (in float64, given back in float32).

    Raises NonFiniteVectors for NaN or infinity, VectorError for a zero row, which has no direction.
    """
    scaled = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = vectors[start : start + _ROWS_AT_ONCE]
        _refuse_strange(block, start)
        norms = _norms(block)
        _refuse(norms == 0, start, VectorError, "is zero and has no direction; leave it out")
        scaled[start : start + len(block)] = block / norms[:, None]
    return scaled


def checked(vectors: AnyVectors, metric: Metric, d: int | None = None) -> AnyVectors:
    """Give back `vectors` as C-ordered float32 (n, d), or uint8 (n, 32) for "hamming".

    `d` is the width (bytes for codes) that they must have. Raises DimensionMismatch for shape or
    type, NonFiniteVectors, and under "cosine" VectorError for a norm that is not 1.
    """
    if metric == "hamming":
        return _codes(vectors)
    if metric not in ("cosine", "l2"):
        raise VectorError(f'metric is {metric!r}, expected "cosine", "l2" or "hamming"')
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise DimensionMismatch(_found("float32 (n, d)", vectors))
    if d is not None and vectors.shape[1] != d:
        raise DimensionMismatch(_found(f"float32 (n, {d})", vectors))
    vectors = np.ascontiguousarray(vectors)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        _check_block(vectors[start : start + _ROWS_AT_ONCE], start, metric)
    return vectors


def checked_ids(ids: Ids, n: int, *, repeats: bool = False) -> Ids:
    """Give back `ids` as C-ordered int64 (n,): none negative (-1 is "no neighbour"), each once
    unless `repeats`.
    """
    ids = np.asarray(ids)
    if ids.shape != (n,) or not np.issubdtype(ids.dtype, np.integer):
        raise DimensionMismatch(f"{_found(f'int64 ({n},)', ids)}; give one id a vector")
    ids = np.ascontiguousarray(ids, np.int64)
    if n and ids.min() < 0:
        raise VectorError(f"id {ids.min()} is negative, expected 63-bit ids from 0 on")
    if repeats:
        return ids
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise VectorError(f"id {twice[0]} is given twice, expected each once; drop the repeat")
    return ids


def rows_of(wanted: Ids, ids: Ids) -> Rows:
    """Where each of `wanted` stands in `ids`, in any order; VectorError for an unknown id."""
    order = np.argsort(ids)
    return order[places_of(wanted, ids[order])]


def places_of(wanted: Ids, ascending: Ids) -> Rows:
    """`rows_of` for ids that ascend."""
    places = np.searchsorted(ascending, wanted)
    known = np.zeros(len(wanted), bool)
    inside = places < len(ascending)
    known[inside] = ascending[places[inside]] == wanted[inside]
    if not known.all():
        first = wanted[~known][0]
        raise VectorError(f"id {first} is unknown, expected one of the {len(ascending)} ids given")
    return places


def _codes(codes: Any) -> Codes:
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] != CODE_BYTES:
        raise DimensionMismatch(_found(f"uint8 (n, {CODE_BYTES})", codes))
    return np.ascontiguousarray(codes)


def _check_block(block: Vectors, start: int, metric: Metric) -> None:
    _refuse_strange(block, start)
    norms = _norms(block)
    bad = np.abs(norms - 1) > NORM_TOLERANCE if metric == "cosine" else norms > LARGEST_NORM
    norm = f"has norm {norms[bad.argmax()]:.6g}" if len(norms) else ""
    if metric == "cosine":
        _refuse(bad, start, VectorError, f"{norm}, expected 1; call indexes.unit")
    else:
        _refuse(bad, start, VectorError, f"{norm}, expected at most {LARGEST_NORM:g}; scale down")


def _norms(block: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(block, dtype=np.float64).sum(axis=1)))


def _refuse_strange(block: npt.NDArray[np.floating], start: int) -> None:
    finite = np.all(np.isfinite(block), axis=1)
    _refuse(np.logical_not(finite), start, NonFiniteVectors, "holds NaN or infinity; leave it out")


def _refuse(bad: npt.NDArray[np.bool_], start: int, error: type[VectorError], what: str) -> None:
    if bad.any():
        row = start + int(bad.argmax())
        raise error(f"vector in row {row} {what} ({bad.sum()} of {len(bad)} rows looked at)")


def _found(expected: str, array: npt.NDArray[Any]) -> str:
    return f"expected {expected}, got {array.dtype} {array.shape}"
