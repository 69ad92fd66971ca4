from pathlib import Path

import pytest
from synthetic_run import COLLATERAL, SyntheticRun

from pipeline.report.collateral import measures
from pipeline.report.collect import collect
from pipeline.stages import report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = SyntheticRun(tmp_path_factory.mktemp("collateral") / "run").everything()
    (part,) = report.plan(run.context)
    report.run(part, run.context)
    return run.run


def test_measures_come_in_one_order() -> None:
    found = measures(COLLATERAL)
    places = [(row.measure, row.of) for row in found]
    assert places == [
        ("loss", "control"), ("loss", "target"), ("loss", "oracle"),
        ("kid", "control"), ("kid", "kept"), ("drift", "near"), ("drift", "far"),
    ]  # fmt: skip
    control, target, oracle, kid, kept, near, _ = found
    assert (oracle.value, oracle.allowed, oracle.status) == (0.611, None, None)
    assert (control.allowed, control.status, control.interval) == (0.05, "beyond", (0.07, 0.0943))
    assert control.levels == ((250, 0.0701), (750, 0.0923))
    assert (target.allowed, target.status) == (None, None)  # it is to rise
    assert (kid.n, kid.drawings, kid.allowed) == (24, 144, 0.0184)
    assert (kept.allowed, kept.status) == (None, None)
    assert (near.value, near.allowed) == (0.317, None)


def test_files_that_measured_nothing() -> None:
    assert measures({}) == measures({"collateral": {}}) == ()
    assert measures({"collateral": {"loss": {}, "kid": {}, "drift": {}}}) == ()


def test_the_page_and_the_card_say_what_makes_the_model_damaged(run: Path) -> None:
    shares = ["+8.1 %", "+7.0 %", "+9.4 %", "+5.0 %", "+61.1 %"]
    numbers = [*shares, "0.0059", "0.0165", "0.0184", "0.32", "too few"]
    for name in ("index.html", "AUDIT_CARD.md"):
        text = (run / "report" / name).read_text(encoding="utf-8").replace("\\", "")
        text = text.replace("\N{NO-BREAK SPACE}", " ")
        assert "denoising loss on control pictures rose by 7.0% or more" in text
        assert [number for number in numbers if number not in text] == [], name


def test_facts_hold_the_measures_of_each_method(run: Path) -> None:
    from pipeline.config import make_config
    from pipeline.runner.part import Context

    erasure = collect(Context(run, make_config({}))).erasure
    assert erasure is not None
    by_name = {method.name: method for method in erasure.methods}
    assert by_name["esd-x"].collateral == () and by_name["esd-x"].damage == ()
    assert len(by_name["esd-gt"].collateral) == 7
    assert by_name["esd-gt"].damage == tuple(COLLATERAL["damage"])
