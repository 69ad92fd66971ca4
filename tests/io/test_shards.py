import io
import json
import tarfile

import pyarrow as pa
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from pipeline.errors import MissingInput, ShardCorrupt, UsageError
from pipeline.io.shards import (
    expand_braces,
    find_shards,
    group_members,
    is_safe_key,
    iterate_samples,
    read_member,
    split_name,
    write_shard,
    write_shard_tables,
)
from pipeline.io.tables import read_foreign
from pipeline.io.tarscan import Member, scan_tar


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(shards):
    return [shard.name for shard in shards]


# Finding them.


def test_a_folder_gives_its_tars_in_order(tmp_path):
    touch(*(tmp_path / f"{i:05d}.tar" for i in (2, 0, 1)), tmp_path / "00000.parquet")
    (tmp_path / "00009.tar").mkdir()
    shards = find_shards([str(tmp_path)])
    assert names(shards) == ["00000", "00001", "00002"]
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert shards[0].metadata == tmp_path / "00000.parquet"
    assert shards[0].stats == tmp_path / "00000_stats.json"


@pytest.mark.parametrize(
    "pattern",
    ["0000{0..2}.tar", "{00000..00002}.tar", "0000{0,1,2}.tar", "*.tar", "0000[0-2].tar", ""],
)
def test_braces_and_globs_name_the_same_shards(tmp_path, pattern):
    touch(*(tmp_path / f"{i:05d}.tar" for i in range(3)))
    assert names(find_shards([str(tmp_path / pattern)])) == ["00000", "00001", "00002"]


def test_braces_expand_as_in_a_shell():
    assert expand_braces("a{08..11}b") == ["a08b", "a09b", "a10b", "a11b"]
    assert expand_braces("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]
    assert expand_braces("{x{0..1},y}") == ["x0", "y", "x1", "y"]
    assert expand_braces("plain") == ["plain"]


@pytest.mark.parametrize("pattern", ["{0..2000000}", "{0..999}{0..999}{0..999}{0..9}"])
def test_braces_have_a_limit(pattern):
    with pytest.raises(UsageError, match="more than 1000000 shards"):
        expand_braces(pattern)


def test_a_gap_in_a_range_is_named(tmp_path):
    touch(tmp_path / "0.tar", tmp_path / "2.tar")
    with pytest.raises(MissingInput, match=r"1\.tar: no such shard"):
        find_shards([str(tmp_path / "{0..2}.tar")])


@pytest.mark.parametrize("pattern", ["nowhere", "*.tar", "x.tar"])
def test_nothing_there(tmp_path, pattern):
    touch(tmp_path / "notes.txt")
    with pytest.raises(MissingInput, match=r"no \.tar file there"):
        find_shards([str(tmp_path / pattern)])


def test_addresses_that_run_commands_are_refused(tmp_path):
    with pytest.raises(UsageError, match="run a command"):
        find_shards([f"pipe:touch {tmp_path}/ran"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["ftp://host/{0..9}.tar", "https://host/0.tar", "hdfs://x"])
def test_remote_addresses_say_so(address):
    with pytest.raises(UsageError, match="not read from there"):
        find_shards([address])


def test_file_addresses_and_brackets_in_names(tmp_path):
    touch(tmp_path / "a[1].tar")
    assert names(find_shards([f"file://{tmp_path}/a[1].tar"])) == ["a[1]"]


def test_a_shard_named_twice_is_one(tmp_path):
    touch(tmp_path / "0.tar")
    assert names(find_shards([str(tmp_path), str(tmp_path / "*.tar")])) == ["0"]


def test_equal_names_in_two_folders_are_told_apart(tmp_path):
    touch(tmp_path / "cats" / "0.tar", tmp_path / "dogs" / "0.tar")
    assert names(find_shards([str(tmp_path / "*" / "0.tar")])) == ["cats-0", "dogs-0"]
    touch(tmp_path / "more" / "cats" / "0.tar")
    with pytest.raises(UsageError, match="rename"):
        find_shards([str(tmp_path / "cats"), str(tmp_path / "more" / "cats")])


def test_links_keep_their_own_name(tmp_path):
    """A hub snapshot is a folder of links to files named by their hash."""
    touch(tmp_path / "blobs" / "abc123", tmp_path / "snapshot" / "00000.parquet")
    (tmp_path / "snapshot" / "00000.tar").symlink_to(tmp_path / "blobs" / "abc123")
    [shard] = find_shards([str(tmp_path / "snapshot")])
    assert shard.name == "00000"
    assert shard.metadata.is_file()


# Names and keys.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00000.jpg", ("00000", "jpg")),
        ("a/b.c/000.JPG", ("a/b.c/000", "jpg")),
        ("v1.0_img.jpg", ("v1", "0_img.jpg")),
        ("../../x.jpg", ("../../x", "jpg")),
        ("./000.txt", ("./000", "txt")),
        ("x.seg.png", ("x", "seg.png")),
        ("no_extension", None),
        ("dot.", None),
        (".hidden.jpg", None),
        ("a/._0.jpg", None),
        ("0.__key__", None),
        ("0.__url__", None),
        ("folder.x/file", None),
        ("", None),
    ],
)
def test_names_are_split_at_the_first_dot_of_the_last_part(name, expected):
    assert split_name(name) == expected


