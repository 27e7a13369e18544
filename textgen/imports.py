"""Importing what is large, or may be missing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the imports of a server: without Python's search for garbage, of which they make hardly any.

    That search is an eighth of their time. What is there afterwards stays for good and is left out of later searches.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def can_compile() -> bool:
    """Whether numba is there, and is not told to leave Python as it is (`NUMBA_DISABLE_JIT`)."""
    try:
        import numba
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


@cache
def has_dot_products() -> bool:
    """Whether numba is there, and this processor has dot products of bf16 numbers (AVX512-BF16)."""
    return _compiles_for("avx512bf16")


@cache
def has_bf16_tiles() -> bool:
    """Whether numba is there, and this processor has AMX, by which oneDNN multiplies bf16 several times as fast."""
    return _compiles_for("amx-bf16")


def can_multiply() -> bool:
    """Whether those dot products are the fastest that this processor has for bf16 numbers."""
    return has_dot_products() and not has_bf16_tiles()


def _compiles_for(feature: str) -> bool:
    """Whether machine code is made for a processor that has this, by LLVM's name."""
    if not can_compile():
        return False
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature))
