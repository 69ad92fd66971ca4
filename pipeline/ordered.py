"""A map over threads that keeps order, so that results are the same whatever the timing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `work(item)` in the order of `items`, at most `threads` of them computed at once.

    For work that releases the interpreter's lock: decoding, resizing, networks. Each call computes
    on one thread of its own, so its result does not depend on `threads`. No more than `threads` + 1
    items are held; with one thread there is no other than the caller's.
    """
    if threads == 1:
        yield from map(work, items)
        return
    before = torch.get_num_threads()
    # a small product that BLAS shares out again costs more than it saves
    limits = threadpool_limits(1, user_api="blas")
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        limits.restore_original_limits()
        torch.set_num_threads(before)
