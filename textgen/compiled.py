"""How functions become machine code: by numba at their first use, and kept beside their file or in its cache folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **options: Any) -> F:
    """`function` as machine code that Python may call and other threads can run beside."""
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast(F, numba.njit(function, cache=True, **options))
    except RuntimeError:  # there is no folder that it could be kept in
        return cast(F, numba.njit(function, **options))


def part(function: F, **options: Any) -> F:
    """`function` as a part of other compiled ones, which takes less time to compile."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


def inner_loop(function: F) -> F:
    """For a part that runs over numbers without nan and may add them up in any order: several at once then."""
    return part(function, fastmath={"reassoc", "nnan", "nsz", "contract"})
