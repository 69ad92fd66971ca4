"""Each edit does what its name says, and nothing to the picture it was given."""

import numpy as np
import pytest
from PIL import Image
from sample_pictures import picture

from pipeline.calibration.edits import EDITS

WIDTH, HEIGHT = 240, 180
ORIGINAL = picture(1, WIDTH, HEIGHT)
OTHER = picture(2, 300, 150)


def edited(name: str, seed: int = 0, original: Image.Image = ORIGINAL) -> Image.Image:
    return EDITS[name](original, np.random.default_rng(seed), OTHER)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def test_there_are_sixteen():
    assert len(EDITS) == 16


@pytest.mark.parametrize("name", EDITS)
def test_equal_seeds_give_equal_pixels_and_the_original_stays(name):
    before, background = ORIGINAL.tobytes(), OTHER.tobytes()
    first, second = edited(name, 3), edited(name, 3)
    assert (first.size, first.mode) == (second.size, "RGB")
    assert first.tobytes() == second.tobytes()
    assert (ORIGINAL.tobytes(), OTHER.tobytes()) == (before, background)


@pytest.mark.parametrize("name", sorted(set(EDITS) - {"exact"}))
def test_every_other_edit_changes_the_picture(name):
    result = edited(name)
    assert result.size != ORIGINAL.size or result.tobytes() != ORIGINAL.tobytes()


@pytest.mark.parametrize("name", ["crop10", "crop30", "crop50", "rot5", "text", "overlay"])
def test_chance_matters_where_there_is_any(name):
    assert len({edited(name, seed).tobytes() for seed in range(6)}) > 1


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2)])
def test_odd_shapes(name, size):
    result = edited(name, original=picture(0).resize(size))
    assert min(result.size) >= 1


def test_exact_is_the_picture():
    assert edited("exact").tobytes() == ORIGINAL.tobytes()
    assert edited("exact") is not ORIGINAL


def test_stronger_compression_is_farther_away():
    gap = {q: np.abs(pixels(edited(q)) - pixels(ORIGINAL)).mean() for q in ("jpeg30", "jpeg10")}
    assert 0 < gap["jpeg30"] < gap["jpeg10"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("resize50", (120, 90)), ("aspect", (240, 135)), ("pad", (298, 224)), ("overlay", OTHER.size)],
)
def test_sizes(name, size):
    assert edited(name).size == size


@pytest.mark.parametrize(("name", "removed"), [("crop10", 0.1), ("crop30", 0.3), ("crop50", 0.5)])
def test_a_crop_is_a_window_with_the_share_of_the_area_removed(name, removed):
    window = edited(name, 5)
    assert window.width * window.height == pytest.approx((1 - removed) * WIDTH * HEIGHT, rel=0.02)
    assert window.width / window.height == pytest.approx(WIDTH / HEIGHT, rel=0.02)
    original, found = pixels(ORIGINAL), pixels(window)
    places = [
        (top, left)
        for top in range(HEIGHT - window.height + 1)
        for left in range(WIDTH - window.width + 1)
        if np.array_equal(original[top, left], found[0, 0])
    ]
    assert any(
        np.array_equal(original[t : t + window.height, s : s + window.width], found)
        for t, s in places
    )


def test_mirrored_is_the_columns_in_reverse():
    assert np.array_equal(pixels(edited("hflip")), pixels(ORIGINAL)[:, ::-1])


def test_rotated_keeps_the_middle_and_blackens_corners():
    result = edited("rot5")
    assert result.size == ORIGINAL.size
    assert not pixels(result)[0, 0].any() or not pixels(result)[-1, 0].any()
    undone = min(
        np.abs(pixels(result.rotate(turn, 3)) - pixels(ORIGINAL))[60:120, 80:160].mean()
        for turn in (5, -5)
    )
    assert undone < np.abs(pixels(result) - pixels(ORIGINAL))[60:120, 80:160].mean()


def test_brighter_multiplies_and_clips():
    assert np.abs(pixels(edited("bright")) - (1.4 * pixels(ORIGINAL)).clip(0, 255)).max() <= 1


def test_gray_has_equal_channels_of_the_luminance():
    result = pixels(edited("gray"))
    assert np.ptp(result, axis=2).max() == 0
    assert np.abs(result[..., 0] - pixels(ORIGINAL) @ [0.299, 0.587, 0.114]).max() < 1


def test_blur_has_the_sigma_of_its_size():
    """A step edge blurred with sigma s has the slope of the Gaussian there: 1 / (s sqrt(2 pi))."""
    step = Image.new("RGB", (512, 512))
    step.paste((255, 255, 255), (256, 0, 512, 512))
    profile = pixels(edited("blur", original=step))[256, :, 0] / 255
    assert np.diff(profile).max() == pytest.approx(1 / (3 * np.sqrt(2 * np.pi)), rel=0.1)
    small = step.resize((128, 128))
    steeper = pixels(edited("blur", original=small))[64, :, 0] / 255
    assert np.diff(steeper).max() > 3 * np.diff(profile).max()


def test_text_is_white_near_top_and_bottom_and_nowhere_else():
    blue = Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 200))
    changed = (pixels(edited("text", original=blue)) != pixels(blue)).any(axis=2)
    assert changed[: HEIGHT // 4].any() and changed[-HEIGHT // 4 :].any()
    assert not changed[HEIGHT // 4 : -HEIGHT // 4].any()
    white = (pixels(edited("text", original=blue)) == 255).all(axis=2)
    assert 0.01 < white.mean() < 0.25


def test_padded_is_the_picture_inside_black():
    result = pixels(edited("pad"))
    assert np.array_equal(result[22:-22, 29:-29], pixels(ORIGINAL))
    assert not result[:22].any() and not result[:, -29:].any()


def test_an_overlay_covers_part_of_the_other_picture_only():
    same = (pixels(edited("overlay", 4)) == pixels(OTHER)).all(axis=2)
    assert 0.55 < same.mean() < 0.85  # 0.6 of the height and so 0.4 of the width lie under it
    rows, columns = np.flatnonzero(~same.all(axis=1)), np.flatnonzero(~same.all(axis=0))
    assert abs(np.ptp(rows) + 1 - 90) <= 4 and abs(np.ptp(columns) + 1 - 120) <= 4
