import cv2
import numpy as np
from PIL import Image, ImageOps
from sample_pictures import textured

from pipeline.geometry import LocalFeatures, local_features
from pipeline.geometry.features import BITS, KEYPOINTS, SIDE


def test_the_picture_is_scaled_to_one_size_and_keeps_its_shape():
    for size in ((400, 300), (100, 75), (3, 900)):
        grey = local_features(textured(1).resize(size)).grey
        assert max(grey.shape) == SIDE
        assert abs(grey.shape[1] / grey.shape[0] - size[0] / size[1]) < 0.5


def test_there_are_no_more_than_so_many_and_none_in_a_flat_picture():
    features = local_features(textured(2, 640, 480))
    assert 50 < len(features.points) <= KEYPOINTS
    assert features.descriptors.shape == (len(features.points), BITS // 8)
    assert len(local_features(Image.new("RGB", (300, 200), "white")).points) == 0


def test_mirrored_features_are_those_of_the_mirrored_picture():
    """At the same places as OpenCV's on the mirrored pixels, and most of the bits are equal."""
    ours = local_features(textured(3)).mirrored
    theirs = local_features(ImageOps.mirror(textured(3)))
    assert np.abs(ours.grey.astype(int) - theirs.grey).max() <= 1
    gaps = np.linalg.norm(ours.points[:, None] - theirs.points[None], axis=2)
    close = np.argwhere(gaps < 1)
    assert len(close) > 0.5 * len(ours.points)
    differing = ours.descriptors[close[:, 0]] ^ theirs.descriptors[close[:, 1]]
    assert np.median(np.bitwise_count(differing).sum(axis=1)) < BITS / 10
    strangers = ours.descriptors ^ np.roll(ours.descriptors, 75, axis=0)
    assert np.median(np.bitwise_count(strangers).sum(axis=1)) > BITS / 4


def test_the_smooth_picture_is_blurred_in_place():
    """A point becomes a Gaussian of two pixels around itself: 1 / (2 pi 2^2) at the middle."""
    point = np.zeros((61, 61), np.uint8)
    point[30, 20] = 255
    smooth = LocalFeatures(point, np.zeros((0, 2)), np.zeros((0, 32))).smooth
    assert smooth.argmax() == 30 * 61 + 20
    assert abs(float(smooth.max()) - 255 / (8 * np.pi)) < 1


def test_a_side_that_is_all_margin_has_no_features():
    assert len(local_features(textured(1).resize((160, 20))).points) == 0
    assert len(local_features(textured(1).resize((160, 60))).points) > 0


def test_opencv_uses_no_threads_of_its_own():
    assert cv2.getNumThreads() == 1
