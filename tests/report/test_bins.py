import pytest

from pipeline.report.bins import bin_label, bin_labels


@pytest.mark.parametrize(
    ("copies", "label"),
    [
        (0, "0"), (1, "1"), (2, "2"), (3, "3-4"), (4, "3-4"), (5, "5-8"), (8, "5-8"),
        (9, "9-16"), (16, "9-16"), (17, "17-32"), (33, "33-64"), (64, "33-64"), (65, "65+"),
        (10**9, "65+"),
    ],
)  # fmt: skip
def test_bins_double(copies: int, label: str) -> None:
    assert bin_label(copies) == label


def test_bins_are_in_order_of_copies() -> None:
    present = {bin_label(k) for k in (100, 1, 40, 3, 2, 12)}
    assert bin_labels(present) == ["1", "2", "3-4", "9-16", "33-64", "65+"]
