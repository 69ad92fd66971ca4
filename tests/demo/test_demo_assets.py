"""What is shipped: complete, small, and true to its side tables."""

import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_builder import members

ASSETS = Path(__file__).parents[2] / "pipeline" / "demo" / "assets"
PICTURES = ASSETS / "pictures"


@pytest.fixture(scope="module")
def rows():
    return members(PICTURES)


@pytest.fixture(scope="module")
def picture_ids():
    table = pq.read_table(PICTURES / "picture_ids.parquet").to_pylist()
    return {line["key"]: line["picture_id"] for line in table}


def test_size():
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 10_000_000


def test_source_and_licence_are_stated():
    text = (PICTURES / "SOURCE.md").read_text()
    assert "public domain" in " ".join(text.split())
    assert "openclipart" in text


def test_picture_ids_name_exactly_the_rows(rows, picture_ids):
    assert sorted(rows) == sorted(picture_ids)
    natural = sum(n - 1 for n in Counter(picture_ids.values()).values())
    assert 40 <= natural <= 60
    assert len(set(picture_ids.values())) > 1200


def test_no_two_pictures_share_a_caption(rows, picture_ids):
    owners = defaultdict(set)
    for key, row in rows.items():
        owners[row["txt"].decode()].add(picture_ids[key])
    assert {caption: ids for caption, ids in owners.items() if len(ids) > 1} == {}
    assert all(caption == caption.strip().lower() != "" for caption in owners)


def test_pictures_are_apart_and_copies_are_close(rows, picture_ids):
    """RMS at 32 px: copies below 0.05, others above 0.1 (0.04, 0.12 before the JPEG)."""
    keys = sorted(rows)
    small = []
    for key in keys:
        with Image.open(io.BytesIO(rows[key]["jpg"])) as file:
            assert (file.format, file.size) == ("JPEG", (128, 128))
            small.append(np.asarray(file.convert("RGB").reduce(4), dtype=np.float64).ravel() / 255)
    x = np.stack(small)
    squared = (x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T
    rms = np.sqrt(np.maximum(squared, 0) / x.shape[1])
    ids = np.array([picture_ids[key] for key in keys])
    same = ids[:, None] == ids
    assert rms[same].max() < 0.05
    assert rms[~same].min() > 0.1


def test_tables_and_stats_agree_with_the_tars(rows):
    listed = [r for p in sorted(PICTURES.glob("0*.parquet")) for r in pq.read_table(p).to_pylist()]
    ok = {r["key"]: r for r in listed if r["status"] == "success"}
    assert sorted(ok) == sorted(rows)
    assert {r["status"] for r in listed} == {"success", "failed_to_download", "failed_to_resize"}
    assert len({r["uid"] for r in listed}) == len(listed)
    assert all(len(r["uid"]) == 32 and int(r["uid"], 16) >= 0 for r in listed)
    stats = [json.loads(p.read_text()) for p in sorted(PICTURES.glob("*_stats.json"))]
    assert sum(s["successes"] for s in stats) == len(rows)
    for key, row in rows.items():
        assert json.loads(row["json"]) == ok[key]


def test_tokenizer_is_a_clip_tokenizer_that_fits_the_captions(rows):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "tokenizer")
    assert len(tokenizer) == 2000
    assert tokenizer.model_max_length == 16
    captions = sorted({row["txt"].decode() for row in rows.values()})
    encoded = tokenizer(captions, padding="max_length", truncation=True).input_ids
    assert len(set(map(tuple, encoded))) == len(captions)
    assert tokenizer.unk_token_id is not None
    decoded = tokenizer.decode(tokenizer("red apple")["input_ids"], skip_special_tokens=True)
    assert decoded == "red apple"


def test_autoencoder_reconstructs_and_its_latents_have_unit_variance(rows):
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(ASSETS / "vae", torch_dtype=torch.float32)
    weights = ASSETS / "vae" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2_000_000
    pictures = [Image.open(io.BytesIO(rows[key]["jpg"])).reduce(4) for key in sorted(rows)[::5]]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mode()
        error = (vae.decode(latents).sample.clamp(-1, 1) - x) / 2
    assert latents.shape[1:] == (16, 8, 8)
    assert (latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=0.05)
    assert error.square().mean(dim=(1, 2, 3)).sqrt().mean().item() < 0.06
