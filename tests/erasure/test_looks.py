"""Stopping an eraser where it has done enough, and what is there to choose from if it has not."""

import copy

import numpy as np
import pytest
import torch

from pipeline.erasure.conclusion import Tally
from pipeline.erasure.looks import Look, Looks, best, front
from pipeline.erasure.parameters import select_parameters
from pipeline.erasure.trainer import Settings, erase

RETAIN = ["a fish", "two birds", ""]


def look(iteration, left, kept, *, attacked=None, met=False):
    tried = None if attacked is None else Tally(10, attacked)
    return Look(iteration, Tally(10, left), Tally(10, kept), tried, met)


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    looks = [look(i, *rng.integers(0, 11, 2).tolist()) for i in range(40)]
    points = [(seen.left.hits, 10 - seen.kept.hits) for seen in looks]
    beaten = [
        any((a <= left and b <= lost) and (a < left or b < lost) for a, b in points)
        for left, lost in points
    ]
    assert front(looks) == [seen for seen, no in zip(looks, beaten, strict=True) if not no]
    assert 0 < len(front(looks)) < len(looks)


def test_the_best_remembers_least_then_keeps_most():
    looks = [look(1, 3, 10), look(2, 1, 4), look(3, 1, 7), look(4, 1, 7)]
    assert best(looks).iteration == 3
    attacked = [look(1, 0, 9), look(2, 0, 5, attacked=4), look(3, 0, 5, attacked=8)]
    assert best(attacked).iteration == 2  # one that was not attacked has shown nothing


def test_nothing_to_keep_loses_nothing():
    assert Look(1, Tally(4, 0), Tally()).lost == 0.0


def trained(model, targets, iterations, looks=None):
    settings = Settings("esd-gt", iterations=iterations, batch=4, steps=4)
    report = erase(model, targets, RETAIN, settings, looks=looks)
    return report, {k: v.detach().clone() for k, v in select_parameters(model.unet, "x").items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def test_training_ends_where_the_bound_is_met(model, targets):
    other = copy.deepcopy(model)
    seen = []

    def at(iteration):
        seen.append(iteration)
        return look(iteration, 0, 9, met=iteration == 4)

    report, weights = trained(model, targets, 9, Looks(2, at))
    assert seen == [2, 4]
    assert report.iterations == len(report.losses) == 4
    assert [taken.iteration for taken in report.looks] == [2, 4]
    assert same(weights, trained(other, targets, 4)[1])


@pytest.mark.parametrize("good", [3, 6, 7])
def test_the_best_weights_are_put_back_where_no_look_is_met(model, targets, good):
    other = copy.deepcopy(model)
    looks = Looks(3, lambda iteration: look(iteration, 2 if iteration == good else 5, 9))
    report, weights = trained(model, targets, 7, looks)
    assert [taken.iteration for taken in report.looks] == [3, 6, 7]  # the last is looked at too
    assert report.iterations == len(report.losses) == good
    assert same(weights, trained(other, targets, good)[1])