@settings(max_examples=500, derandomize=True)
@given(st.text("ab./_", max_size=12))
def test_names_are_split_as_webdataset_splits_them(name):
    ours = split_name(name)
    key, extension = base_plus_ext(name)
    if ours is not None:
        assert ours == (key, extension.lower())
    elif key is not None:  # what is left out, and why
        hidden = "/" in key and key.rpartition("/")[2] == ""
        assert hidden or extension == "" or extension.startswith("_")


@pytest.mark.parametrize("key", ["00000", "a/b-c_d.e", "./0", "x" * 200])
def test_safe_keys(key):
    assert is_safe_key(key)


@pytest.mark.parametrize(
    "key",
    ["../../x", "/abs", "a/../b", "..", "", "é", "a b", "a\nb", "x" * 201, "__key", "a\\b", "a\0"],
)
def test_unsafe_keys(key):
    assert not is_safe_key(key)


# Samples.


def member(name, regular=True):
    return Member(name, 0, 1, regular)


def grouped(*members):
    samples, strays = group_members([m if isinstance(m, Member) else member(m) for m in members])
    flags = {k: (sorted(s.members), s.adjacent, s.repeated) for k, s in samples.items()}
    return flags, [stray.name for stray in strays]


def test_members_of_a_key_are_one_sample():
    flags, strays = grouped("0.jpg", "0.txt", "1.jpg")
    assert flags == {"0": (["jpg", "txt"], True, False), "1": (["jpg"], True, False)}
    assert strays == []


def test_members_apart_from_each_other_are_marked():
    """webdataset would give two half samples."""
    flags, _ = grouped("0.jpg", "1.jpg", "0.txt", "1.txt")
    assert {key: adjacent for key, (_, adjacent, _) in flags.items()} == {"0": False, "1": False}


def test_repeated_members_are_marked_whatever_their_case():
    flags, _ = grouped("0.jpg", "0.JPG", "1.jpg")
    assert {key: repeated for key, (_, _, repeated) in flags.items()} == {"0": True, "1": False}


def test_strays_are_named_and_do_not_part_a_sample():
    flags, strays = grouped(
        "0.jpg", member("0.lnk", regular=False), "README", ".DS_Store", "0._x", "0.txt"
    )
    assert flags == {"0": (["jpg", "txt"], True, False)}
    assert strays == ["0.lnk", "README", ".DS_Store", "0._x"]


