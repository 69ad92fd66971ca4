"""What can be wrong with vectors and with the indexes built from them.

VectorError
├── NonFiniteVectors    NaN or infinity in vectors that were added or asked for
├── DimensionMismatch   vectors of another width or type than the index holds
├── TooManyPairs        more near-duplicates than may be listed: a hub, or too low a threshold
└── IndexCorrupt        a stored index that is damaged, or is not the one that was asked for
"""


class VectorError(ValueError):
    """Vectors, codes, ids or edges that cannot be used as they are."""


class NonFiniteVectors(VectorError):
    """NaN or infinity: one such row is returned for, or hides, every other row without a word."""


class DimensionMismatch(VectorError):
    """Vectors of another width or type than the index holds."""


class TooManyPairs(VectorError):
    """More pairs than were allowed; `centre` is the id, or the row, that is in most of them."""

    def __init__(self, allowed: int, centre: int) -> None:
        super().__init__(
            f"more than {allowed:,} near-duplicate pairs in one part, most of them around id "
            f"{centre}; raise the threshold, lower pairs.hub_size or pairs.rows_per_part"
        )
        self.allowed, self.centre = allowed, centre


class IndexCorrupt(VectorError):
    """A stored index that is damaged, or is not the one that was asked for."""
