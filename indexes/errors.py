"""What can be wrong with vectors and with the indexes built from them.

VectorError
├── NonFiniteVectors    NaN or infinity in vectors that were added or asked for
├── DimensionMismatch   vectors of another width or type than the index holds
└── IndexCorrupt        a stored index that is damaged, or is not the one that was asked for
"""


class VectorError(ValueError):
    """Vectors, codes, ids or edges that cannot be used as they are."""


class NonFiniteVectors(VectorError):
    """NaN or infinity: one such row is returned for, or hides, every other row without a word."""


class DimensionMismatch(VectorError):
    """Vectors of another width or type than the index holds."""


class IndexCorrupt(VectorError):
    """A stored index that is damaged, or is not the one that was asked for."""
