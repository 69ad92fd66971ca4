"""Numbers of copies in bins that double: 1, 2, 3-4, 5-8, ..., 33-64, 65+."""

from collections.abc import Collection
from itertools import pairwise

_LAST = 64
_UPPER = (0, 1, 2, 4, 8, 16, 32, _LAST)
_LABELS = ("0", "1", "2", *(f"{low + 1}-{high}" for low, high in pairwise(_UPPER[2:])))
BEYOND = f"{_LAST + 1}+"


def bin_label(copies: int) -> str:
    """The bin of a number of copies; 0 is a caption of the user's that no training image has."""
    found = (label for label, high in zip(_LABELS, _UPPER, strict=True) if copies <= high)
    return next(found, BEYOND)


def bin_labels(present: Collection[str]) -> list[str]:
    """The bins that are present, in order."""
    return [label for label in (*_LABELS, BEYOND) if label in present]
