"""PDQ: a 256-bit perceptual hash (Facebook 2019, ThreatExchange).

Two pictures match at a Hamming distance of 31 or less. Hashes of featureless pictures are noise:
their quality (0 to 100) is below 50, and they are left out of joins.
"""

from collections.abc import Sequence

import numpy as np
import pdqhash
from PIL import Image

from pipeline.encoders.base import Encoded, Metric

BITS = 256


class Pdq:
    """Packed bits (n, 32) uint8, with the quality of each."""

    metric: Metric = "hamming"
    fingerprint = "pdq:256"

    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        codes = np.zeros((len(pictures), BITS // 8), np.uint8)
        quality = np.zeros(len(pictures), np.float32)
        for row, picture in enumerate(pictures):
            bits, quality[row] = pdqhash.compute(np.asarray(picture))
            codes[row] = np.packbits(np.asarray(bits, np.uint8))
        return Encoded(codes, quality)
