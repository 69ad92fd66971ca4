import tracemalloc

import numpy as np
import pdqhash
import pytest
from PIL import Image, ImageOps
from sample_pictures import picture, recompressed

from pipeline.encoders.pdq import Pdq

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


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 500), (64, 64)])
def test_pictures_without_features_say_so(size):
    assert encode(Image.new("RGB", size, "grey")).quality[0] < 50


def test_no_pictures():
    assert encode().vectors.shape == (0, 32)
