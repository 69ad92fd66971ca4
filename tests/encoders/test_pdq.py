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


def test_codes_are_the_bits_of_pdqhash():
    pictures = [picture(i) for i in range(5)]
    encoded = encode(*pictures)
    for row, image in enumerate(pictures):
        bits, quality = pdqhash.compute(np.asarray(image))
        assert np.array_equal(np.unpackbits(encoded.vectors[row]), bits)
        assert encoded.quality[row] == quality


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
