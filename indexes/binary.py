"""Index of 256-bit codes (PDQ) by Hamming distance.

A search by radius includes the radius: PDQ's customary bound of 31 differing bits means 31 and
fewer, although FAISS itself compares strictly.
"""

import faiss
import numpy as np

from indexes.checks import checked, checked_ids
from indexes.metrics import Codes, Ids
from indexes.nearest import NearestIndex

BITS = 256
FACTORY = "BFlat"
"""FAISS's name of the binary index that compares with all codes."""


def build(codes: Codes, ids: Ids, *, fingerprint: str = "") -> NearestIndex:
    """Build an index of `codes`, uint8 (n, 32), under `ids` (n,)."""
    codes = checked(codes, "hamming")
    ids = checked_ids(ids, len(codes))
    order = np.argsort(ids)
    codes, ids = codes[order], ids[order]
    index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(BITS))
    index.add_with_ids(codes, ids)
    return NearestIndex(index, ids, "hamming", FACTORY, fingerprint)
