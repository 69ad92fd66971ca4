import hashlib
import os

import pytest

from pipeline.io.digest import DigestCache, canonical_sha256, files_under, sha256_file


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_beyond_one_block(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha(data)


def test_a_folder_depends_on_names_and_bytes_and_not_on_their_making(tmp_path):
    def folder(name, files):
        for file, content in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return sha256_file(tmp_path / name)

    base = folder("base", [("a", b"1"), ("in/b", b"2")])
    assert folder("same", [("in/b", b"2"), ("a", b"1")]) == base
    assert folder("content", [("a", b"1"), ("in/b", b"3")]) != base
    assert folder("renamed", [("a", b"1"), ("in/c", b"2")]) != base
    assert folder("moved", [("a", b"1"), ("b", b"2")]) != base
    assert folder("more", [("a", b"1"), ("in/b", b"2"), ("c", b"")]) != base


def test_a_folder_with_linked_components_changes_with_them(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights").write_bytes(b"first")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "unet").symlink_to(tmp_path / "unet")
    before = sha256_file(tmp_path / "model")
    (tmp_path / "unet" / "weights").write_bytes(b"other")
    assert sha256_file(tmp_path / "model") != before
    assert [path.name for path in files_under(tmp_path / "model")] == ["weights"]


def test_names_that_are_not_unicode(tmp_path):
    (tmp_path / "folder").mkdir()
    with open(os.fsencode(tmp_path / "folder") + b"/\xff", "wb") as handle:  # noqa: PTH123
        handle.write(b"x")
    assert len(sha256_file(tmp_path / "folder")) == 64


def test_canonical_json_ignores_order_and_refuses_nan():
    assert canonical_sha256({"b": [1, 2.5], "a": None}) == sha(b'{"a":null,"b":[1,2.5]}')
    assert canonical_sha256([1, 2]) != canonical_sha256([2, 1])
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_sha256({"threshold": float("nan")})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def cached(tmp_path, file):
    cache = DigestCache(tmp_path / "digests.json")
    assert cache.sha256(file) == sha(b"content")
    cache.save()
    return tmp_path / "digests.json"


def forge(path, content):
    """Other bytes of the same length in the same inode, with the times of before."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_unchanged_file_is_not_read_again(cached, file, monkeypatch):
    monkeypatch.setattr("pipeline.io.digest.sha256_file", lambda path: pytest.fail(f"read {path}"))
    assert DigestCache(cached).sha256(file) == sha(b"content")


def test_a_changed_file_is(cached, file):
    file.write_bytes(b"CONTENT, longer")
    assert DigestCache(cached).sha256(file) == sha(b"CONTENT, longer")


def test_a_touched_file_is_read_and_is_the_same(cached, file):
    os.utime(file, ns=(1, 1))
    assert DigestCache(cached).sha256(file) == sha(b"content")


def test_a_replaced_file_of_the_same_size_and_time_is_read(cached, file):
    times = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"tnetnoc")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert DigestCache(cached).sha256(file) == sha(b"tnetnoc")


def test_only_verify_finds_bytes_changed_in_place_under_old_times(cached, file):
    forge(file, b"tnetnoc")
    assert DigestCache(cached).sha256(file) == sha(b"content")  # the shortcut's stated limit
    assert DigestCache(cached, verify=True).sha256(file) == sha(b"tnetnoc")


def test_verify_reads_each_file_once(cached, file, monkeypatch):
    reads = []
    real = sha256_file
    monkeypatch.setattr(
        "pipeline.io.digest.sha256_file", lambda path: reads.append(path) or real(path)
    )
    cache = DigestCache(cached, verify=True)
    cache.sha256(file)
    cache.sha256(file)
    assert reads == [file]


def test_a_file_in_a_folder_that_changes(tmp_path, file):
    cache = DigestCache(tmp_path / "elsewhere.json")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    before = cache.sha256(folder)
    assert cache.sha256(folder) == before
    (folder / "b").write_bytes(b"2")
    assert cache.sha256(folder) == sha256_file(folder) != before


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "null", '{"x": 3}', '{"FILE": [1]}', '{"FILE": ["a"]}']
)
def test_a_cache_that_cannot_be_read_is_a_miss(tmp_path, file, text):
    cache = tmp_path / "digests.json"
    cache.write_text(text.replace("FILE", str(file)))
    assert DigestCache(cache).sha256(file) == sha(b"content")
