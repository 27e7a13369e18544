"""The C library's allocator, told to keep what training frees for what it needs next."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3). Freed blocks above the one size go back to the system at once, those above the other at the heap's end.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_TRIM_THRESHOLD = (1 << 31) - 1
# Some releases of glibc take no more than 32 MB; larger blocks are then mapped anew each time.
_MMAP_THRESHOLDS = (1 << 30, 32 << 20)


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory; says whether the C library could be told so (glibc alone can).

    A training step allocates and frees the same tens of megabytes as the one before it. glibc gives them back to the
    system each time and gets them again page by page, each one zeroed: a sixth to a quarter of a step's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return kept and bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
