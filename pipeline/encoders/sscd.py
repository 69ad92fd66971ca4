"""SSCD copy-detection descriptors (Pizzi et al. 2022) from Meta's TorchScript files.

TorchScript runs code of the file's, so the user states its SHA-256. Pictures are skewed to 320 x
320 with ImageNet's mean and standard deviation, as the authors recommend for batches; cosine 0.75
is 90 % precision on DISC. Descriptors of other crops and normalisations are not comparable.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from pipeline.encoders.base import Encoded, Metric, require_sha256, unit_rows
from pipeline.encoders.transforms import IMAGENET_MEAN, IMAGENET_STD, Preparation
from pipeline.errors import ModelError
from pipeline.weights import require_finite


class Sscd:
    """Unit vectors of an SSCD network."""

    metric: Metric = "cosine"

    def __init__(self, weights: Path, *, sha256: str, size: int = 320, device: str = "cpu") -> None:
        require_sha256(weights, sha256)
        try:
            self._network = torch.jit.load(str(weights), map_location=device).eval()
        except RuntimeError as error:
            raise ModelError(f"{weights}: not a TorchScript file") from error
        require_finite(self._network, str(weights))
        self._device = device
        self._prepare = Preparation(size, IMAGENET_MEAN, IMAGENET_STD, skew=True)
        self.least_side = self._prepare.least_side
        self.fingerprint = f"sscd:{size}:{sha256}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        return Encoded(unit_rows(self._network(self._prepare(pictures).to(self._device))))
