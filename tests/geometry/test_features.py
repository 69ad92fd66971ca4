import cv2
import numpy as np
from PIL import Image, ImageOps
from sample_pictures import textured

from pipeline.geometry import local_features
from pipeline.geometry.features import KEYPOINTS, SIDE


def test_the_picture_is_scaled_to_one_size_and_keeps_its_shape():
    for size in ((400, 300), (100, 75), (3, 900)):
        grey = local_features(textured(1).resize(size)).grey
        assert max(grey.shape) == SIDE
        assert abs(grey.shape[1] / grey.shape[0] - size[0] / size[1]) < 0.5


def test_there_are_no_more_than_so_many_and_none_in_a_flat_picture():
    features = local_features(textured(2, 640, 480))
    assert 50 < len(features.points) <= KEYPOINTS
    assert features.descriptors.shape == (len(features.points), 128)
    assert len(local_features(Image.new("RGB", (300, 200), "white")).points) == 0


def test_mirrored_features_are_those_of_the_mirrored_picture():
    """Against OpenCV on the mirrored pixels: at the same places, nearly the same histograms."""
    ours = local_features(textured(3)).mirrored()
    theirs = local_features(ImageOps.mirror(textured(3)))
    assert np.abs(ours.grey.astype(int) - theirs.grey).max() <= 1
    gaps = np.linalg.norm(ours.points[:, None] - theirs.points[None], axis=2)
    close = np.argwhere(gaps < 1)
    assert len(close) > 0.5 * len(ours.points)
    a = ours.descriptors[close[:, 0]].astype(float)
    b = theirs.descriptors[close[:, 1]].astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.median(cosine) > 0.97  # a place may have two directions, and so two descriptors
    unturned = local_features(textured(3)).descriptors[close[:, 0]].astype(float)
    other = (unturned * b).sum(1) / np.linalg.norm(unturned, axis=1) / np.linalg.norm(b, axis=1)
    assert np.median(other) < 0.9


def test_opencv_uses_no_threads_of_its_own():
    assert cv2.getNumThreads() == 1
