"""Erasing is done once for equal settings; `verify` is given every model under one run."""

import json
from pathlib import Path

import pytest

from pipeline.config import EraseMethod, make_config
from pipeline.io.runjson import read_run_config, write_run
from tests.bench.audit.plans import SMOKE, SMOKE_MODELS, Bench
from tests.bench.erase import runs
from tests.bench.erase.plans import RETRAINED, Budget
from tests.bench.processes import Finished

NAME = SMOKE_MODELS[0]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, SMOKE_MODELS, SMOKE)
    for model in (NAME, bench.counterfactual):
        folder = bench.at("models", model)
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text(model)
    findings = bench.at("erase", NAME) / "findings"
    train = bench.at("dedup", NAME)
    write_run(train, make_config({"stages": ["scan"]}))
    write_run(findings, make_config({"stages": ["verdict"], "train": str(train)}))
    (findings / "findings.parquet").write_bytes(b"")
    return bench


@pytest.fixture
def commands(monkeypatch):
    """What was run; `erase` leaves a model behind, `verify` nothing."""
    seen = []

    def ran(arguments, out, program=()):
        seen.append(arguments)
        if arguments[0] == "erase":
            (method,) = json.loads(arguments[3].partition("=")[2].partition("=")[2])
            folder = out / "erased" / method["name"]
            folder.mkdir(parents=True)
            (folder / "erasure.json").write_text("{}")
            Path(program[1]).write_text('{"forwards": 12}')
        return Finished(0, 3.0, 2**30, "", "")

    monkeypatch.setattr(runs, "watch_cli", ran)
    monkeypatch.setattr(runs, "run_cli", ran)
    monkeypatch.setattr(runs, "make_unseen", lambda bench, name: bench.work / "unseen")
    return seen


def method(**changed):
    return EraseMethod(name="esd-x", objective="esd", parameters="x", **changed)


def test_equal_settings_are_erased_once_and_cost_what_they_cost(bench, commands):
    first = runs.erase_with(bench, NAME, method(), 4)
    assert runs.erase_with(bench, NAME, method(), 4) == first
    assert len(commands) == 1 and first.cost == runs.Cost(3.0, 12, 2**30)
    assert (first.folder / "erasure.json").is_file()
    others = [runs.erase_with(bench, NAME, method(iterations=7), 4)]
    others.append(runs.erase_with(bench, NAME, method(), 1))
    assert len({first.name, *(other.name for other in others)}) == 3 == len(commands)


def test_another_base_is_erased_anew(bench, commands):
    first = runs.erase_with(bench, NAME, method(), 4)
    (bench.at("models", NAME) / "unet").write_text("other weights")
    assert runs.erase_with(bench, NAME, method(), 4).name != first.name


def test_models_come_together_in_what_looks_like_a_run_of_erase(bench, commands):
    budget = Budget(attempts=2)
    first, other = runs.erase_with(bench, NAME, method(), 4), runs.retrained(bench)
    run = runs.verify_all(bench, NAME, [first], 4, budget, None)
    folder = run.parent / "models"
    before = (folder / "run.json").read_bytes()
    assert runs.verify_all(bench, NAME, [other], 4, budget, None) == run
    names = sorted(path.parent.name for path in folder.glob("erased/*/erasure.json"))
    assert names == [other.name, first.name] and other.name.startswith(RETRAINED)
    assert (folder / "run.json").read_bytes() == before
    config = read_run_config(folder)
    assert config.erase.max_groups == 4 and config.erase.methods == ()
    assert not (other.folder / "erasure.json").exists()  # the cached model is only read
    assert runs.verify_all(bench, NAME, [first], 4, Budget(attempts=3), None) != run


def test_without_the_retrained_model_there_is_no_row(bench):
    (bench.at("models", bench.counterfactual) / "model_index.json").unlink()
    assert runs.retrained(bench) is None
