"""`unmemorize erase` and `unmemorize verify` as a user runs them, each done once.

    erase/MODEL/findings        what the truth confirms of the audit
    erase/MODEL/erased/...      a folder a method, number of targets and settings: the run, its cost
    erase/MODEL/verified/...    a folder a number of targets and budget: run, and the models in it

One run of `verify` takes all methods, so that the base model is drawn and attacked once; a method
that comes later adds its own parts.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import EraseMethod, make_config
from pipeline.followups import Erased, erase_settings
from pipeline.io.digest import canonical_sha256, sha256_once
from pipeline.io.runfolder import FINDINGS
from pipeline.io.runjson import write_run
from pipeline.stages import erase
from tests.bench.audit.commands import run_cli, watch_cli
from tests.bench.audit.plans import Bench
from tests.bench.audit.steps import once
from tests.bench.erase.plans import RETRAINED, Budget
from tests.bench.erase.targets import findings_folder, make_unseen

_COST = "cost.json"


@dataclass(frozen=True)
class Cost:
    """Of one run of `erase`: wall seconds with the start of the process, passes of pictures through
    the UNet, the most bytes resident."""

    seconds: float
    forwards: int
    peak: int


@dataclass(frozen=True)
class Model:
    """An erased model: the name that `verify` knows it by, its folder, and what it cost if known.

    The name ends in a digest of the settings, so that another budget is another model.
    """

    name: str
    folder: Path
    cost: Cost | None = None


def erase_with(bench: Bench, name: str, method: EraseMethod, targets: int) -> Model:
    """Erase so many targets by one method. Raises RuntimeError where the command fails."""
    settings = method.model_dump(mode="json", exclude_none=True)
    base, findings = bench.at("models", name), findings_folder(bench, name)
    facts = {
        "method": settings,
        "targets": targets,
        "base": sha256_once(base),
        "findings": sha256_once(findings / FINDINGS),
        "version": erase.STAGE.version,
    }
    label = f"{method.name}-{canonical_sha256(facts)[:8]}"
    folder = bench.at("erase", name) / "erased" / f"{targets}-{label}"

    def build(out: Path) -> None:
        count = out / "forwards.json"
        command = [
            "erase",
            f"--model={base}",
            f"--findings={findings}",
            f"--set=erase.methods={json.dumps([settings])}",
            f"--set=erase.max_groups={targets}",
        ]
        program = ("tests.bench.erase.counted", str(count))
        done = watch_cli(command, out / "run", program)
        forwards = json.loads(count.read_text())["forwards"]
        cost = {"seconds": done.seconds, "forwards": forwards, "peak": done.peak}
        (out / _COST).write_text(json.dumps(cost))

    once(folder, facts, build)
    cost = Cost(**json.loads((folder / _COST).read_text()))
    return Model(label, folder / "run" / "erased" / method.name, cost)


def retrained(bench: Bench) -> Model | None:
    """The model that was trained on the deduplicated set, if the audit's benchmark made it."""
    folder = bench.at("models", bench.counterfactual)
    if not (folder / "model_index.json").is_file():
        return None
    return Model(f"{RETRAINED}-{sha256_once(folder)[:8]}", folder)


def verify_all(
    bench: Bench, name: str, models: list[Model], targets: int, budget: Budget, oracle: str | None
) -> Path:
    """The run folder of `verify` of these models, and of those that earlier calls gave it."""
    base, findings = bench.at("models", name), findings_folder(bench, name)
    options = _options(budget, targets, make_unseen(bench, name), oracle)
    facts = {
        "options": options,
        "base": sha256_once(base),
        "findings": sha256_once(findings / FINDINGS),
    }
    folder = bench.at("erase", name) / "verified" / f"{targets}-{canonical_sha256(facts)[:8]}"
    _gather(folder / "models", models, base, findings, targets)
    command = ["verify", f"--model={folder / 'models'}", f"--base={base}", f"--findings={findings}"]
    run_cli([*command, *options, "--rebuild"], folder / "run")
    return folder / "run"


def _options(budget: Budget, targets: int, unseen: Path, oracle: str | None) -> list[str]:
    attack = json.dumps([budget.embedding(targets)])
    return [
        "--attack=embedding",
        f"--unseen={unseen}",
        *([f"--oracle={oracle}"] if oracle else []),
        f"--set=verify.attacks={attack}",
        f"--set=verify.unseen_pictures={budget.unseen}",
        f"--set=verify.max_difference={budget.margin}",
        f"--set=verify.per_prompt={budget.per_prompt}",
        f"--set=verify.others={budget.others}",
    ]


def _gather(folder: Path, models: list[Model], base: Path, findings: Path, targets: int) -> None:
    """A folder as `erase` writes it, with all models in it; the run names no method of its own,
    since what was drawn of one model does not depend on which others there are."""
    values: dict[str, Any] = erase_settings(str(base), Erased(findings), "esd-x")
    values["erase"] |= {"methods": [], "max_groups": targets}
    if not (folder / "run.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, make_config(values))
    for model in models:
        place = folder / "erased" / model.name
        if place.is_dir():
            continue
        partial = folder / f"{model.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model.folder, partial)
        record = partial / "erasure.json"
        if not record.is_file():  # by which `verify` knows what it is to look at
            record.write_text(json.dumps({"method": model.name}))
        place.parent.mkdir(exist_ok=True)
        partial.replace(place)
