"""The adapter of a pipeline, by the class of its network."""

from typing import Any

from pipeline.generation.adapters.base import Adapter
from pipeline.generation.adapters.flux import Flux
from pipeline.generation.adapters.pixart import PixArt
from pipeline.generation.adapters.sd3 import SD3
from pipeline.generation.adapters.sdxl import TextTimeUNet
from pipeline.generation.adapters.unconditional import Unconditional
from pipeline.generation.adapters.unet import TextUNet

_TRANSFORMERS: dict[str, type[Adapter]] = {
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": Flux,
    "PixArtTransformer2DModel": PixArt,
}
_BY_ADDED: dict[str | None, type[Adapter]] = {None: TextUNet, "text_time": TextTimeUNet}


def adapter_for(pipe: Any, resolution: int | None = None) -> Adapter:
    """The adapter that knows this pipeline; one that only draws for any other."""
    unet, transformer = getattr(pipe, "unet", None), getattr(pipe, "transformer", None)
    kind: type[Adapter] = _TRANSFORMERS.get(type(transformer).__name__, Adapter)
    if type(unet).__name__ == "UNet2DModel":
        kind = Unconditional
    elif unet is not None and type(unet).__name__ == "UNet2DConditionModel":
        kind = _BY_ADDED.get(unet.config.addition_embed_type, Adapter)
    return kind(pipe, resolution)
