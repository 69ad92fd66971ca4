import numpy as np
import pytest

from pipeline.detection.split_product import split_product
from pipeline.stages.gallery import most_chunks


@pytest.mark.parametrize(
    ("dimension", "chunks"), [(512, 16), (1280, 16), (768, 16), (1000, 10), (1001, 13), (17, 1)]
)
def test_a_descriptor_of_any_size_can_be_cut(dimension, chunks):
    assert most_chunks(dimension) == chunks
    vectors = np.random.default_rng(0).standard_normal((1, dimension)).astype(np.float32)
    assert split_product(vectors, vectors, chunks=most_chunks(dimension))[0] >= 1 / chunks - 1e-6
