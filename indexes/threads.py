"""How many threads FAISS uses: results may depend on it, so it is set, never inherited."""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss


@contextmanager
def faiss_threads(n: int) -> Iterator[None]:
    """Within the block FAISS runs on `n` threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
