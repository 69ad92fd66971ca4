"""The cost of a job against figures worked out by hand."""

import numpy as np
import pytest

import indexes
from indexes import cells
from pipeline import cost as model
from pipeline.config import Pairs
from pipeline.cost import Job, Rates, cell_macs, cost, join_macs

ONES = Rates(1, 1, 1, 1, 1, 1, 1, 1, 1)


def test_a_million_pictures_by_hand():
    """c = 4000 cells, s = 256,000 vectors, 250 a cell; 16 tables of PDQ, 17 keys looked up in
    them, a million later codes with those of the mirrored pictures."""
    job = Job(1_000_000)
    assert job.n_cells == 4000
    trained = 10 * 256_000 * 4000**0.5 * 64
    assert cell_macs(job) == pytest.approx(trained + 1_000_000 * 4000 * 64)
    assert join_macs(job) == 32 * 1_000_000 * 250 * 64 == 5.12e11
    found = cost(job, ONES)
    assert found.seconds == {
        "scan": 1e6,
        "embed": 1e6,
        "cells": cell_macs(job) + 5.12e8,
        "join": 5.12e11 + 3.2e7,
        "pdq": 1e6 * 16 * 17 * (32 + 14 * 1_000_000 / 2**16),
        "groups": 1e6,
    }
    assert found.disk["embeddings"] == 1.024e9 and found.disk["pdq"] == 3.2e7
    assert found.disk["cells"] == 1e6 * (1024 + 256 + 8 + 128 + 64)
    assert found.memory["cells"] == 1e6 * (256 + 192 + 32) + 32_768 * 512 * 8 + 256_000 * 64 * 4
    assert found.edges == 1e6 * 0.1  # a tenth of them in groups of three, each of three pairs
    assert found.disk["pairs"] == 28 * found.edges


def test_few_pictures_are_compared_all_with_all():
    found = cost(Job(1000, d=64), ONES)
    assert found.cells == 0 and "cells" not in found.seconds
    assert found.seconds["join"] == 1000 * 1000 * 64


def test_edges_of_groups_are_complete():
    """20 of 100 pictures in groups of five: four groups of ten pairs."""
    assert cost(Job(100, duplicates=0.2, group_size=5)).edges == pytest.approx(40)


def test_a_hundred_workers_help_only_where_there_are_parts():
    one, many = (cost(Job(10**7), ONES).hours(w) for w in (1, 100))
    for name in one:
        assert many[name] == pytest.approx(one[name] / (1 if name in model.ONE_PART else 100))
    assert one["scan"] == pytest.approx(1e7 / 3600)


def test_time_grows_as_the_cells_do():
    """All but the linear terms as n^1.5."""
    small, large = cell_macs(Job(10**8)), cell_macs(Job(4 * 10**8))
    assert large / small == pytest.approx(8, rel=0.15)
    assert join_macs(Job(4 * 10**8)) / join_macs(Job(10**8)) == pytest.approx(8, rel=1e-3)


def test_the_defaults_are_those_of_the_cells():
    assert Job(1).probes == Pairs().probes == cells.DEFAULT_PROBES
    assert Pairs().reach == cells.REACH
    for n in (1, 10, 12_345, 10**9):
        assert Job(n).n_cells == cells.default_cells(n)


def test_bytes_are_those_of_real_cells():

    vectors = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    built = indexes.build_cells(vectors, np.arange(500), probes=4)
    width = built.sketches.shape[1]
    predicted = cost(Job(500, d=32, sketch=width, probes=4, exact_up_to=10)).disk["cells"]
    real = vectors.astype(np.float16).nbytes + 500 * 8
    real += built.sketches.nbytes + built.probes.nbytes + built.margins.nbytes
    assert predicted == real and len(built) == 89


def test_faster_cores():
    twice = model.scaled(Rates(), 2)
    job = Job(10**6)
    assert sum(cost(job, twice).seconds.values()) == pytest.approx(
        sum(cost(job).seconds.values()) / 2
    )
