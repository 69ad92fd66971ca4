"""Any timm model's pooled features, from its pretrained tag or a local file."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image

from pipeline.encoders.base import Encoded, Metric, load_into, load_weights, unit_rows
from pipeline.encoders.transforms import Preparation
from pipeline.errors import MissingInput, ModelError, first_line
from pipeline.io.digest import sha256_file


class Timm:
    """Unit vectors of the features before the classifier."""

    metric: Metric = "cosine"

    def __init__(
        self,
        model: str,
        *,
        weights: Path | None = None,
        sha256: str | None = None,
        size: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._device = device
        if not timm.is_model(model):  # nor an address or a folder, which timm would load
            raise ModelError(f"timm has no model {model!r}; see timm.list_models()")
        try:
            self._network = timm.create_model(model, pretrained=weights is None, num_classes=0)
        except Exception as error:
            raise MissingInput(f"timm {model}: {first_line(error)}") from error
        if weights is not None:
            state = load_weights(weights, sha256)
            load_into(self._network, state, weights, exact=False)  # the classifier is left aside
        self._network.eval().to(device)
        data = timm.data.resolve_model_data_config(self._network)
        side = size or data["input_size"][-1]
        self._prepare = Preparation(side, data["mean"], data["std"], data["crop_pct"])
        self.least_side = self._prepare.least_side
        source = sha256_file(weights) if weights else f"{model}@timm{timm.__version__}"
        self.fingerprint = f"timm:{model}:{side}:{source}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        return Encoded(unit_rows(self._network(self._prepare(pictures).to(self._device))))
