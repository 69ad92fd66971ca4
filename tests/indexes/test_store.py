import hashlib
import json
from pathlib import Path

import faiss
import numpy as np
import pytest

import indexes
from indexes.errors import IndexCorrupt

KINDS = [("cosine", "Flat"), ("l2", "IVF8,Flat"), ("cosine", "IVF8,SQ8"), ("hamming", None)]


@pytest.fixture
def built(clusters, codes, some_ids):
    def make(metric, factory, n=600):
        vectors = codes(n) if metric == "hamming" else clusters(n, 24)
        vectors[50:100] = vectors[50]
        index = indexes.build(
            vectors, some_ids(n), metric=metric, factory=factory, fingerprint="encoder-1"
        )
        return index, vectors

    return make


def rewrite(folder, **changes):
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | changes))


def resign(folder):
    """What an attacker does who can also write index.json."""
    rewrite(folder, sha256=hashlib.sha256((folder / "index.faiss").read_bytes()).hexdigest())


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_what_was_saved_is_loaded(metric, factory, built, tmp_path):
    index, vectors = built(metric, factory)
    indexes.save(index, tmp_path / "index")
    loaded = indexes.load(tmp_path / "index", fingerprint="encoder-1")
    for key in ("metric", "factory", "fingerprint", "d", "ntotal", "nprobe"):
        assert getattr(loaded, key) == getattr(index, key)
    assert np.array_equal(loaded.ids, index.ids)
    assert np.array_equal(loaded.vectors(loaded.ids[:9]), index.vectors(index.ids[:9]))
    for a, b in zip(loaded.search(vectors[:80], 7), index.search(vectors[:80], 7), strict=True):
        assert np.array_equal(a, b)
    allowed = index.ids[::3]
    _, found = loaded.search(vectors[:80], 2, allowed=allowed)
    assert np.isin(found, np.append(allowed, -1)).all()


@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_bytes_are_the_same_each_time(metric, factory, built, tmp_path):
    for name in ("a", "b"):
        indexes.save(built(metric, factory)[0], tmp_path / name)
    for file in ("index.faiss", "index.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["index.faiss", "index.json"]


def test_index_json_says_what_the_index_is(built, tmp_path):
    indexes.save(built("l2", "IVF8,Flat")[0], tmp_path)
    assert json.loads((tmp_path / "index.json").read_text()) == {
        "factory": "IVF8,Flat",
        "d": 24,
        "metric": "l2",
        "ntotal": 600,
        "nprobe": 8,
        "fingerprint": "encoder-1",
        "sha256": hashlib.sha256((tmp_path / "index.faiss").read_bytes()).hexdigest(),
        "faiss_version": faiss.__version__,
    }


@pytest.mark.parametrize("place", [0.02, 0.3, 0.5, 0.8, 0.999])
@pytest.mark.parametrize(("metric", "factory"), KINDS)
def test_one_flipped_bit_is_refused(metric, factory, place, built, tmp_path):
    indexes.save(built(metric, factory)[0], tmp_path)
    content = bytearray((tmp_path / "index.faiss").read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "index.faiss").write_bytes(content)
    with pytest.raises(IndexCorrupt, match="sha256"):
        indexes.load(tmp_path)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("length", [0, 3, 100, 20_000])
def test_a_cut_file_is_refused(length, signed, built, tmp_path):
    indexes.save(built("cosine", "IVF8,Flat")[0], tmp_path)
    content = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").write_bytes(content[:length])
    if signed:
        resign(tmp_path)
    with pytest.raises(IndexCorrupt):
        indexes.load(tmp_path)


def test_garbage_vectors_that_carry_a_valid_sha256_are_refused(built, tmp_path):
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    content = bytearray((tmp_path / "index.faiss").read_bytes())
    middle = len(content) // 2
    content[middle - 8192 : middle + 8192] = np.random.default_rng(0).bytes(16384)
    (tmp_path / "index.faiss").write_bytes(content)
    resign(tmp_path)
    with pytest.raises(IndexCorrupt):
        indexes.load(tmp_path)


def test_vectors_in_the_wrong_lists_are_refused(built, tmp_path):
    """All of it well-formed, the centroids of another data set: hardly a row finds itself."""
    index, _ = built("l2", "IVF8,Flat")
    inner = indexes.nearest.inner_index(index.faiss_index)
    centroids = faiss.downcast_index(inner.quantizer)
    moved = np.random.default_rng(5).normal(size=(8, 24)).astype(np.float32)
    faiss.copy_array_to_vector(moved.view(np.uint8).ravel(), centroids.codes)
    inner.nprobe = 1
    indexes.save(index, tmp_path)
    with pytest.raises(IndexCorrupt, match="find themselves"):
        indexes.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ntotal", 601, "ntotal is 600"),
        ("d", 25, "d is 24"),
        ("metric", "cosine", "not made for the metric"),
        ("metric", "hamming", "build the index again"),
        ("metric", "dot", "metric is 'dot'"),
        ("nprobe", 3, "nprobe is 8"),
        ("nprobe", None, "nprobe is 8"),
        ("ntotal", "600", "ntotal is '600'"),
        ("ntotal", True, "ntotal is True"),
        ("sha256", "0" * 64, "sha256"),
        ("fingerprint", None, "fingerprint is None"),
    ],
)
def test_an_index_json_that_tells_otherwise_is_refused(key, value, said, built, tmp_path):
    indexes.save(built("l2", "IVF8,Flat")[0], tmp_path)
    rewrite(tmp_path, **{key: value})
    with pytest.raises(IndexCorrupt, match=said):
        indexes.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", "[" * 40_000, "\xff\xfe", " " * 99_999]
)
def test_an_index_json_that_is_none_is_refused(text, built, tmp_path):
    indexes.save(built("l2", "Flat")[0], tmp_path)
    (tmp_path / "index.json").write_text(text, encoding="latin-1")
    with pytest.raises(IndexCorrupt, match=r"index\.json"):
        indexes.load(tmp_path)


