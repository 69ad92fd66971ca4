"""Pictures for tests: smooth, coloured, with shapes, each number another one."""

import io

import numpy as np
from PIL import Image, ImageDraw


def picture(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """A gradient of two random colours under eight random ellipses and boxes."""
    rng = np.random.default_rng(number)
    along = np.linspace(0, 1, width)[None, :, None]
    colours = rng.integers(0, 256, (2, 3))
    ground = np.broadcast_to(colours[0] * along + colours[1] * (1 - along), (height, width, 3))
    image = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for shape in range(8):
        x, y = rng.integers(0, width), rng.integers(0, height)
        half_x, half_y = (
            rng.integers(width // 16, width // 3),
            rng.integers(height // 16, height // 3),
        )
        paint = draw.ellipse if shape % 2 else draw.rectangle
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        paint([int(v) for v in box], fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return image


def textured(number: int, width: int = 320, height: int = 240) -> Image.Image:
    """`picture` with the grain of a photograph: noise at four scales, another for each number."""
    rng = np.random.default_rng(1000 + number)
    grain = np.zeros((height, width))
    for cell in (4, 8, 16, 32):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        enlarged = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain += 14 * np.asarray(enlarged)
    pixels = np.asarray(picture(number, width, height)) + grain[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def recompressed(image: Image.Image, quality: int = 80) -> Image.Image:
    """The picture through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
