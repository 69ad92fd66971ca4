"""What is erased with, how much of it, and how it is looked at afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import yaml

from pipeline.config import EraseMethod
from pipeline.erasure.conclusion import attempts_needed
from pipeline.followups import ATTACKS
from pipeline.followups import METHODS as OBJECTIVES

_PART = {"learning_rate": 5e-4, "iterations": 200, "batch": 32}
_WHOLE = {"learning_rate": 3e-4, "iterations": 90, "batch": 32}
"""Few and large steps, as the demo's configuration has them: the model is small."""

METHODS: dict[str, dict[str, Any]] = {
    "esd-gt-x": {"objective": "esd-gt", "parameters": "x", **_PART},
    "esd-x": {**OBJECTIVES["esd-x"], **_PART},
    "ablate": {**OBJECTIVES["ablate"], **_WHOLE},
    "uce": {**OBJECTIVES["uce"]},
    "siss": {**OBJECTIVES["siss"], **_WHOLE},
    "adversarial": {**OBJECTIVES["adversarial"], **_WHOLE},
    "retrack": {**OBJECTIVES["retrack"], **_WHOLE},
    "esd-gt-full": {"objective": "esd-gt", "parameters": "full", **_WHOLE},
}
USUAL = ("esd-gt-x", "esd-x", "ablate", "uce", "siss", "adversarial")
RETRAINED = "dedup-retrain"


@dataclass(frozen=True)
class Budget:
    """How much is spent on looking; the defaults let the attack's bound reach the margin.

    `attempts` of the attack are of each picture, and `unseen` pictures that were never trained are
    attacked as often. None: enough for no hit among all of them to bound the difference.
    """

    per_prompt: int = 16
    others: int = 24
    attempts: int | None = None
    attack_iterations: int = ATTACKS["embedding"]["iterations"]
    unseen: int = 16
    margin: float = 0.05

    def embedding(self, targets: int) -> dict[str, Any]:
        """The attack on each of so many targets."""
        attempts = self.attempts or ceil(attempts_needed(self.margin) / targets)
        return {
            "kind": "embedding",
            **ATTACKS["embedding"],
            "iterations": self.attack_iterations,
            "attempts": attempts,
        }


def chosen_methods(
    names: Iterable[str], also: Iterable[str], iterations: int | None
) -> list[EraseMethod]:
    """Methods by their names, and those given as NAME={a: b, ...}; `iterations` for all of them.

    Raises ValueError for a name that is none of ours, and for settings that are none.
    """
    settings = {}
    for name in names:
        if name not in METHODS:
            raise ValueError(f"--methods {name}: one of {', '.join(METHODS)}")
        settings[name] = METHODS[name]
    for text in also:
        name, _, values = text.partition("=")
        settings[name] = yaml.safe_load(values)
    changed = {} if iterations is None else {"iterations": iterations}
    return [
        EraseMethod.model_validate({"name": name, **values, **changed})
        for name, values in settings.items()
    ]
