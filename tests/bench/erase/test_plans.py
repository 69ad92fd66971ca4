"""What the erasers are given: methods, budgets, findings; and what is counted of them."""

import pytest
import torch
from tiny_model import tiny_unet

from pipeline.detection.intervals import wilson
from tests.bench.erase.counted import Passes
from tests.bench.erase.plans import METHODS, USUAL, Budget, chosen_methods
from tests.bench.erase.targets import confirmed


def test_every_method_is_one_that_the_configuration_takes():
    found = chosen_methods(METHODS, ["mine={objective: esd-gt, parameters: x, eta: 2}"], 7)
    assert [method.name for method in found] == [*METHODS, "mine"]
    assert {method.iterations for method in found} == {7} and found[-1].eta == 2
    assert set(USUAL) <= set(METHODS)


@pytest.mark.parametrize("names, also", [(["esd-y"], []), ([], ["mine={objective: x}"])])
def test_a_method_that_is_none_of_ours_is_named(names, also):
    with pytest.raises(ValueError, match=r"esd-y|objective"):
        chosen_methods(names, also, None)


@pytest.mark.parametrize("targets", [1, 4, 16])
def test_the_usual_attempts_can_bound_the_difference(targets):
    attempts = targets * Budget().embedding(targets)["attempts"]
    assert wilson(0, attempts)[1] <= Budget().margin
    assert attempts < 2 * 74


def finding(prompt, verdict):
    return {"prompt_id": prompt, "verdict": verdict, "role": "target"}


def truth(prompt, p_own, regime="verbatim", label="positive"):
    return {"prompt_id": prompt, "p_own": p_own, "regime": regime, "label": label}


def test_only_what_the_truth_confirms_is_erased_and_singles_are_controls():
    findings = [finding(1, "verbatim"), finding(2, "verbatim"), finding(3, "none")]
    findings += [finding(4, "none"), finding(5, "none")]
    known = [truth(1, 0.5), truth(2, 0.4), truth(3, 0.0, "single", "negative")]
    known += [truth(4, 0.1, "single", "partial"), truth(5, 0.0, "verbatim", "negative")]
    rows = [(row["verdict"], row["role"]) for row in confirmed(findings, known)]
    assert rows == [
        ("verbatim", "target"),
        ("undecided", "target"),
        ("none", "control"),
        ("none", "target"),
        ("none", "target"),
    ]
    assert findings[1]["verdict"] == "verbatim"


def test_passes_are_pictures_and_the_way_back_counts():
    class Counted(type(tiny_unet())):
        pass

    unet = tiny_unet()
    unet.__class__ = Counted
    passes = Passes()
    passes.watch(Counted)
    x_t, text = torch.zeros(3, 4, 8, 8), torch.zeros(3, 24, 16)
    with torch.no_grad():
        unet(x_t, 5, encoder_hidden_states=text)
        assert passes.forwards == 3
        unet(x_t[:2], 5, encoder_hidden_states=text[:2], return_dict=False)
        assert passes.forwards == 5
    unet(x_t, 5, encoder_hidden_states=text)
    assert passes.forwards == 11
