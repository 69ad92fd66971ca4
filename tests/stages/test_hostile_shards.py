"""Bad input: a counted, reasoned rejection for every row, and nothing lost."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture

from pipeline.config import make_config
from pipeline.errors import MissingInput, PartFailed
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress


def _scan(shards: Path, out: Path, **scan):
    config = make_config({"dataset": {"shards": [str(shards)]}, "scan": scan})
    progress = SilentProgress()
    summary = run_job(Job(config, out, DEDUP[:5]), progress)
    rows = [
        row for p in sorted((out / "images").glob("part-*")) for row in pq.read_table(p).to_pylist()
    ]
    return summary, {row["key"]: row for row in rows}, progress.notes


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that decodes to width x height black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" + bytes((width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _good(folder: Path, name: str = "00000", n: int = 6) -> ShardBuilder:
    builder = ShardBuilder(folder / f"{name}.tar")
    for i in range(n):
        builder.add(f"{name}{i}", jpeg(picture(i)), f"picture {i}")
    return builder


def test_each_bad_picture_has_its_reason(tmp_path):
    builder = _good(tmp_path)
    whole = jpeg(picture(20))
    builder.add("bomb", bomb(14_000, 14_000), "a bomb", extension="png")
    builder.add("half", whole[: len(whole) // 2], "half a JPEG")
    builder.add("text", b"not a picture at all", "text named jpg")
    builder.add("empty", b"", "no bytes")
    gif = io.BytesIO()
    picture(21).save(gif, "GIF")
    builder.add("gif", gif.getvalue(), "a GIF named jpg")
    builder.rows.append({"key": "lost", "status": "success", "caption": "in the Parquet only"})
    builder.write()
    summary, rows, _ = _scan(tmp_path, tmp_path / "run")
    assert summary.rows["scan"] == (12, 6)
    assert {key: row["reason"] for key, row in rows.items() if row["reason"]} == {
        "bomb": "too_many_pixels",
        "half": "truncated",
        "text": "not_an_image",
        "empty": "empty",
        "gif": "format",
        "lost": "missing_in_tar",
    }
    assert summary.exit_code(0.05) == 2


def test_bad_names_never_leave_the_folder(tmp_path):
    builder = _good(tmp_path)
    data = jpeg(picture(30))
    names = ["../../x.jpg", "/abs.jpg", "a b.jpg", "noextension", "v1.0_img.jpg"]
    builder.members += [(name, data) for name in names]
    builder.write()
    summary, rows, _ = _scan(tmp_path, tmp_path / "run")
    reasons = {key: row["reason"] for key, row in rows.items() if row["reason"]}
    assert reasons["../../x"] == reasons["a b"] == "bad_key"
    assert reasons["noextension"] == "irregular_member"
    assert reasons["v1"] == "no_picture"
    assert summary.rows["scan"] == (11, 6)
    assert not (tmp_path.parent / "x.jpg").exists()


def test_split_samples_and_repeated_members(tmp_path):
    builder = _good(tmp_path, n=2)
    builder.members.append(("00000" + "0.webp", b"far from its sample"))
    builder.members += [("twice.jpg", jpeg(picture(8))), ("twice.jpg", jpeg(picture(9)))]
    builder.write()
    _, rows, _ = _scan(tmp_path, tmp_path / "run")
    assert rows["000000"]["reason"] == "not_adjacent"
    assert rows["twice"]["reason"] == "repeated_member"
    assert rows["000001"]["status"] == "ok"


def test_links_are_counted_and_not_followed(tmp_path):
    path = _good(tmp_path, n=2).write()
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    _, rows, _ = _scan(tmp_path, tmp_path / "run")
    assert rows["link.jpg"]["reason"] == "irregular_member"


@pytest.mark.parametrize("damage", ["cut", "flip", "hole", "empty"])
def test_a_damaged_shard_is_named_and_the_others_go_on(tmp_path, damage):
    shards = tmp_path / "shards"
    path = _good(shards, "00000").write()
    _good(shards, "00001").write()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2 + 100]
    elif damage == "flip":
        second = 512 + 512 * -(-len(jpeg(picture(0))) // 512)
        data[second + 3] ^= 0x40
    elif damage == "hole":
        second = 512 + 512 * -(-len(jpeg(picture(0))) // 512)
        data[second : second + 2048] = bytes(2048)
    else:
        data = bytearray()
    path.write_bytes(bytes(data))
    summary, rows, notes = _scan(shards, tmp_path / "run")
    assert summary.rows["scan"] == (12, 6)
    assert summary.rejected["scan"] == {"shard_corrupt": 6}
    assert all("byte " in rows[f"00000{i}"]["detail"] for i in range(6))
    assert any("00000.tar is damaged at byte" in note for note in notes)


def test_damaged_shard_can_stop_the_run(tmp_path):
    path = _good(tmp_path).write()
    path.write_bytes(path.read_bytes()[:1000])
    config = make_config({"dataset": {"shards": [str(tmp_path)]}, "scan": {"damaged": "fail"}})
    job = Job(config, tmp_path / "run", DEDUP[:3])
    progress = SilentProgress()
    with pytest.raises(PartFailed, match=r"scan/00000 failed \(1 in all\)") as failed:
        run_job(job, progress)
    assert failed.value.exit_code == 3
    assert any("byte" in note and "fetch the shard again" in note for note in progress.notes)


def test_damaged_metadata_rejects_the_shard(tmp_path):
    path = _good(tmp_path).write()
    table = path.with_suffix(".parquet")
    table.write_bytes(table.read_bytes()[:-20])
    summary, _rows, _ = _scan(tmp_path, tmp_path / "run")
    assert summary.rejected["scan"] == {"metadata_corrupt": 6}


def test_missing_folder(tmp_path):
    with pytest.raises(MissingInput, match=r"no \.tar file there"):
        _scan(tmp_path / "nowhere", tmp_path / "run")


def test_without_parquet_captions_come_from_the_tar(tmp_path):
    _good(tmp_path).write(metadata=False)
    _, rows, _ = _scan(tmp_path, tmp_path / "run")
    assert rows["000003"]["caption"] == "picture 3"


def test_hostile_captions_pass_as_text(tmp_path):
    builder = _good(tmp_path, n=1)
    caption = "<script>alert(1)</script>\x1b[31m\u202e{{7*7}} e\u0301"
    builder.add("evil", jpeg(picture(9)), caption)
    builder.write()
    _, rows, _ = _scan(tmp_path, tmp_path / "run")
    assert rows["evil"]["caption"] == caption.replace("e\u0301", "\u00e9")
