"""Have glibc keep freed memory, so that no tensor is mapped and cleared anew.

Left alone, glibc gives blocks above a threshold that starts at 128 kB, and the top of the heap,
back to the system at each free; half the time of a small network is then spent on page faults.
The values are the largest block's own limit, and twice that for the heap.
"""

import ctypes

MMAP_THRESHOLD = 32 << 20
TRIM_THRESHOLD = 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_memory() -> bool:
    """Set the thresholds of this process; False where the C library has none."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    done = mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    return bool(mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD) and done)
