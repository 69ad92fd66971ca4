"""Erasing what the user names, without an audit, on a tiny model."""

import json

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_pipeline

from pipeline.config import make_config
from pipeline.errors import InputError
from pipeline.followups import Erased, erase_settings
from pipeline.generation.backend import fresh_model
from pipeline.io.digest import sha256_file
from pipeline.io.images import encode_png
from pipeline.runner.part import Context
from pipeline.stages import erase


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_tiny_pipeline(tmp_path_factory.mktemp("base") / "model")


def erased(base, run, named, method):
    values = erase_settings(str(base), named, method, iterations=3, learning_rate=1e-3, batch=2)
    context = Context(run, make_config(values))
    (part,) = erase.STAGE.plan(context)
    outcome = erase.STAGE.run(part, context)
    facts = json.loads((run / "erased" / method / "erasure.json").read_text())
    return outcome, facts


@pytest.mark.parametrize("method", ["esd-x", "uce"])
def test_captions_alone(tmp_path, base, method):
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    outcome, facts = erased(base, tmp_path, Erased(concepts=["a cat", "two dogs"]), method)
    assert outcome.rows_in == outcome.rows_out == 2
    counts = [(target["captions"], target["pictures"]) for target in facts["targets"]]
    assert counts == [(1, 0), (1, 0)]
    new = fresh_model(tmp_path / "erased" / method).unet.state_dict()
    old = fresh_model(base).unet.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and changed <= {name for name in old if "attn2" in name}
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_pictures_of_a_list(tmp_path, base):
    (tmp_path / "cat.png").write_bytes(encode_png(np.full((20, 30, 3), 90, np.uint8)))
    listed = tmp_path / "mine.csv"
    listed.write_text("caption,image\na cat,cat.png\nthe cat,cat.png\n")
    outcome, facts = erased(base, tmp_path, Erased(targets=listed), "esd-gt")
    assert outcome.rows_in == outcome.rows_out == 2
    assert [(t["captions"], t["pictures"]) for t in facts["targets"]] == [(2, 1)]


def test_a_file_too_large_for_a_picture_is_refused_unread(tmp_path, base):
    with (tmp_path / "cat.png").open("wb") as file:
        file.truncate(1 << 40)  # without a block on the disk; to read it would take an hour
    listed = tmp_path / "mine.csv"
    listed.write_text("caption,image\na cat,cat.png\n")
    values = erase_settings(str(base), Erased(targets=listed), "esd-gt")
    context = Context(tmp_path, make_config(values))
    (part,) = erase.STAGE.plan(context)
    assert not any("cat.png" in name for name in part.inputs)  # whose digests are taken
    with pytest.raises(InputError, match=r"cat\.png: too_many_bytes: 1099511627776 bytes"):
        erase.STAGE.run(part, context)


def test_a_picture_that_is_none_is_named(tmp_path, base):
    (tmp_path / "cat.png").write_bytes(b"no picture")
    listed = tmp_path / "mine.csv"
    listed.write_text("caption,image\na cat,cat.png\n")
    with pytest.raises(InputError, match=r"cat\.png: not_an_image"):
        erased(base, tmp_path, Erased(targets=listed), "esd-gt")


class Killed(BaseException):
    pass


def test_a_killed_erase_goes_on_and_gives_the_same_bytes(tmp_path, base, monkeypatch):
    values = erase_settings(
        str(base), Erased(concepts=["a cat"]), "esd-x", iterations=7, learning_rate=1e-3, batch=2
    )
    values["runner"] = {"save_every": 2}
    config = make_config(values)

    def once(run):
        context = Context(run, config)
        (part,) = erase.STAGE.plan(context)
        return erase.STAGE.run(part, context)

    steps = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1) or step(self))
    once(tmp_path / "whole")
    assert len(steps) == 7
    assert not (tmp_path / "whole/scratch").exists()

    def killed(self):
        if len(steps) == 7 + 5:
            raise Killed
        steps.append(1)
        return step(self)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(torch.optim.Adam, "step", killed)
        once(tmp_path / "killed")
    assert not (tmp_path / "killed/erased").exists() or not any(
        (tmp_path / "killed/erased").iterdir()
    )
    assert [path.name for path in (tmp_path / "killed/scratch/erase").iterdir()] == [
        "esd-x.safetensors"
    ]
    steps.clear()
    once(tmp_path / "killed")
    assert len(steps) == 3  # after the fourth, which was saved
    assert not (tmp_path / "killed/scratch").exists()
    assert sha256_file(tmp_path / "killed/erased") == sha256_file(tmp_path / "whole/erased")


def test_no_state_is_written_where_none_is_wanted(tmp_path, base, monkeypatch):
    written = []
    monkeypatch.setattr("pipeline.erasure.saves.Saves.write", lambda *_: written.append(1))
    values = erase_settings(str(base), Erased(concepts=["a cat"]), "esd-x", iterations=3, batch=2)
    for every, expected in ((None, 0), (1, 3)):
        values["runner"] = {"save_every": every}
        context = Context(tmp_path / str(every), make_config(values))
        (part,) = erase.STAGE.plan(context)
        erase.STAGE.run(part, context)
        assert len(written) == expected