def test_swapped_descriptions_are_refused(built, tmp_path):
    for name, seed_factory in (("a", "Flat"), ("b", "IVF8,Flat")):
        indexes.save(built("l2", seed_factory)[0], tmp_path / name)
    (tmp_path / "b" / "index.json").replace(tmp_path / "a" / "index.json")
    with pytest.raises(IndexCorrupt, match="sha256"):
        indexes.load(tmp_path / "a")
    with pytest.raises(IndexCorrupt, match="not there"):
        indexes.load(tmp_path / "b")


def test_another_encoder_is_refused(built, tmp_path):
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    with pytest.raises(IndexCorrupt, match="'encoder-1', expected 'encoder-2'"):
        indexes.load(tmp_path, fingerprint="encoder-2")


@pytest.mark.parametrize("kind", ["HNSW8", "Flat"])
def test_another_kind_of_index_is_refused(kind, built, clusters, tmp_path):
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    other = faiss.index_factory(24, kind, faiss.METRIC_INNER_PRODUCT)
    if kind == "HNSW8":
        other = faiss.IndexIDMap2(other)
        other.add_with_ids(clusters(600, 24), np.arange(600))
    faiss.write_index(other, str(tmp_path / "index.faiss"))
    resign(tmp_path)
    with pytest.raises(IndexCorrupt, match="expected"):
        indexes.load(tmp_path)


def test_ids_that_repeat_are_refused(built, clusters, tmp_path):
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    double = faiss.IndexIDMap2(faiss.IndexFlatIP(24))
    double.add_with_ids(clusters(600, 24), np.repeat(np.arange(300), 2))
    faiss.write_index(double, str(tmp_path / "index.faiss"))
    resign(tmp_path)
    with pytest.raises(IndexCorrupt, match="one each"):
        indexes.load(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_stored_vectors_that_are_none_are_refused(bad, built, clusters, some_ids, tmp_path):
    """Written by another program, which did not check what it added."""
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    vectors = clusters(600, 24)
    vectors[3] = bad
    stranger = faiss.IndexIDMap2(faiss.IndexFlatIP(24))
    stranger.add_with_ids(vectors, np.sort(some_ids(600)))
    faiss.write_index(stranger, str(tmp_path / "index.faiss"))
    resign(tmp_path)
    with pytest.raises(IndexCorrupt, match="stored vectors"):
        indexes.load(tmp_path)


def test_the_limits_of_faiss_are_as_before(built, tmp_path):
    indexes.save(built("cosine", "Flat")[0], tmp_path)
    before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    indexes.load(tmp_path)
    after = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    assert after == before


def test_a_length_field_cannot_ask_for_the_whole_memory(built, tmp_path):
    index, _ = built("cosine", "Flat")
    indexes.save(index, tmp_path)
    content = bytearray((tmp_path / "index.faiss").read_bytes())
    count = (600 * 24).to_bytes(8, "little")
    at = content.index(count)
    content[at : at + 8] = (2**36).to_bytes(8, "little")
    (tmp_path / "index.faiss").write_bytes(content)
    resign(tmp_path)
    with pytest.raises(IndexCorrupt, match="limit"):
        indexes.load(tmp_path)


def test_a_failed_save_leaves_the_old_index_and_no_rubbish(built, tmp_path, monkeypatch):
    old, _ = built("cosine", "Flat")
    indexes.save(old, tmp_path)

    def full(index, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("write error: No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OSError, match="No space left"):
        indexes.save(built("cosine", "Flat", n=100)[0], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert indexes.load(tmp_path).ntotal == 600


def test_an_empty_index_goes_to_disk_and_back(tmp_path):
    nothing = indexes.build(np.zeros((0, 8), np.float32), np.zeros(0, np.int64), metric="l2")
    indexes.save(nothing, tmp_path)
    assert indexes.load(tmp_path).ntotal == 0


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "IVF8,Flat"])
def test_damage_that_carries_a_valid_sha256_is_never_another_error(factory, built, tmp_path):
    """Whatever FAISS makes of it: an index that works, or IndexCorrupt."""
    index, vectors = built("cosine", factory)
    indexes.save(index, tmp_path)
    whole = (tmp_path / "index.faiss").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for at in (rng.integers(0, len(whole)), rng.integers(0, rng.choice([300, len(whole)]))):
            content[at] ^= 1 << rng.integers(0, 8)
        (tmp_path / "index.faiss").write_bytes(content)
        resign(tmp_path)
        try:
            indexes.load(tmp_path).search(vectors[:2], 1)
        except IndexCorrupt:
            refused += 1
    assert refused > 10
