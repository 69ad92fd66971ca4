"""A training that is killed goes on, and ends with the bytes of one that is not."""

import copy
import hashlib
from dataclasses import replace

import pytest
import torch

from pipeline.erasure.conclusion import Tally
from pipeline.erasure.looks import Look, Looks
from pipeline.erasure.options import AdversarialOptions
from pipeline.erasure.saves import Saves
from pipeline.erasure.trainer import Settings, erase
from pipeline.errors import ModelError

RETAIN = ["a fish", "two birds", ""]
QUICK = {"iterations": 13, "batch": 2, "steps": 3, "trajectories_each": 2, "learning_rate": 1e-3}
INNER = AdversarialOptions(inner_iterations=2, refresh=4, pool=2, share=0.9)
METHODS = [
    {"method": "esd", "trajectories": "frozen"},
    {"method": "esd", "trajectories": "edited", "parameters": "full"},
    {"method": "esd-gt", "erase_unconditional": True},
    {"method": "ablate"},
    {"method": "retrack"},
    {"method": "siss", "parameters": "u"},
    {"method": "adversarial", "adversarial": INNER},
    {"method": "adversarial", "adversarial": INNER, "erase_unconditional": True},
]
BASE = "ab" * 32


class Killed(BaseException):
    pass


def kill_at(iteration):
    def on_step(number, losses):
        if number == iteration:
            raise Killed

    return on_step


