import faiss
import numpy as np
import pytest

from indexes.radius import within


@pytest.mark.parametrize(
    ("metric", "threshold", "near", "far"),
    [("cosine", 0.6, [0.6, 0.8], [0.5999, 0.80007]), ("l2", 5, [3, 4], [3.001, 4.001])],
)
def test_the_bound_itself_is_inside(metric, threshold, near, far):
    origin = [1, 0] if metric == "cosine" else [0, 0]
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    index = faiss.IndexFlat(2, kind)
    index.add(np.array([near, far], np.float32))
    queries = np.array([origin], np.float32)
    assert [a.tolist() for a in within(index, queries, threshold, metric)] == [[0], [0]]


@pytest.mark.parametrize("bits", [0, 31, 255, 256])
def test_a_hamming_bound_is_inclusive(bits):
    index = faiss.IndexBinaryFlat(256)
    index.add(np.packbits(np.tri(257, 256, -1, dtype=np.uint8), axis=1))
    _, labels = within(index, np.zeros((1, 32), np.uint8), bits, "hamming")
    assert sorted(labels) == list(range(bits + 1))


def test_no_near_pair_is_lost_where_squared_norms_cancel():
    """Points 500 from the origin and some hundredths apart: |x|^2 - 2xy + |y|^2 is mostly noise."""
    rng = np.random.default_rng(0)
    points = (rng.normal(size=20) * 100 + rng.normal(size=(60, 20)) * 0.01).astype(np.float32)
    gaps = points[:, None].astype(np.float64) - points[None].astype(np.float64)
    true = np.sqrt((gaps**2).sum(2))

    class Cancelling:
        """Computes squared distances by a matrix product, as FAISS may."""

        def range_search(self, some, radius):
            squares = (some**2).sum(1)[:, None] + (points**2).sum(1) - 2 * some @ points.T
            rows, labels = np.nonzero(squares < np.float32(radius))
            limits = np.append(0, np.cumsum(np.bincount(rows, minlength=len(some))))
            return limits.astype(np.uint64), squares[rows, labels], labels

    for threshold in (0.03, 0.05, 0.06):
        rows, labels = within(Cancelling(), points, threshold, "l2")
        found = set(zip(rows.tolist(), labels.tolist(), strict=True))
        assert found >= {(a, b) for a, b in np.argwhere(true <= threshold).tolist()}
