"""From a picture to a network's input."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MAX_ASPECT = 16


def middle(picture: Image.Image) -> Image.Image:
    """The middle of a very long picture.

    A centre crop sees no more of it, and scaling the whole of 1 x 1,000,000 pixels by the shorter
    side would take gigabytes.
    """
    width, height = picture.size
    longest = _MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return picture
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))


@dataclass(frozen=True)
class Preparation:
    """Bicubic to `size / crop`, centre crop to `size`, normalise.

    `skew` stretches the picture to a square instead of cropping the longer side away.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0
    skew: bool = False

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Batch (n, 3, size, size), fp32."""
        arrays = np.stack([np.asarray(self._fit(picture)) for picture in pictures])
        batch = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (batch - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def _fit(self, picture: Image.Image) -> Image.Image:
        target = round(self.size / self.crop)
        if self.skew:
            fitted = (target, target)
        else:
            picture = middle(picture)
            width, height = picture.size
            scale = target / min(width, height)
            fitted = (max(target, round(width * scale)), max(target, round(height * scale)))
        resized = picture.resize(fitted, Image.Resampling.BICUBIC)
        left, top = (fitted[0] - self.size) // 2, (fitted[1] - self.size) // 2
        return resized.crop((left, top, left + self.size, top + self.size))