def sha256(model):
    digest = hashlib.sha256()
    for name, tensor in sorted(model.unet.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def killed(model, targets, settings, saves, at, **more):
    own = copy.deepcopy(model)
    with pytest.raises(Killed):
        erase(own, targets, RETAIN, settings, saves=saves, on_step=kill_at(at), **more)


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_is_undisturbed_bit_for_bit(model, complete_targets, tmp_path, method):
    settings = Settings(**method, **QUICK)
    whole = copy.deepcopy(model)
    expected = erase(whole, complete_targets, RETAIN, settings)
    saves = Saves(tmp_path / "scratch/state.safetensors", BASE, 5)
    killed(model, complete_targets, settings, saves, 8)
    torch.rand(3)  # whatever another process did to the global generator
    again, seen = copy.deepcopy(model), []
    report = erase(
        again,
        complete_targets,
        RETAIN,
        settings,
        saves=saves,
        on_step=lambda number, _: seen.append(number),
    )
    assert seen == list(range(6, 14))
    assert report == expected
    assert sha256(again) == sha256(whole) != sha256(model)
    assert [path.name for path in saves.path.parent.iterdir()] == ["state.safetensors"]


def test_it_may_be_killed_again_and_again(model, targets, tmp_path):
    settings = Settings(**QUICK)
    whole = copy.deepcopy(model)
    expected = erase(whole, targets, RETAIN, settings)
    saves = Saves(tmp_path / "state.safetensors", BASE, 1)
    for at in (1, 2, 7, 13):
        killed(model, targets, settings, saves, at)
    again = copy.deepcopy(model)
    assert erase(again, targets, RETAIN, settings, saves=saves) == expected
    assert sha256(again) == sha256(whole)


class Rates:
    """Looks that remember: what is left after each iteration, given."""

    def __init__(self, left):
        self.left, self.asked = left, []

    def __call__(self, iteration):
        self.asked.append(iteration)
        attacked = Tally(4, 1) if iteration == 4 else None
        return Look(iteration, Tally(10, self.left[iteration]), Tally(5, 5), attacked)


def test_looks_and_the_best_weights_are_kept_over_a_kill(model, targets, tmp_path):
    left = {2: 6, 4: 1, 6: 5, 8: 4, 10: 7, 12: 3, 13: 9}
    settings = Settings(**QUICK)
    whole = copy.deepcopy(model)
    expected = erase(whole, targets, RETAIN, settings, looks=Looks(2, Rates(left)))
    assert expected.iterations == 4  # the best weights, put back at the end
    saves = Saves(tmp_path / "state.safetensors", BASE, 5)
    killed(model, targets, settings, saves, 8, looks=Looks(2, Rates(left)))
    again, rates = copy.deepcopy(model), Rates(left)
    report = erase(again, targets, RETAIN, settings, looks=Looks(2, rates), saves=saves)
    assert rates.asked == [6, 8, 10, 12, 13]
    assert report == expected
    assert sha256(again) == sha256(whole)


def test_weights_to_go_back_to_are_kept_over_a_kill(model, targets, tmp_path, monkeypatch):
    """The loss diverges after the kill: what is put back are weights from before it."""
    monkeypatch.setattr(
        "pipeline.erasure.trainer._diverged", lambda found, first, weight: found.erase > 1e3
    )
    calls = []

    class Explodes:
        def __init__(self, real, bad_at):
            self.real, self.bad_at = real, bad_at

        def accumulate(self, count, generator):
            calls.append(1)
            loss = self.real.accumulate(count, generator)
            return 1e9 if len(calls) >= self.bad_at else loss

    from pipeline.erasure import trainer

    real = trainer.erasing
    monkeypatch.setattr(trainer, "erasing", lambda *args: Explodes(real(*args), 18))
    settings = Settings(**{**QUICK, "iterations": 30})
    whole = copy.deepcopy(model)
    expected = erase(whole, targets, RETAIN, settings)
    assert (expected.iterations, expected.diverged) == (10, True)
    calls.clear()
    saves = Saves(tmp_path / "state.safetensors", BASE, 15)
    killed(model, targets, settings, saves, 16)
    del calls[15:]  # the sixteenth is done again
    again = copy.deepcopy(model)
    assert erase(again, targets, RETAIN, settings, saves=saves) == expected
    assert sha256(again) == sha256(whole)


def fresh_start(model, targets, settings, saves, retain=RETAIN):
    seen = []
    erase(
        copy.deepcopy(model),
        targets,
        retain,
        settings,
        saves=saves,
        on_step=lambda number, _: seen.append(number),
    )
    return seen[0] == 1


@pytest.mark.parametrize("what", ["nothing", "settings", "targets", "anchors", "base", "retained"])
def test_a_state_of_another_training_is_not_used(model, complete_targets, tmp_path, what):
    settings, targets, retain = Settings(method="ablate", **QUICK), complete_targets, RETAIN
    saves = Saves(tmp_path / "state.safetensors", BASE, 5)
    killed(model, targets, settings, saves, 6)
    match what:
        case "settings":
            settings = replace(settings, learning_rate=2e-3)
        case "targets":
            targets = [replace(targets[0], captions=("another hat",)), targets[1]]
        case "anchors":
            targets = [replace(targets[0], anchors=255 - targets[0].anchors), targets[1]]
        case "base":
            saves = replace(saves, belongs_to="cd" * 32)
        case "retained":
            retain = RETAIN[:1]
    assert fresh_start(model, targets, settings, saves, retain) == (what != "nothing")


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_state_is_not_used(model, targets, tmp_path, damage):
    settings, saves = Settings(**QUICK), Saves(tmp_path / "state.safetensors", BASE, 5)
    killed(model, targets, settings, saves, 6)
    data = saves.path.read_bytes()
    spoiled = {"empty": b"", "cut": data[: len(data) // 2], "other": b"\x80\x04no"}[damage]
    saves.path.write_bytes(spoiled)
    assert fresh_start(model, targets, settings, saves)


def test_the_state_is_no_pickle_and_only_one_is_kept(model, targets, tmp_path):
    from safetensors.torch import load_file

    saves = Saves(tmp_path / "state.safetensors", BASE, 2)
    killed(model, targets, Settings(**QUICK), saves, 9)
    assert list(tmp_path.iterdir()) == [saves.path]
    assert "generator" in load_file(saves.path)


def test_a_failure_leaves_the_state(model, targets, tmp_path):
    """A state is removed by who asked for it, once the model is on disk."""
    saves = Saves(tmp_path / "state.safetensors", BASE, 2)
    with pytest.raises(ModelError):
        erase(model, targets, RETAIN, Settings(**{**QUICK, "learning_rate": 1e30}), saves=saves)
    erase(model, targets, RETAIN, Settings(**QUICK), saves=saves)
    assert saves.path.is_file()