SAMPLES = [
    {"__key__": f"{i:05d}", "jpg": bytes([i]) * (i * 300), "txt": b"caption", "json": b"{}"}
    for i in range(9)
]


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "00000.tar", SAMPLES)
    return tmp_path / "00000.tar"


def test_a_written_shard_passes_the_scan_and_reads_back(shard):
    scan = scan_tar(shard).require_sound(shard)
    assert scan.end_marked
    samples, strays = group_members(scan.members)
    assert strays == []
    with shard.open("rb") as handle:
        for sample in SAMPLES:
            found = samples[sample["__key__"]].members
            content = {x: read_member(handle, m.offset, m.size) for x, m in found.items()}
            assert content == {x: value for x, value in sample.items() if x != "__key__"}


def test_webdataset_agrees_on_well_formed_shards(shard):
    theirs = list(wds.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    ours = list(iterate_samples(shard, {sample["__key__"] for sample in SAMPLES}))
    for expected, one, other in zip(SAMPLES, ours, theirs, strict=True):
        for name, value in expected.items():
            assert one[name] == other[name] == value


def test_the_same_samples_are_the_same_bytes(shard, tmp_path):
    again = tmp_path / "again.tar"
    write_shard(again, [dict(reversed(sample.items())) for sample in SAMPLES])
    assert again.read_bytes() == shard.read_bytes()


def test_long_keys_survive(tmp_path):
    key = "folder/" * 20 + "x" * 60
    write_shard(tmp_path / "x.tar", [{"__key__": key, "jpg": b"1"}])
    assert scan_tar(tmp_path / "x.tar").members[0].name == f"{key}.jpg"
    assert [sample["__key__"] for sample in iterate_samples(tmp_path / "x.tar", {key})] == [key]


def test_only_the_keys_asked_for(shard):
    found = [sample["__key__"] for sample in iterate_samples(shard, {"00003", "00007", "nowhere"})]
    assert found == ["00003", "00007"]


def raw_tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_neighbour_that_is_left_out_does_not_disturb(tmp_path):
    path = raw_tar(
        tmp_path / "x.tar",
        ("0.jpg", b"0"),
        ("0.__key__", b"forged"),
        ("../../evil.jpg", b"e"),
        ("0.txt", b"t"),
        ("1.jpg", b"1"),
    )
    found = list(iterate_samples(path, {"0", "1"}))
    assert [(s["__key__"], s["jpg"], s.get("txt")) for s in found] == [
        ("0", b"0", b"t"),
        ("1", b"1", None),
    ]


@pytest.mark.parametrize("damage", ["repeated", "not a tar", "cut"])
def test_a_shard_that_is_not_what_was_scanned(tmp_path, damage):
    path = raw_tar(tmp_path / "x.tar", ("0.jpg", b"0" * 5000), ("0.jpg", b"1"))
    if damage != "repeated":
        data = path.read_bytes()
        path.write_bytes(b"x" * 2000 if damage == "not a tar" else data[:3000])
    with pytest.raises(ShardCorrupt, match=r"x\.tar: not as it was scanned"):
        list(iterate_samples(path, {"0"}))


def test_a_picture_that_could_be_a_pickle_is_only_bytes(tmp_path):
    path = raw_tar(tmp_path / "x.tar", ("0.pyd", b"cos\nsystem\n(S'false'\ntR."))
    assert next(iter(iterate_samples(path, {"0"})))["pyd"].startswith(b"cos")


def test_a_member_beyond_the_end():
    with pytest.raises(ShardCorrupt, match="byte 2: 5 bytes expected, 1 found"):
        read_member(io.BytesIO(b"abc"), 2, 5)


def test_tables_lie_beside_the_tar(shard):
    write_shard_tables(shard, pa.table({"key": ["00000"]}), {"successes": 9, "count": 9})
    assert read_foreign(shard.with_suffix(".parquet"))["key"].to_pylist() == ["00000"]
    stats = shard.with_name("00000_stats.json").read_text()
    assert json.loads(stats) == {"successes": 9, "count": 9}
