"""How far a training is: everything that changes from one iteration to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pipeline.erasure import carried
from pipeline.erasure.conclusion import Tally
from pipeline.erasure.kept import Kept, Watched
from pipeline.erasure.looks import Look
from pipeline.erasure.saves import State


@dataclass(frozen=True)
class Losses:
    """Both terms of one iteration, before the weight ρ."""

    erase: float
    retain: float


@dataclass
class Progress:
    """Weights, optimiser, random numbers, memories of the terms, and what may be put back.

    The terms must have been made with the weights of the base: they keep what it says.
    """

    trained: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    terms: Sequence[object]
    kept: Kept
    watched: Watched
    losses: list[Losses] = field(default_factory=list)

    def state(self) -> State:
        """All of it after an iteration, to go on from."""
        tensors = {"generator": self.generator.get_state()}
        tensors |= _under("weights", self.trained) | _under("kept", self.kept.values)
        facts: dict[str, Any] = {
            "losses": [[one.erase, one.retain] for one in self.losses],
            "kept": self.kept.iteration,
            "looks": [asdict(look) for look in self.watched.taken],
        }
        if self.watched.best is not None:
            tensors |= _under("best", self.watched.best.values)
            facts["best"] = self.watched.best.iteration
        for number, term in enumerate(self.terms):
            tensors |= _under(f"term{number}", carried.carried_by(term))
        for number, own in self.optimizer.state_dict()["state"].items():
            tensors |= _under(f"adam{number}", own)
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Go back to a state of a training with the same fingerprint."""
        tensors, facts = state.tensors, state.facts
        self.kept.set(_of("weights", tensors), 0)
        self.kept.put_back()
        self.kept.set(_of("kept", tensors), facts["kept"])
        if self.watched.best is not None:
            self.watched.best.set(_of("best", tensors), facts["best"])
        self.watched.taken = [_look(values) for values in facts["looks"]]
        self.losses[:] = [Losses(*pair) for pair in facts["losses"]]
        self.generator.set_state(tensors["generator"])
        for number, term in enumerate(self.terms):
            carried.resume(term, _of(f"term{number}", tensors))
        moments = ((n, _of(f"adam{n}", tensors)) for n in range(len(self.trained)))
        groups = self.optimizer.state_dict()["param_groups"]
        # what never had a gradient has no moments
        state_dict = {"state": {n: own for n, own in moments if own}, "param_groups": groups}
        self.optimizer.load_state_dict(state_dict)


def _under(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}/{own}": tensor for own, tensor in tensors.items()}


def _of(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{name}/"
    return {own.removeprefix(start): t for own, t in tensors.items() if own.startswith(start)}


def _look(values: Mapping[str, Any]) -> Look:
    attacked = values["attacked"]
    tallies = {"left": Tally(**values["left"]), "kept": Tally(**values["kept"])}
    return Look(
        iteration=values["iteration"],
        attacked=None if attacked is None else Tally(**attacked),
        met=values["met"],
        **tallies,
    )
