"""Weights that training may go back to, each kept as a copy of the trained tensors alone."""

from collections.abc import Mapping

import torch

from pipeline.erasure.looks import Look, Looks, best

_KEEP_EVERY = 10  # iterations between copies of the weights


class Kept:
    """The trained weights as they last were with a sound loss."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._trained = dict(trained)
        self.values = {name: tensor.detach().clone() for name, tensor in trained.items()}
        self.iteration = 0

    def offer(self, iteration: int) -> None:
        """The weights after `iteration` have a sound loss; every few are copied."""
        if iteration - self.iteration >= _KEEP_EVERY:
            self.take(iteration)

    def take(self, iteration: int) -> None:
        """Copy the weights after `iteration`, in place: a second copy would be held meanwhile."""
        self.set(self._trained, iteration)

    def set(self, values: Mapping[str, torch.Tensor], iteration: int) -> None:
        """Keep these values (of all trained tensors, by name) as those after `iteration`."""
        with torch.no_grad():
            for name, own in self.values.items():
                own.copy_(values[name])
        self.iteration = iteration

    def put_back(self) -> None:
        """Give the model the values that are kept."""
        with torch.no_grad():
            for name, tensor in self._trained.items():
                tensor.copy_(self.values[name])


class Watched:
    """The looks taken so far, and the weights as they were at the best of them."""

    def __init__(self, looks: Looks | None, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._looks = looks
        self.best = None if looks is None else Kept(trained)
        self.taken: list[Look] = []

    def met(self, iteration: int, last: int) -> bool:
        """Look if it is time; whether training may end here."""
        if self._looks is None or self.best is None or not self._looks.due(iteration, last):
            return False
        look = self._looks.look(iteration)
        self.taken.append(look)
        if look.met or best(self.taken) is look:
            self.best.take(iteration)
        return look.met

    def settle(self, iterations: int) -> int:
        """Put the best weights back; the iterations that they went through."""
        if self.best is None or not self.taken or self.taken[-1].met:
            return iterations
        self.best.put_back()
        return self.best.iteration

    def before(self, iteration: int) -> tuple[Look, ...]:
        """The looks at weights that training went back to, or before."""
        return tuple(look for look in self.taken if look.iteration <= iteration)
