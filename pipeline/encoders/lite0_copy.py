"""lite0 for copies: the last feature map of EfficientNet-Lite0, pooled and whitened for one set.

    g = mean(relu(f)^3)^(1/3)  over the map      GeM, p = 3 (Radenovic, Tolias and Chum 2018)
    u = P^T (g / |g| - m),   u / |u|             m (1280,), P (1280, d)

m and P are fitted on pictures of the training set and their edits (`pipeline.calibration.whitening`
says how); they come as safetensors, `mean` and `projection`. One file's thresholds mean nothing for
another, so its digest is in the fingerprint. The network is that of lite0 at 320 pixels, twice the
work of 224: what is written on a picture or put around it then weighs less, while strong blur and
compression are left to PDQ, which sees them well.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from pipeline.encoders.base import Encoded, Metric, load_weights, unit_rows
from pipeline.encoders.lite0 import HALF, network, weights_file
from pipeline.encoders.transforms import Preparation
from pipeline.errors import ModelError, NonFiniteWeights
from pipeline.io.digest import sha256_file

_POWER = 3
SIZE = 320
FEATURES = 1280


class Pooled:
    """Unit vectors (n, 1280): what the whitening is fitted on."""

    metric: Metric = "cosine"

    def __init__(self, size: int = SIZE, device: str = "cpu") -> None:
        self._device = device
        self._prepare = Preparation(size, HALF, HALF, skew=True)
        self.least_side = self._prepare.least_side
        self._network = network(device)
        self.fingerprint = f"lite0-gem:{size}:{sha256_file(weights_file())}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        return Encoded(unit_rows(self.pool(pictures)))

    def pool(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The generalised means (n, 1280), of any norm."""
        batch = self._prepare(pictures).to(self._device, memory_format=torch.channels_last)
        maps = self._network.forward_features(batch).clamp(min=0)
        return maps.pow(_POWER).mean((2, 3)).pow(1 / _POWER)


class Lite0Copy:
    """Unit vectors (n, d), whitened."""

    metric: Metric = "cosine"

    def __init__(
        self, weights: Path, *, sha256: str | None = None, size: int = SIZE, device: str = "cpu"
    ) -> None:
        if weights.suffix != ".safetensors":
            raise ModelError(f"{weights}: lite0-copy reads the .safetensors of `calibrate dedup`")
        loaded = load_weights(weights, sha256)
        _require_whitening(loaded, weights)
        self._mean = loaded["mean"].double().to(device)
        self._projection = loaded["projection"].double().to(device)
        self._pooled = Pooled(size, device)
        self.least_side = self._pooled.least_side
        self.fingerprint = f"lite0-copy:{self._pooled.fingerprint}:{sha256_file(weights)}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        pooled = torch.nn.functional.normalize(self._pooled.pool(pictures).double(), dim=-1)
        return Encoded(unit_rows((pooled - self._mean) @ self._projection))


def _require_whitening(loaded: dict[str, torch.Tensor], path: Path) -> None:
    mean, projection = loaded.get("mean"), loaded.get("projection")
    if mean is None or projection is None:
        raise ModelError(f"{path}: no tensors mean and projection; not made by `calibrate dedup`")
    fits = mean.shape == (FEATURES,) and projection.ndim == 2 and len(projection) == FEATURES
    if not fits or projection.shape[1] == 0:
        raise ModelError(
            f"{path}: mean {tuple(mean.shape)} and projection {tuple(projection.shape)}, "
            f"expected ({FEATURES},) and ({FEATURES}, d)"
        )
    if not (mean.isfinite().all() and projection.isfinite().all()):
        raise NonFiniteWeights(f"{path}: holds NaN or infinity; fit it again")
