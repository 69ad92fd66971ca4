"""Sixteen edits that people make to a picture that stays the same picture.

They are the common ones of the copy-detection benchmarks (Douze et al. 2009, Copydays: compression
and crops by the share of the area removed; Douze et al. 2021, DISC: mirroring, text, padding and
overlays), at one strength each. An edit never changes its input, and what is drawn by lot comes
from the generator that it is given, so that equal seeds give equal pixels.
"""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Picture = Image.Image
Edit = Callable[[Picture, np.random.Generator, Picture], Picture]
"""(upright RGB picture, source of chance, an unrelated picture) -> the edited picture."""

_PHRASES = ("WHEN YOU SEE IT", "SALE ENDS TODAY", "FOLLOW FOR MORE", "NOT FOR REUSE", "READ THIS")


def jpeg(picture: Picture, quality: int) -> Picture:
    """Encoded as JPEG of this quality and decoded again; the size stays."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as encoded:
        return encoded.convert("RGB")


def scale(picture: Picture, across: float, down: float) -> Picture:
    """Resized by a factor a side."""
    return picture.resize(_sides(picture, across, down), Image.Resampling.LANCZOS)


def crop(picture: Picture, removed: float, rng: np.random.Generator) -> Picture:
    """A window of the picture's own shape anywhere in it; `removed` is the share of area lost."""
    kept = float(np.sqrt(1 - removed))
    width, height = _sides(picture, kept, kept)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def rotate(picture: Picture, degrees: float, rng: np.random.Generator) -> Picture:
    """Turned either way about its centre; the size stays, the corners that come in are black."""
    sign = 1 if rng.random() < 0.5 else -1
    return picture.rotate(sign * degrees, Image.Resampling.BICUBIC)


def brighten(picture: Picture, factor: float) -> Picture:
    """Every value times `factor`, clipped at white."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def gray(picture: Picture) -> Picture:
    """Luminance alone."""
    return picture.convert("L").convert("RGB")


def blur(picture: Picture, sigma_at_512: float) -> Picture:
    """Gaussian blur; sigma in pixels of a picture whose longer side is 512."""
    return picture.filter(ImageFilter.GaussianBlur(sigma_at_512 * max(picture.size) / 512))


def write_on(picture: Picture, rng: np.random.Generator) -> Picture:
    """A white line of capitals with a dark rim near the top and another near the bottom."""
    written = picture.copy()
    draw = ImageDraw.Draw(written)
    chosen = rng.choice(len(_PHRASES), 2, replace=False)
    for row, text in zip((0.12, 0.88), (_PHRASES[i] for i in chosen), strict=True):
        unit = draw.textlength(text, ImageFont.load_default(100)) / 100
        size = max(4.0, 0.9 * picture.width / unit)
        rim = max(1, round(size / 16))
        draw.text(
            (picture.width / 2, row * picture.height),
            text,
            fill="white",
            font=ImageFont.load_default(size),
            anchor="mm",
            stroke_width=rim,
            stroke_fill="black",
        )
    return written


def pad(picture: Picture, share: float) -> Picture:
    """A black border on each side, `share` of the width or height of the picture."""
    across, down = round(share * picture.width), round(share * picture.height)
    return ImageOps.expand(picture, (across, down, across, down), "black")


def overlay(
    picture: Picture, background: Picture, share: float, rng: np.random.Generator
) -> Picture:
    """The picture at `share` of the background's sides, in its own shape, anywhere on it."""
    across, down = (share * b / p for b, p in zip(background.size, picture.size, strict=True))
    small = scale(picture, min(across, down), min(across, down))
    left = int(rng.integers(0, background.width - small.width + 1))
    top = int(rng.integers(0, background.height - small.height + 1))
    pasted = background.copy()
    pasted.paste(small, (left, top))
    return pasted


EDITS: Mapping[str, Edit] = MappingProxyType(
    {
        "exact": lambda picture, rng, other: picture.copy(),
        "jpeg30": lambda picture, rng, other: jpeg(picture, 30),
        "jpeg10": lambda picture, rng, other: jpeg(picture, 10),
        "resize50": lambda picture, rng, other: scale(picture, 0.5, 0.5),
        "aspect": lambda picture, rng, other: scale(picture, 1, 0.75),
        "crop10": lambda picture, rng, other: crop(picture, 0.10, rng),
        "crop30": lambda picture, rng, other: crop(picture, 0.30, rng),
        "crop50": lambda picture, rng, other: crop(picture, 0.50, rng),
        "hflip": lambda picture, rng, other: ImageOps.mirror(picture),
        "rot5": lambda picture, rng, other: rotate(picture, 5, rng),
        "bright": lambda picture, rng, other: brighten(picture, 1.4),
        "gray": lambda picture, rng, other: gray(picture),
        "blur": lambda picture, rng, other: blur(picture, 3),
        "text": lambda picture, rng, other: write_on(picture, rng),
        "pad": lambda picture, rng, other: pad(picture, 0.12),
        "overlay": lambda picture, rng, other: overlay(picture, other, 0.6, rng),
    }
)
"""The edits by name, in the order of tables."""


def _sides(picture: Picture, across: float, down: float) -> tuple[int, int]:
    return max(1, round(across * picture.width)), max(1, round(down * picture.height))
