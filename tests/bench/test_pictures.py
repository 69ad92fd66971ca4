import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.calibration.edits import EDITS
from pipeline.io.shards import find_shards, group_members, read_member
from pipeline.io.tarscan import scan_tar
from tests.bench.pictures import _backgrounds, edited_set, read_pictures


def noise(seed: int, size: tuple[int, int] = (48, 32)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures() -> dict[str, bytes]:
    return {f"{seed}": noise(seed) for seed in range(6)}


def test_shards_hold_the_bytes_of_the_files(pictures: dict[str, bytes], tmp_path: Path) -> None:
    got = edited_set(pictures, 4, 3, tmp_path)
    assert len(got.names) == 4 + 3 * len(EDITS) == len(list(got.files.iterdir()))
    seen = []
    for shard in find_shards([str(got.shards)]):
        samples, _ = group_members(scan_tar(shard.path).members)
        with shard.path.open("rb") as handle:
            members = [sample.members["jpg"] for sample in samples.values()]
            seen += [read_member(handle, m.offset, m.size) for m in members]
    assert seen == [(got.files / name).read_bytes() for name in got.names]
    assert sorted(set(got.keys)) == sorted(got.keys)
    assert got.row_of("file:///00007.jpg") == 7


def test_the_exact_edit_has_the_bytes_of_the_original(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    got = edited_set(pictures, 4, 2, tmp_path)
    for number in range(2):
        mine = got.original == number
        rows = [np.flatnonzero(mine & (got.edit == e)).item() for e in ("original", "exact")]
        one, two = ((got.files / got.names[row]).read_bytes() for row in rows)
        assert one == two


def test_the_set_does_not_depend_on_the_order_of_pictures(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    one = edited_set(pictures, 4, 2, tmp_path / "a")
    two = edited_set(dict(reversed(pictures.items())), 4, 2, tmp_path / "b")
    assert one.keys == two.keys
    assert [path.read_bytes() for path in sorted(one.files.iterdir())] == [
        path.read_bytes() for path in sorted(two.files.iterdir())
    ]


def test_too_few_backgrounds_are_refused(pictures: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 pictures: 5 distinct ones and at least 2"):
        edited_set(pictures, 5, 3, tmp_path)


def test_halves_of_a_background_share_no_pixel() -> None:
    got = list(_backgrounds([noise(0), noise(1)], 3))
    assert [picture.size for picture in got] == [(48, 32), (24, 32), (24, 32)]
    whole = Image.open(io.BytesIO(noise(1)))
    joined = np.concatenate([np.asarray(picture) for picture in got[1:]], axis=1)
    assert np.array_equal(joined, np.asarray(whole))


def test_pictures_of_files_and_tars(pictures: dict[str, bytes], tmp_path: Path) -> None:
    got = edited_set(pictures, 4, 2, tmp_path)
    assert sorted(read_pictures(got.files)) == got.names
    tars = read_pictures(got.shards)
    assert sorted(tars.values()) == sorted(read_pictures(got.files).values())
    assert min(tars) == "00000/000000000"
