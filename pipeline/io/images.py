"""Decoding pictures that anyone may have made.

The format is taken from the content, never from the name, and no decoder but those allowed sees a
byte; the size is checked in the header, before a pixel is decoded; a picture cut short is refused,
since half a picture filled with grey looks like every other half picture.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageRejected, first_line

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<WEBP>RIFF....WEBP)|(?P<GIF>GIF8)"
    rb"|(?P<TIFF>II\*\0|MM\0\*)|(?P<BMP>BM)|(?P<EPS>%!PS)|(?P<AVIF>....ftyp)",
    re.DOTALL,
)


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may be. Pillow itself refuses from 179 million pixels on.

    A JPEG that holds several pictures, as telephones write them, counts as JPEG.
    """

    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    max_pixels: int = 64_000_000
    max_bytes: int = 64_000_000
    min_side: int = 1


def decode(
    data: bytes, limits: ImageLimits | None = None, *, least_side: int | None = None
) -> Image.Image:
    """Decode to RGB, upright, transparency over white.

    Where `least_side` is given, a JPEG comes at a half, quarter or eighth of its size as long as
    both sides keep that many pixels: the inverse DCT of the low frequencies alone, whose time is a
    fraction of that of the whole. Which scale depends on the header and `least_side` only.

    Raises ImageRejected with reason `empty`, `too_many_bytes`, `not_an_image`, `format`,
    `too_many_pixels`, `too_small` or `truncated`. Safe to call from several threads.
    """
    limits = limits or ImageLimits()
    if not data:
        raise ImageRejected("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageRejected("too_many_bytes", f"{len(data)} bytes, at most {limits.max_bytes}")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries turn it on when they are imported
    with _WARNINGS.silenced():
        image = _open(data, limits)
        try:
            if least_side is not None:
                image.draft(None, (least_side, least_side))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
            raise ImageRejected("truncated", first_line(error)) from error


def fits(path: Path, limits: ImageLimits) -> bool:
    """Whether a file is there and of no more bytes than a picture may have."""
    return path.is_file() and path.stat().st_size <= limits.max_bytes


def read_picture_file(path: Path, limits: ImageLimits) -> bytes:
    """The bytes of a file; what is too large is refused before a byte is read.

    Raises ImageRejected with reason `too_many_bytes`, or `unreadable` with what the system says.
    """
    try:
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise ImageRejected("too_many_bytes", f"{size} bytes, at most {limits.max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise ImageRejected("unreadable", error.strerror or "") from error


def is_animated(data: bytes, limits: ImageLimits | None = None) -> bool:
    """Whether a PNG or WebP holds several frames, by its header. Raises ImageRejected as `decode`.

    A JPEG's further pictures are previews and depth maps of the same one.
    """
    with _WARNINGS.silenced():
        image = _open(data, limits or ImageLimits())
        return image.format in ("PNG", "WEBP") and bool(getattr(image, "is_animated", False))


class _Warnings:
    """Pillow's warnings, silenced while any thread decodes.

    `warnings.catch_warnings` in each thread would restore the filters of another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    @contextmanager
    def silenced(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                # our own cap of pixels is lower
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                warnings.simplefilter("ignore", UserWarning)  # e.g. a palette's odd transparency
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._saved.__exit__(None, None, None)


_WARNINGS = _Warnings()


def to_square(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """The whole picture as (side, side, 3), skewed rather than cropped, so that nothing is lost."""
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.uint8)


def encode_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of an (h, w, 3) picture, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except UnidentifiedImageError as error:
        raise _unidentified(data, limits) from error
    except Image.DecompressionBombError as error:
        raise ImageRejected("too_many_pixels", first_line(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageRejected("truncated", first_line(error)) from error
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageRejected(
            "too_many_pixels", f"{width} x {height}, at most {limits.max_pixels} pixels"
        )
    if min(width, height) < limits.min_side:
        raise ImageRejected("too_small", f"{width} x {height}")
    return image


def _unidentified(data: bytes, limits: ImageLimits) -> ImageRejected:
    match = _SIGNATURE.match(data)
    if match is None:
        return ImageRejected("not_an_image", "no known picture format")
    if match.lastgroup in limits.formats:
        return ImageRejected("truncated", f"the header of a {match.lastgroup} is damaged")
    return ImageRejected("format", f"{match.lastgroup}; read are {', '.join(limits.formats)}")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        deep = np.asarray(image, np.uint16)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies in any case
