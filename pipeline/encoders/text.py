"""Encoders of captions, by the name that the configuration gives them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import RunConfig
from pipeline.encoders import build_encoder


class TextEncoder(Protocol):
    """Built once a process; each caption is independent of the others."""

    fingerprint: str

    def encode_texts(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode one caption or more to unit vectors (n, d)."""


def build_text_encoder(config: RunConfig) -> TextEncoder:
    """Build (or reuse) the encoder that `captions.encoder` names; see RunConfig for what it may."""
    from pipeline.encoders.clip import OpenClip  # noqa: PLC0415  a run without it need not wait

    name, device = config.captions.encoder, config.model.device
    if not shares_space(config):
        return _minilm(device)
    encoder = build_encoder(config.embed.encoders[name or ""], device)
    if not isinstance(encoder, OpenClip):
        raise ValueError(f"{name} reads no captions")
    return encoder


def shares_space(config: RunConfig) -> bool:
    """Whether captions and pictures are encoded by one model, so that their cosine means much."""
    return config.captions.encoder in config.embed.encoders


def require_text_encoder(config: RunConfig) -> None:
    """Raise MissingInput, before any work, where the weights of minilm are wanted and not there."""
    from pipeline.encoders.minilm import installed  # noqa: PLC0415

    if config.captions.encoder and not shares_space(config):
        installed()


@lru_cache(maxsize=1)
def _minilm(device: str) -> TextEncoder:
    from pipeline.encoders.minilm import MiniLm  # noqa: PLC0415

    return MiniLm(device=device)
