import tracemalloc

import numpy as np
import pdqhash
import pytest
from PIL import Image, ImageOps
from sample_pictures import picture, recompressed, textured

from pipeline.encoders.pdq import MIRROR, Pdq, inside_border

MATCH = 31  # bits, the threshold of the hash's authors


def distances(codes_a, codes_b):
    bits = np.unpackbits(codes_a, axis=1)[:, None] != np.unpackbits(codes_b, axis=1)[None]
    return bits.sum(-1)


def encode(*pictures):
    return Pdq().encode(pictures)


SHAPES = [
    (160, 120),
    (64, 64),
    (65, 130),
    (1000, 513),
    (127, 129),
    (128, 300),
    (64, 2000),
    (90, 20),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_the_bits_of_the_reference_implementation(shape):
    """To the bit on grey pictures, whose luma needs no rounding."""
    for number in range(4):
        image = picture(number, *shape).convert("L").convert("RGB")
        bits, quality = pdqhash.compute(np.asarray(image))
        encoded = encode(image)
        assert np.array_equal(np.unpackbits(encoded.vectors[0]), bits)
        assert encoded.quality[0] == quality


@pytest.mark.parametrize("shape", [(3000, 2200), (5000, 300), (400, 2100)])
def test_large_pictures_are_averaged_first(shape):
    for number in range(3):
        image = picture(number, *shape)
        bits, quality = pdqhash.compute(np.asarray(image))
        encoded = encode(image)
        assert (np.unpackbits(encoded.vectors[0]) != bits).sum() <= 10
        assert abs(encoded.quality[0] - quality) <= 3


def test_a_side_of_millions_needs_no_matrix_of_that_size():
    tracemalloc.start()
    encode(Image.new("RGB", (1, 3_000_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_the_rounding_of_the_luma_costs_few_bits():
    """The authors allow implementations ten."""
    pictures = [picture(i, 320, 240) for i in range(30)]
    encoded = encode(*pictures)
    theirs = [pdqhash.compute(np.asarray(image)) for image in pictures]
    bits = np.unpackbits(encoded.vectors, axis=1) != np.stack([code for code, _ in theirs])
    assert bits.sum(1).max() <= 6
    assert bits.sum(1).mean() < 2
    assert np.abs(encoded.quality - [quality for _, quality in theirs]).max() <= 1


def test_a_reduced_picture_keeps_its_hash():
    """Within the ten bits, as it comes from a JPEG decoded at half its size."""
    pictures = [picture(i, 2080, 2300) for i in range(5)]
    reduced = encode(*(image.reduce(2) for image in pictures))
    assert np.diag(distances(encode(*pictures).vectors, reduced.vectors)).max() <= 10
    assert min(pictures[0].reduce(2).size) >= Pdq.least_side


def test_shapes_and_types():
    encoded = encode(picture(0), picture(1))
    assert (encoded.vectors.shape, encoded.vectors.dtype) == ((2, 32), np.uint8)
    assert (encoded.quality.shape, encoded.quality.dtype) == ((2,), np.float32)


def test_copies_match_and_others_do_not():
    pictures = [picture(i, 320, 240) for i in range(20)]
    encoded = encode(*pictures)
    assert (encoded.quality >= 50).mean() > 0.9
    for edit in (lambda image: image.copy(), recompressed, lambda image: image.resize((200, 150))):
        edited = encode(*(edit(image) for image in pictures))
        between = distances(encoded.vectors, edited.vectors)
        assert np.diag(between).max() <= MATCH
        assert between[~np.eye(20, dtype=bool)].min() > MATCH


def test_a_turned_picture_is_another():
    assert (
        distances(encode(picture(0)).vectors, encode(ImageOps.mirror(picture(0))).vectors)[0, 0]
        > 60
    )


def test_the_mask_gives_the_hash_of_the_mirrored_picture():
    """But for the few coefficients that lie between the two medians."""
    pictures = [textured(i) for i in range(40)]
    own = encode(*pictures).vectors ^ MIRROR
    theirs = [pdqhash.compute(np.asarray(ImageOps.mirror(image)))[0] for image in pictures]
    bits = (np.unpackbits(own, axis=1) != theirs).sum(1)
    assert bits.max() <= MATCH and bits.mean() < 12
    flipped = encode(*(ImageOps.flip(image) for image in pictures)).vectors
    assert np.diag(distances(own, flipped)).min() > MATCH


BORDERS = {
    "all around": (30, 20, 30, 20),
    "letterbox": (0, 40, 0, 40),
    "pillars": (50, 0, 50, 0),
    "one side": (0, 0, 60, 0),
    "two sides": (0, 25, 40, 0),
}


@pytest.mark.parametrize("colour", ["black", "white", (128, 90, 40)])
@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
def test_a_border_is_cut_away(border, colour):
    for number in range(3):
        grey = textured(number).convert("L")
        luma = np.asarray(grey)
        assert inside_border(luma) is luma
        padded = ImageOps.expand(textured(number), border, colour).convert("L")
        assert np.array_equal(inside_border(np.asarray(padded)), luma)


def test_the_hash_inside_a_border_is_that_of_the_picture_cut_out():
    border = (40, 30, 40, 30)
    padded = [ImageOps.expand(textured(i), border, "white") for i in range(6)]
    encoded, cut = encode(*padded), encode(*(textured(i) for i in range(6)))
    assert np.array_equal(encoded.trimmed.vectors, cut.vectors)
    assert np.array_equal(encoded.trimmed.quality, cut.quality)
    assert np.diag(distances(encoded.vectors, cut.vectors)).min() > MATCH
    reference = [pdqhash.compute(np.asarray(image))[0] for image in padded]
    assert (np.unpackbits(encoded.vectors, axis=1) != reference).sum(1).max() <= 6  # its own stays
    assert np.array_equal(cut.trimmed.vectors, cut.vectors)  # where there is no border


@pytest.mark.parametrize("quality", [30, 75])
def test_compression_hides_no_border(quality):
    pictures = [textured(i) for i in range(10)]
    padded = [
        recompressed(ImageOps.expand(image, (37, 29, 37, 29), colour), quality)
        for image in pictures
        for colour in ("black", "white")
    ]
    near = distances(encode(*padded).trimmed.vectors, encode(*pictures).vectors)
    assert (near[np.arange(20), np.arange(20) // 2] <= MATCH).mean() >= 0.9


def test_a_picture_is_never_cut_to_nothing():
    blank = np.full((60, 80), 200, np.uint8)
    speck = blank.copy()
    speck[30:34, 40:44] = 0
    narrow = blank.copy()
    narrow[:, 30:49] = np.arange(60)[:, None]
    for luma in (blank, speck, narrow, blank[:1], blank[:1, :1]):
        assert inside_border(luma) is luma
    narrow[:, 30:51] = np.arange(60)[:, None]
    assert inside_border(narrow).shape == (60, 21)


def test_a_calm_edge_is_no_border():
    """A sky that darkens along the upper edge of the picture."""
    luma = np.asarray(textured(0).convert("L")).copy()
    luma[:40] = np.linspace(150, 190, luma.shape[1])
    assert inside_border(luma) is luma


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 500), (64, 64)])
def test_pictures_without_features_say_so(size):
    assert encode(Image.new("RGB", size, "grey")).quality[0] < 50


def test_no_pictures():
    assert encode().vectors.shape == (0, 32)
