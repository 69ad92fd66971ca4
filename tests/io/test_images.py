import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from pipeline.errors import ImageRejected
from pipeline.io.images import (
    ImageLimits,
    decode,
    encode_png,
    fits,
    read_picture_file,
    to_square,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ORIENTATION = 0x0112


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(width=96, height=64):
    """A smooth picture with a little noise, so that every format has something to code."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray((127 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


def png(width, height, depth, color_type, rows, *, extra=b""):
    """A PNG written by hand: `rows` are its raw lines, each with its filter byte."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def transparent_value(*values):
    body = struct.pack(f">{len(values)}H", *values)
    return (
        struct.pack(">I", len(body))
        + b"tRNS"
        + body
        + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    )


def reason(data, limits=None):
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats(format):
    image = decode(saved(photo(), format))
    assert (image.mode, image.size) == ("RGB", (96, 64))
    assert np.abs(np.asarray(image, int) - np.asarray(photo(), int)).mean() < 8


def test_lossless_pictures_come_back_to_the_bit():
    assert np.array_equal(np.asarray(decode(saved(photo(), "PNG"))), np.asarray(photo()))
    lossless = saved(photo(), "WEBP", lossless=True)
    assert np.array_equal(np.asarray(decode(lossless)), np.asarray(photo()))


def test_a_bomb_is_refused_by_its_header():
    """14,000 x 14,000 pixels in 30 kB: 588 MB when decoded."""
    bomb = png(14_000, 14_000, 1, 0, bytes(14_000 * (1 + 14_000 // 8)))
    assert len(bomb) < 40_000
    assert reason(bomb) == "too_many_pixels"


def test_the_cap_is_the_caller_s_and_holds_whatever_pillow_s_is(monkeypatch):
    assert reason(saved(photo(), "PNG"), ImageLimits(max_pixels=6143)) == "too_many_pixels"
    assert decode(saved(photo(), "PNG"), ImageLimits(max_pixels=6144)).size == (96, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(saved(photo(), "PNG"), ImageLimits(max_pixels=100)) == "too_many_pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert reason(saved(photo(), "PNG")) == "too_many_pixels"


def test_bytes_and_sides_have_limits():
    data = saved(photo(), "PNG")
    assert reason(data, ImageLimits(max_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason(data, ImageLimits(min_side=65)) == "too_small"
    assert reason(b"") == "empty"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_pictures_cut_short(format, share):
    data = saved(photo(), format)
    assert reason(data[: int(share * len(data))]) == "truncated"


def test_half_a_jpeg_is_refused_even_where_another_library_allows_it(monkeypatch):
    """All such pictures look alike: their lower half is grey."""
    data = saved(photo(), "JPEG", quality=95)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert Image.open(io.BytesIO(data[: len(data) // 2])).convert("RGB").size == (96, 64)
    assert reason(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize(
    "data", [b"<html>404</html>", b"Not found", b"\0" * 100, b"RIFF....WAVE", b"x", b"\n\x05\x01"]
)
def test_text_and_noise_named_jpg(data):
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "EPS", "AVIF"])
def test_other_formats_are_named_and_not_opened(format, monkeypatch):
    data = saved(photo(), format)
    monkeypatch.setitem(Image.OPEN, format, (lambda *_: pytest.fail("opened"), None))
    assert reason(data) == "format"


def test_a_format_that_is_left_out_is_refused():
    assert reason(saved(photo(), "WEBP"), ImageLimits(formats=("JPEG", "PNG"))) == "format"


def test_a_telephone_s_jpeg_of_two_pictures_is_its_first():
    second = Image.new("RGB", (96, 64), RED)
    data = saved(photo(), "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(np.asarray(decode(data), int) - np.asarray(photo(), int)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    """The EXIF standard's eight orientations, undone by hand."""
    upright = np.asarray(photo())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), upright)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
    ],
)
def test_damaged_exif_does_not_cost_the_picture(exif):
    assert decode(saved(photo(), "JPEG", exif=exif)).size == (96, 64)


def test_transparency_is_over_white():
    half = Image.new("RGBA", (4, 4), (*RED, 128))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        pixel = decode(saved(half, format, **options)).getpixel((0, 0))
        assert np.abs(np.subtract(pixel, (255, 127, 127))).max() <= 1
    assert decode(saved(Image.new("LA", (4, 4), (0, 0)), "PNG")).getpixel((0, 0)) == (255,) * 3


def test_a_palette_with_a_transparent_entry():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 1), 1)
    picture = decode(saved(image, "PNG", transparency=1))
    assert (picture.getpixel((0, 0)), picture.getpixel((1, 1))) == (RED, (255, 255, 255))


def test_one_transparent_colour():
    image = Image.new("RGB", (4, 4), RED)
    image.putpixel((1, 1), BLUE)
    picture = decode(saved(image, "PNG", transparency=BLUE))
    assert (picture.getpixel((0, 0)), picture.getpixel((1, 1))) == (RED, (255, 255, 255))


def test_sixteen_bit_grey_keeps_its_scale():
    """Pillow's own conversion clips everything above 255 to white."""
    rows = b"".join(b"\0" + struct.pack(">3H", 0, 0x8000, 0xFFFF) for _ in range(2))
    for extra in (b"", transparent_value(0x1234)):
        picture = decode(png(3, 2, 16, 0, rows, extra=extra))
        assert [picture.getpixel((x, 1))[0] for x in range(3)] == [0, 0x80, 0xFF]


def test_sixteen_bit_colour():
    rows = b"\0" + struct.pack(">6H", 0xFFFF, 0, 0x8000, 0, 0xFFFF, 0)
    picture = decode(png(2, 1, 16, 2, rows))
    assert (picture.getpixel((0, 0)), picture.getpixel((1, 0))) == ((255, 0, 128), GREEN)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey(depth):
    line = bytes([0, 0b11110000])
    picture = decode(png(8 // depth, 1, depth, 0, line))
    assert (picture.getpixel((0, 0)), picture.getpixel((8 // depth - 1, 0))) == (
        (255,) * 3,
        (0,) * 3,
    )


def test_cmyk():
    red = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert red.mode == "RGB"
    assert np.abs(np.subtract(red.getpixel((3, 3)), RED)).max() < 6


def test_grey_and_black_and_white():
    assert decode(saved(Image.new("L", (4, 4), 77), "PNG")).getpixel((0, 0)) == (77, 77, 77)
    assert decode(saved(Image.new("1", (4, 4), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_is_its_first_picture():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert decode(data).getpixel((0, 0)) == RED


def test_a_text_bomb_in_a_png():
    body = b"comment\0\0" + zlib.compress(bytes(40 << 20), 9)
    chunk = (
        struct.pack(">I", len(body))
        + b"zTXt"
        + body
        + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    )
    assert reason(png(1, 1, 8, 0, b"\0\0", extra=chunk)) == "truncated"


def box_reduced(image, scale):
    return np.asarray(image.reduce(scale), int)


@pytest.mark.parametrize(
    ("least_side", "scale"), [(401, 1), (400, 1), (200, 2), (151, 2), (100, 4), (50, 8), (1, 8)]
)
def test_a_jpeg_comes_reduced_as_far_as_both_sides_allow(least_side, scale):
    data = saved(photo(640, 400), "JPEG", quality=95)
    image = decode(data, least_side=least_side)
    assert (image.mode, image.size) == ("RGB", (640 // scale, 400 // scale))
    assert np.abs(np.asarray(image, int) - box_reduced(decode(data), scale)).mean() < 4


def test_a_reduced_jpeg_is_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = saved(photo(640, 400), "JPEG", exif=exif)
    image = decode(data, least_side=200)
    assert image.size == (200, 320)
    assert np.abs(np.asarray(image, int) - box_reduced(decode(data), 2)).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_are_never_reduced(format):
    data = saved(photo(640, 400), format)
    assert np.array_equal(np.asarray(decode(data, least_side=10)), np.asarray(decode(data)))


def test_reduced_or_not_the_same_pictures_are_refused():
    data = saved(photo(640, 400), "JPEG")
    for limits in (ImageLimits(max_pixels=640 * 400 - 1), ImageLimits(min_side=401)):
        with pytest.raises(ImageRejected) as caught:
            decode(data, limits, least_side=10)
        assert caught.value.reason == reason(data, limits)
    with pytest.raises(ImageRejected) as caught:
        decode(data[: len(data) // 2], least_side=10)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes_are_reduced_too(mode):
    data = saved(photo(640, 400).convert(mode), "JPEG", quality=95)
    image = decode(data, least_side=100)
    assert (image.mode, image.size) == ("RGB", (160, 100))


def test_a_telephone_s_jpeg_is_reduced():
    second = Image.new("RGB", (640, 400), RED)
    data = saved(photo(640, 400), "MPO", save_all=True, append_images=[second], quality=95)
    image = decode(data, least_side=100)
    assert image.size == (160, 100)
    assert np.abs(np.asarray(image, int) - box_reduced(photo(640, 400), 4)).mean() < 8


def test_threads_leave_the_filters_of_warnings_as_they_were():
    odd = saved(photo().quantize(16), "PNG", transparency=bytes(range(16)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode, [odd, saved(photo(), "JPEG")] * 100))
    assert len(pictures) == 200
    assert list(warnings.filters) == before


def test_the_square_keeps_the_whole_picture():
    """Box averaging by whole factors is the mean of each block."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    blocks = pixels.reshape(16, 4, 16, 6, 3).astype(np.float64).mean((1, 3))
    assert (
        np.abs(to_square(Image.fromarray(pixels), 16) - blocks).max() < 1
    )  # rounded along each axis


def test_png_bytes_are_the_pixels_and_the_same_every_time():
    pixels = np.asarray(photo())
    assert encode_png(pixels) == encode_png(pixels.copy())
    assert np.array_equal(np.asarray(decode(encode_png(pixels))), pixels)


SEEDS = [
    saved(photo(24, 16), "JPEG", exif=Image.Exif()),
    saved(photo(24, 16), "PNG"),
    saved(photo(24, 16).quantize(16), "PNG", transparency=3),
    saved(photo(24, 16), "WEBP"),
    saved(photo(24, 16).convert("RGBA"), "WEBP", lossless=True),
    saved(photo(24, 16).convert("CMYK"), "JPEG"),
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    base=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.floats(0.1, 1),
)
def test_whatever_the_bytes_a_picture_or_a_reason(base, edits, kept):
    data = bytearray(base)
    for place, value in edits:
        data[int(place**2 * len(data))] = value  # more in the header
    try:
        assert decode(bytes(data[: int(kept * len(data))])).mode == "RGB"
    except ImageRejected as rejection:
        assert rejection.reason in {
            "empty", "not_an_image", "format", "truncated", "too_many_pixels", "too_small"
        }  # fmt: skip


def test_a_file_is_measured_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(100))
    assert fits(path, ImageLimits(max_bytes=100)) and not fits(path, ImageLimits(max_bytes=99))
    assert read_picture_file(path, ImageLimits(max_bytes=100)) == bytes(100)
    assert not fits(tmp_path, ImageLimits()) and not fits(tmp_path / "b.jpg", ImageLimits())
    for missing in (tmp_path / "b.jpg", tmp_path):
        with pytest.raises(ImageRejected) as caught:
            read_picture_file(missing, ImageLimits(max_bytes=1 << 20))
        assert caught.value.reason == "unreadable"
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    with pytest.raises(ImageRejected, match="100 bytes, at most 99") as caught:
        read_picture_file(path, ImageLimits(max_bytes=99))
    assert caught.value.reason == "too_many_bytes"
