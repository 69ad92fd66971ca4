"""A linear map under which copies are near and other pictures far, learned from edits.

With x the pooled features of a picture, x' those of an edit of it, and m the mean of originals,

    C_S = E[(x' - x)(x' - x)^T]      what edits change
    C_D = E[(x - m)(x - m)^T]        what tells pictures apart
    C_D v = lambda C_S v,   v^T C_D v = 1

P holds the d generalised eigenvectors v of the largest lambda: Fisher's discriminant, with every
direction that is kept scaled to unit variance over originals. It is the learned whitening of
Mikolajczyk and Matas (2007) with the second step normalised as well. C_S is shrunk towards a
multiple of the identity, since edits are fewer than dimensions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from scipy.linalg import eigh

from pipeline.errors import UsageError
from pipeline.io.atomic import write_bytes

SHRINKAGE = 1.0
DIMENSIONS = 512
_MIN_ORIGINALS = 16


@dataclass(frozen=True)
class Whitening:
    """`mean` (D,) and `projection` (D, d), float32."""

    mean: npt.NDArray[np.float32]
    projection: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write safetensors, the same bytes for the same values."""
        tensors = {
            "mean": torch.from_numpy(self.mean),
            "projection": torch.from_numpy(np.ascontiguousarray(self.projection)),
        }
        write_bytes(path, save(tensors))


def fit_whitening(
    originals: npt.NDArray[np.floating],
    edits: npt.NDArray[np.floating],
    origin: npt.NDArray[np.integer],
    *,
    dimensions: int = DIMENSIONS,
    shrinkage: float = SHRINKAGE,
) -> Whitening:
    """Fit on originals (n, D) and edits (m, D), edit j being of originals[origin[j]].

    n originals span n - 1 directions, the last of them mostly noise: at most 4 n / 5 are kept.
    Raises UsageError for fewer than 16 originals, and where edits change nothing.
    """
    if len(originals) < _MIN_ORIGINALS or len(edits) == 0:
        raise UsageError(
            f"whitening: {len(originals)} pictures and {len(edits)} edits; "
            f"at least {_MIN_ORIGINALS} pictures are needed"
        )
    x, changed = originals.astype(np.float64), edits.astype(np.float64)
    mean = x.mean(axis=0)
    moved = changed - x[origin]
    within = moved.T @ moved / len(moved)
    level = np.trace(within) / len(within)
    if level <= 0:
        raise UsageError("whitening: no edit changed a feature")
    within += shrinkage * level * np.eye(len(within))
    between = (x - mean).T @ (x - mean) / len(x)
    width = x.shape[1]
    kept = min(dimensions, 4 * len(x) // 5, width)
    spread, vectors = eigh(between, within, subset_by_index=(width - kept, width - 1))
    vectors = vectors[:, ::-1] / np.sqrt(spread[::-1])  # eigh gives v^T C_S v = 1
    vectors *= np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)] < 0, -1, 1)
    return Whitening(mean.astype(np.float32), vectors.astype(np.float32))
