"""open_clip image towers of any architecture, from a pretrained tag or a local file."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image

from pipeline.encoders.base import Encoded, Metric, load_weights, unit_rows
from pipeline.errors import MissingInput, ModelError
from pipeline.generation.loading import require_finite
from pipeline.io.digest import sha256_file


class OpenClip:
    """Unit image vectors of an open_clip model, with the model's own preprocessing."""

    metric: Metric = "cosine"

    def __init__(
        self,
        model: str,
        *,
        pretrained: str | None = None,
        weights: Path | None = None,
        sha256: str | None = None,
        device: str = "cpu",
    ) -> None:
        self._device = device
        if model not in open_clip.list_models():
            raise ModelError(f"open_clip has no model {model!r}; see open_clip.list_models()")
        if pretrained is None and weights is None:
            raise ModelError(f"open_clip {model}: give a pretrained tag or a weights file")
        try:
            tag = pretrained if weights is None else None
            self._model, _, self._transform = open_clip.create_model_and_transforms(
                model, pretrained=tag
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise MissingInput(f"open_clip {model} {pretrained}: {reason}") from error
        if weights is not None:
            _load(self._model, load_weights(weights, sha256), weights)
        self._model.eval().to(device)
        source = sha256_file(weights) if weights else f"{pretrained}@{open_clip.__version__}"
        self.fingerprint = f"open_clip:{model}:{source}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        batch = torch.stack([self._transform(picture) for picture in pictures])
        return Encoded(unit_rows(self._model.encode_image(batch.to(self._device))))


def _load(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        model.load_state_dict(bare)
    except RuntimeError as error:
        raise ModelError(f"{path}: not weights of this architecture") from error
    require_finite(model, str(path))
