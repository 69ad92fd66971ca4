"""Entropy of cross-attention over the words of a caption (Ren et al. 2024, ECCV).

With a_t (tokens,) the attention of the captioned prediction at step t, the mean over positions,
heads and layers, and h(a) = -a log a (0 log 0 = 0):

    E_t    = sum over all tokens of h(a_t)
    R_t    = sum over the end token and the padding of h(a_t)
    first  = E_0 of one layer, the fourth of the network ("mode E")
    drift  = mean of E_t over the last fifth of the steps + (mean of R_t over it - R_0) ("mode D")

A memorized caption's attention stays spread where that of others settles on a few tokens: both are
high for it. The published drift is over steps 40 to 49 of 50; the last fifth is the same share.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from pipeline.detection.errors import MeasureError

FIRST_LAYER = 3
LAST_SHARE = 0.2

Column = npt.NDArray[np.float64]


def first_entropy(layers: npt.NDArray[np.floating], *, layer: int = FIRST_LAYER) -> Column:
    """`first` (n,) of attention (layers, n, tokens) at step 0.

    A network with fewer layers is asked at its last. Raises MeasureError as `entropy_drift`.
    """
    _check(layers, "layers")
    chosen = layers[min(layer, len(layers) - 1)].astype(np.float64)
    return entr(chosen).sum(axis=-1)


def entropy_drift(attention: npt.NDArray[np.floating], lengths: npt.NDArray[np.integer]) -> Column:
    """`drift` (n,) of attention (steps, n, tokens), of captions with `lengths` (n,) tokens.

    A length counts the start and the end token, so the end is at place length - 1. Raises
    MeasureError on shapes that do not fit, a length outside, and attention not in [0, 1].
    """
    _check(attention, "steps")
    steps, n, tokens = attention.shape
    if lengths.shape != (n,) or (lengths < 1).any() or (lengths > tokens).any():
        raise MeasureError(f"lengths: expected {n} of 1 to {tokens}")
    terms = entr(attention.astype(np.float64))
    ends = np.arange(tokens) >= lengths[:, None] - 1
    rest = (terms * ends).sum(axis=-1)
    last = slice(steps - max(1, round(LAST_SHARE * steps)), steps)
    return terms.sum(axis=-1)[last].mean(axis=0) + rest[last].mean(axis=0) - rest[0]


def _check(attention: npt.NDArray[np.floating], what: str) -> None:
    if attention.ndim != 3 or 0 in (attention.shape[0], attention.shape[2]):
        raise MeasureError(f"attention: expected ({what}, n, tokens), got {attention.shape}")
    if not ((attention >= 0) & (attention <= 1 + 1e-3)).all():
        raise MeasureError("attention: expected values in [0, 1]")
