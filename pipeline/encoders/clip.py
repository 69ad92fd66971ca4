"""open_clip models of any architecture, from a pretrained tag or a local file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from pipeline.encoders.base import Encoded, Metric, load_into, load_weights, unit_rows
from pipeline.encoders.transforms import MARGIN, middle
from pipeline.errors import MissingInput, ModelError, first_line
from pipeline.io.digest import sha256_file


class OpenClip:
    """Unit vectors of pictures and captions, with the model's own preprocessing and tokens.

    In bfloat16 the forward takes half of the time where the processor has it, and vectors are
    within a cosine of .999 of those in float32.
    """

    metric: Metric = "cosine"

    def __init__(
        self,
        model: str,
        *,
        pretrained: str | None = None,
        weights: Path | None = None,
        sha256: str | None = None,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self._device, self._name = device, model
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._tokenizer: Any = None
        if model not in open_clip.list_models():
            raise ModelError(f"open_clip has no model {model!r}; see open_clip.list_models()")
        if pretrained is None and weights is None:
            raise ModelError(f"open_clip {model}: give a pretrained tag or a weights file")
        tag = pretrained if weights is None else None
        if tag and not open_clip.is_pretrained_cfg(model, tag):
            # open_clip would take it for a path, and read a pickle without its sha256
            raise ModelError(f"open_clip {model} has no tag {tag!r}; give a file as weights")
        try:
            self._model, _, self._transform = open_clip.create_model_and_transforms(
                model, pretrained=tag
            )
        except Exception as error:
            raise MissingInput(f"open_clip {model} {tag}: {first_line(error)}") from error
        if weights is not None:
            state = load_weights(weights, sha256)
            bare = {name.removeprefix("module."): value for name, value in state.items()}
            load_into(self._model, bare, weights, exact=True)
        self._model.eval().to(device, self._dtype)
        side = self._model.visual.image_size
        self.least_side = MARGIN * (side if isinstance(side, int) else max(side))
        source = sha256_file(weights) if weights else f"{pretrained}@{open_clip.__version__}"
        rounded = "" if dtype == "float32" else f":{dtype}"
        self.fingerprint = f"open_clip:{model}:{source}{rounded}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        batch = torch.stack([self._transform(middle(picture)) for picture in pictures])
        return Encoded(unit_rows(self._model.encode_image(batch.to(self._device, self._dtype))))

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode captions to unit vectors (n, d), cut at the length that the model reads.

        Raises MissingInput where the tokens of the architecture are not on this machine.
        """
        if self._tokenizer is None:
            try:
                self._tokenizer = open_clip.get_tokenizer(self._name)
            except Exception as error:
                raise MissingInput(f"open_clip {self._name}: {first_line(error)}") from error
        tokens = self._tokenizer(list(captions)).to(self._device)
        return unit_rows(self._model.encode_text(tokens))
