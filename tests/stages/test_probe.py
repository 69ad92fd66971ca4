"""Every probe on a tiny model: its rows, its cost, and what is said where it cannot be asked."""

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.config import make_config
from pipeline.detection.one_step_edges import edge_score
from pipeline.detection.probe_detectors import PROBE_DETECTORS
from pipeline.errors import ConfigError
from pipeline.generation import backend
from pipeline.generation.backend import fresh_model
from pipeline.generation.one_step import one_step_pictures
from pipeline.generation.seeds import image_seed
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.runfolder import PROBES, PROMPTS
from pipeline.io.tables import read_rows, write_rows
from pipeline.registry import AUDIT, fitting
from pipeline.runner.part import Context
from pipeline.stages import probe
from pipeline.stages.findings import probe_scores

CAPTIONS = ["a cat", "two dogs", "a red house"]
ALL = tuple(detector.name for detector in PROBE_DETECTORS)
STEPS = 5


def context_of(run, detectors=ALL, **settings):
    sections = {
        "probe": {"detectors": detectors, "agreement_seeds": 3, "attention_seeds": 2, **settings},
        "generate": {"steps": STEPS},
    }
    return Context(run, make_config(sections))


@pytest.fixture
def run(tmp_path):
    rows = [
        {"prompt_id": prompt_id(caption), "caption": caption, "role": "target", "rank": rank}
        | {"n_duplicates": 1, "n_caption_copies": 1, "n_captions": 1}
        for rank, caption in enumerate(CAPTIONS)
    ]
    write_rows(tmp_path / PROMPTS, rows, schemas.PROMPTS)
    build_tiny_pipeline(tmp_path / "model")
    return tmp_path


def probed(context):
    for part in probe.STAGE.plan(context):
        outcome = probe.STAGE.run(part, context)
        assert outcome.rows_in == outcome.rows_out
    for part in probe.TABLE.plan(context):
        probe.TABLE.run(part, context)
    return read_rows(context.run / PROBES, schemas.PROBES)


def test_every_probe_scores_every_caption_at_its_cost(run):
    context = context_of(run)
    rows = probed(context)
    assert len(rows) == len(CAPTIONS) * len(ALL)
    assert {row["reason"] for row in rows} == {""}
    assert all(np.isfinite(row["score"]) for row in rows)
    costs = {row["probe"]: row["n_forwards"] for row in rows}
    assert costs == {
        "edges": 8,
        "sharpness": 6,
        "attention_entropy_first": 4,
        "attention_entropy": 2 * STEPS * 2,
        "bright_ending": 2 * STEPS * 2,
        "seed_agreement": 3,
    }
    scores, forwards = probe_scores(context)
    assert set(scores) == {prompt_id(caption) for caption in CAPTIONS}
    assert all(set(row) == set(ALL) <= set(schemas.FINDINGS.names) for row in scores.values())
    # the attention is read in one pass
    assert set(forwards.values()) == {8 + 6 + 2 * STEPS * 2 + 3}


def test_forwards_are_those_that_are_counted(run, monkeypatch):
    """Rows that the network is asked for, by each probe alone; a derivative counts twice."""
    asked = 0
    model = fresh_model(run / "model")
    own = model.unet.forward

    def counting(x, *args, **kwargs):
        nonlocal asked
        asked += len(x)
        return own(x, *args, **kwargs)

    monkeypatch.setattr(model.unet, "forward", counting)
    monkeypatch.setattr(probe, "open_model", lambda *_: model)
    for name in ALL:
        asked = 0
        rows = probed(context_of(run, (name,)))
        expected = 3 * rows[0]["n_forwards"]
        assert asked == (expected - 3 * 2 if name == "sharpness" else expected), name


def test_scores_do_not_depend_on_the_batch(run):
    one = {(r["prompt_id"], r["probe"]): r["score"] for r in probed(context_of(run))}
    again = probed(context_of(run, batch_size=1))
    for row in again:
        assert row["score"] == pytest.approx(one[row["prompt_id"], row["probe"]], rel=2e-3), row


def test_edges_are_those_of_the_pictures(run):
    rows = probed(context_of(run, ("edges",)))
    model = fresh_model(run / "model")
    for caption in CAPTIONS:
        seeds = [image_seed(0, prompt_id(caption), number) for number in range(4)]
        pictures = one_step_pictures(model, [caption] * 4, seeds, guidance=7.5)
        found = next(row["score"] for row in rows if row["prompt_id"] == prompt_id(caption))
        assert found == pytest.approx(edge_score(pictures), abs=0.02)


def test_a_model_without_cross_attention_says_so(run, monkeypatch):
    class Plain(backend.DiffusionModel):
        @property
        def unet(self):
            raise backend.ModelError("Plain: noise prediction needs a UNet conditioned on text")

    plain = Plain(fresh_model(run / "model").pipe)
    monkeypatch.setattr(probe, "open_model", lambda *_: plain)
    rows = probed(context_of(run))
    assert len(rows) == len(CAPTIONS) * len(ALL)
    assert {row["score"] for row in rows} == {None}
    assert {row["reason"] for row in rows} == {
        "Plain: noise prediction needs a UNet conditioned on text"
    }
    assert {row["n_forwards"] for row in rows} == {0}


def test_one_caption_that_overflows_does_not_spoil_the_others(run, monkeypatch):
    model = fresh_model(run / "model")
    own = model.embed_text

    def overflowing(captions):
        bad = torch.tensor([caption == "two dogs" for caption in captions])
        return own(captions).masked_fill(bad[:, None, None], float("nan"))

    monkeypatch.setattr(model, "embed_text", overflowing)
    monkeypatch.setattr(probe, "open_model", lambda *_: model)
    rows = probed(context_of(run))
    for row in rows:
        broken = row["prompt_id"] == prompt_id("two dogs")
        assert (row["score"] is None) == broken, row
        assert bool(row["reason"]) == broken, row


def test_it_is_off_unless_named(run):
    context = context_of(run, ())
    assert probe.STAGE.plan(context) == []
    names = {stage.name for stage in fitting(AUDIT, context.config)}
    assert not {"probe", "probe-table"} & names
    assert {"probe", "probe-table"} <= {s.name for s in fitting(AUDIT, context_of(run).config)}
    with pytest.raises(ConfigError, match="detectors"):
        make_config({"probe": {"detectors": ["tea leaves"]}})


def test_a_table_of_an_earlier_configuration_is_not_read(run):
    probed(context_of(run, ("edges", "sharpness")))
    scores, _ = probe_scores(context_of(run, ("edges",)))
    assert all(set(row) == {"edges"} for row in scores.values())
    assert probe_scores(context_of(run, ()))[0] == {}
