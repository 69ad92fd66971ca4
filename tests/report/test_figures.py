import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from synthetic_run import SyntheticRun

from pipeline.report.canvas import DARK, LIGHT
from pipeline.report.collect import collect
from pipeline.report.facts import Facts
from pipeline.report.figures import draw_all


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return collect(SyntheticRun(tmp_path_factory.mktemp("figures") / "run").everything().context)


def test_every_figure_is_drawn_in_both_themes(facts: Facts) -> None:
    light, dark = draw_all(facts, LIGHT), draw_all(facts, DARK)
    names = {"extraction_by_copies", "erasure_by_arm", "noise_gap", "group_sizes"}
    assert set(light) == set(dark) == names
    for name in names:
        ink, night = (
            np.asarray(Image.open(io.BytesIO(x[name])).convert("L")) for x in (light, dark)
        )
        assert ink.shape == night.shape
        assert ink.mean() > 200
        assert night.mean() < 70
        assert ink.std() > 5  # not an empty sheet


def test_bytes_depend_on_the_facts_alone(facts: Facts) -> None:
    first = draw_all(facts, LIGHT)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "pink", "savefig.dpi": 30}):
        assert draw_all(facts, LIGHT) == first
    for data in first.values():
        assert Image.open(io.BytesIO(data)).info.keys() <= {"dpi"}


def test_what_was_not_run_is_not_drawn(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run")
    run.dataset()
    assert set(draw_all(collect(run.context), LIGHT)) == {"group_sizes"}
