"""The table of scalars and the scores read off it, on a tiny model, against its own predictions."""

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.config import make_config
from pipeline.generation.backend import fresh_model
from pipeline.generation.seeds import image_seed
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.runfolder import PROMPTS, SCREEN
from pipeline.io.tables import read_rows, write_rows
from pipeline.runner.part import Context
from pipeline.stages import screen
from pipeline.stages.findings import screen_scores

CAPTIONS = ["a cat", "two dogs", "a red house"]


def screened(run, **settings):
    rows = [
        {"prompt_id": prompt_id(caption), "caption": caption, "role": "target", "rank": rank}
        | {"n_duplicates": 1, "n_caption_copies": 1, "n_captions": 1}
        for rank, caption in enumerate(CAPTIONS)
    ]
    write_rows(run / PROMPTS, rows, schemas.PROMPTS)
    if not (run / "model").is_dir():
        build_tiny_pipeline(run / "model")
    sections = {"screen": {"seeds": 2, "steps": 3, **settings}, "generate": {"steps": 10}}
    context = Context(run, make_config(sections))
    for part in screen.STAGE.plan(context):
        outcome = screen.STAGE.run(part, context)
        assert outcome.rows_in == outcome.rows_out
    for part in screen.TABLE.plan(context):
        screen.TABLE.run(part, context)
    return context, read_rows(run / SCREEN, schemas.SCREEN)


@torch.inference_mode()
def test_rows_are_those_of_the_model(tmp_path):
    _, rows = screened(tmp_path, batch_size=4)
    assert len(rows) == 3 * 2 * 4
    sources = {(row["step"], row["x_t_source"]) for row in rows}
    assert sources == {
        (0, "pure_noise"), (1, "trajectory"), (2, "trajectory"), (7, "pure_noise")
    }  # fmt: skip
    model = fresh_model(tmp_path / "model")
    text, empty = model.embed_text(["two dogs"]), model.embed_text([""])
    seed = image_seed(0, prompt_id("two dogs"), 1)
    x_t = model.noise([seed])
    mine = {
        row["step"]: row
        for row in rows
        if (row["prompt_id"], row["seed"]) == (prompt_id("two dogs"), seed)
    }
    for step, timestep in ((0, 901), (7, 201)):
        t = torch.tensor([timestep])
        u = model.predict_noise(x_t, t, empty).double().numpy()
        c = model.predict_noise(x_t, t, text).double().numpy()
        assert mine[step]["timestep"] == timestep
        assert mine[step]["eps_dot"] == pytest.approx((u * c).sum(), rel=1e-5)
        assert mine[step]["eps_uncond_sq"] == pytest.approx((u * u).sum(), rel=1e-5)
        assert mine[step]["eps_dot_prev"] is None
    assert mine[1]["eps_dot_prev"] is not None
    first = model.predict_noise(x_t, torch.tensor([901]), text).double().numpy()
    # <c_0, c_1> is bounded by the norms, and no other pair of rows has these norms
    bound = np.sqrt((first**2).sum() * mine[1]["eps_text_sq"])
    assert 0 < abs(mine[1]["eps_dot_prev"]) <= bound * (1 + 1e-9)


def test_scores_do_not_depend_on_the_batch(tmp_path):
    context, _ = screened(tmp_path, batch_size=32)
    one, steps = screen_scores(context)
    assert set(steps.values()) == {2 * 4}
    again, _ = screen_scores(screened(tmp_path, batch_size=1)[0])
    for prompt, scores in one.items():
        assert scores == pytest.approx(again[prompt], rel=1e-4)
        assert set(scores) >= {"noise_gap", "anisotropy", "dsm_change", "dsm_change_2"}


def test_without_the_late_step_there_are_fewer_forwards(tmp_path):
    context, rows = screened(tmp_path, late_step=False, steps=1)
    assert len(rows) == 3 * 2
    scores, steps = screen_scores(context)
    assert set(steps.values()) == {2}
    assert set(scores[prompt_id("a cat")]) == {"noise_gap", "noise_gap_all", "webster"}
