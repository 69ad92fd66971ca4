import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import RESOLUTION, build_tiny_pipeline

from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel, fresh_model


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return build_tiny_pipeline(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def _loaded(base_folder) -> DiffusionModel:
    return fresh_model(base_folder)


@pytest.fixture
def model(_loaded) -> DiffusionModel:
    """A model of the test's own, the same in every test."""
    return copy.deepcopy(_loaded)


@pytest.fixture(scope="session")
def targets() -> list[Target]:
    rng = np.random.default_rng(0)
    size = (RESOLUTION, RESOLUTION, 3)
    return [
        Target(7, ("a red hat", "hat, red"), rng.integers(0, 256, (2, *size), np.uint8)),
        Target(8, ("blue bus",), rng.integers(0, 256, (1, *size), np.uint8)),
    ]


@pytest.fixture(scope="session")
def complete_targets(targets) -> list[Target]:
    """The targets with neighbours, and anchors of unequal number."""
    rng = np.random.default_rng(1)
    size = (RESOLUTION, RESOLUTION, 3)
    captions = (("a cat", "a dog", "a pig"), ("a van", "a car"))
    return [
        replace(
            target,
            neighbours=rng.integers(0, 256, (len(own) + 1, *size), np.uint8),
            anchors=rng.integers(0, 256, (len(own), *size), np.uint8),
            anchor_captions=own,
        )
        for target, own in zip(targets, captions, strict=True)
    ]
