"""What a picture may be."""

from refused_config import refused


def test_pixels_beyond_pillow_s_own_limit_are_refused():
    assert "scan.max_pixels" in refused({"scan": {"max_pixels": 200_000_000}})
