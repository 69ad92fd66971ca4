"""The rows of screen.parquet as the detectors read them: each prompt's seeds, each seed's steps.

A seed has one trajectory, steps 0, 1, 2 … of the sampler, and perhaps one late step: the prediction
at a late timestep of the very noise that the trajectory started from. Both step 0 and the late one
are on pure noise; the late one has the larger number.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detection.errors import MeasureError
from pipeline.detection.noise_gap import Column, Gram

PURE_NOISE, TRAJECTORY = "pure_noise", "trajectory"

Rows = npt.NDArray[np.bool_]


class ScoredSteps:
    """Scored steps, sorted by prompt, seed and step, so that no order of rows changes a sum.

    `gram`: their scalars; `dot_prev`: <eps_c here, eps_c at the step before>, nan where there is
    none. All columns are (n,).
    """

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """`columns`: prompt_id, seed, step, x_t_source, eps_dot_prev and those of `Gram`, (n,).

        Raises MeasureError on a column that is missing, columns of several lengths, a source that
        is unknown, a step twice in one run, and values not finite.
        """
        names = [*_KEYS, "eps_dot_prev", *(field.name for field in fields(Gram))]
        if missing := [name for name in names if name not in columns]:
            raise MeasureError(f"scored steps: no column {', '.join(missing)}")
        if len({np.shape(columns[name]) for name in names}) != 1:
            raise MeasureError("scored steps: expected columns of one length")
        pure = np.asarray(columns["x_t_source"] == PURE_NOISE, bool)
        if not (pure | (columns["x_t_source"] == TRAJECTORY)).all():
            raise MeasureError(f"scored steps: x_t_source is {PURE_NOISE} or {TRAJECTORY}")
        step, seed = columns["step"], columns["seed"]
        aside = pure & (step > 0)
        order = np.lexsort((step, aside, seed, columns["prompt_id"]))
        self.prompt_id = columns["prompt_id"][order]
        self.step: npt.NDArray[np.int64] = step[order].astype(np.int64)
        self.gram = Gram(**{field.name: columns[field.name][order] for field in fields(Gram)})
        self.dot_prev: Column = columns["eps_dot_prev"][order].astype(np.float64)
        self._aside: Rows = aside[order]
        self._run = _numbered(self.prompt_id, seed[order])
        together = (np.diff(self._run) == 0) & (self._aside[1:] == self._aside[:-1])
        if (together & (np.diff(self.step) == 0)).any():
            raise MeasureError("scored steps: a step twice in one run")
        self._follows = np.concatenate([np.zeros(min(len(order), 1), bool), together])

    def __len__(self) -> int:
        return len(self.step)

    def first(self, steps: int | None = 1) -> Rows:
        """The first `steps` steps of each trajectory; None: all of them. (n,) bool."""
        return ~self._aside if steps is None else ~self._aside & (self.step < steps)

    def late(self) -> Rows:
        """The steps on pure noise that are none of a trajectory. (n,) bool."""
        return self._aside

    def before(self, values: Column) -> Column:
        """`values` (n,) of the step before on the same trajectory, nan where there is none."""
        previous = np.full(len(self), np.nan)
        rows = np.flatnonzero(self._follows & ~self._aside)
        rows = rows[self.step[rows] == self.step[rows - 1] + 1]
        previous[rows] = values[rows - 1]
        return previous

    def mean(self, values: Column, rows: Rows, *, per_seed: int | None = None) -> dict[int, float]:
        """The mean of `values` (n,) over the chosen `rows` (n,) of each prompt_id.

        A prompt is left out unless each of its seeds has `per_seed` of them (None: at least one),
        none of them nan.
        """
        chosen = rows & ~np.isnan(values)
        counts = np.bincount(self._run[chosen], minlength=self._run.max(initial=-1) + 1)
        full = counts > 0 if per_seed is None else counts == per_seed
        prompts, place = np.unique(self.prompt_id, return_inverse=True)
        whole = np.ones(len(prompts), bool)
        np.logical_and.at(whole, place, full[self._run])
        totals = np.bincount(place[chosen], values[chosen], minlength=len(prompts))
        numbers = np.bincount(place[chosen], minlength=len(prompts))
        return {
            int(prompt): float(total / number)
            for prompt, total, number, kept in zip(prompts, totals, numbers, whole, strict=True)
            if kept
        }


_KEYS = ("prompt_id", "seed", "step", "x_t_source")


def _numbered(*sorted_keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Runs of equal keys, numbered from 0; the keys are sorted."""
    if not len(sorted_keys[0]):
        return np.zeros(0, np.int64)
    changed = np.zeros(len(sorted_keys[0]), bool)
    for keys in sorted_keys:
        changed[1:] |= keys[1:] != keys[:-1]
    return np.cumsum(changed)
