"""Batches that fit the device: where one has no room, halves of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from pipeline.errors import ResourceUnavailable

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_fitting_batches(
    jobs: Sequence[Job], size: int, run: Callable[[Sequence[Job]], Result]
) -> Iterator[tuple[Sequence[Job], Result]]:
    """Yield batches of `jobs` in order, at most `size` each, with what `run` made of them.

    A batch that runs out of device memory is run again by halves, and so are those after it: a
    job's seed is its own, so its result is the same in any batch, but for the last bits of batched
    arithmetic. Raises ResourceUnavailable where one job alone has no room.
    """
    done = 0
    while done < len(jobs):
        batch = jobs[done : done + size]
        results = _unless_full(run, batch)
        if results is not None:
            yield batch, results
            done += len(batch)
            continue
        if len(batch) == 1:
            raise ResourceUnavailable(
                "out of memory on the device with a batch of one; use a smaller model.dtype, "
                "model.resolution or a larger device"
            )
        size = (len(batch) + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _unless_full(run: Callable[[Sequence[Job]], Result], batch: Sequence[Job]) -> Result | None:
    """What `run` returns, or None; the error's frames, which hold the tensors, are gone then."""
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        return None
