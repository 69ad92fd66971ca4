"""Have glibc keep freed memory, so that no tensor is mapped and cleared anew.

Left alone, glibc gives blocks above a threshold that starts at 128 kB, and the top of the heap,
back to the system at each free; half the time of a small network is then spent on page faults.
A block's threshold has a limit of its own. Heaps of further threads hold no more than two such
blocks and are given back whole, so all threads share the first one, which keeps up to 1 GiB.
"""

import ctypes

MMAP_THRESHOLD = 32 << 20
TRIM_THRESHOLD = 1 << 30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def keep_memory() -> bool:
    """Set the thresholds of this process; False where the C library has none."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    wanted = (
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        (_M_ARENA_MAX, 1),
    )
    return all([mallopt(*setting) for setting in wanted])
