from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textgen.compiled import compiled, part
from textgen.compiled_parts import bounds_of_part, in_parts, threads_for


@compiled
def _bounds(number: int, parts: int, entries: int, grain: int) -> tuple[int, int]:
    return bounds_of_part(number, parts, entries, grain)


@given(st.integers(1, 9), st.integers(0, 400), st.integers(1, 70))
def test_every_entry_is_in_one_part(parts: int, entries: int, grain: int) -> None:
    bounds = [_bounds(number, parts, entries, grain) for number in range(parts)]
    assert [entry for first, last in bounds for entry in range(first, last)] == list(range(entries))
    assert all(bound % grain == 0 or bound == entries for pair in bounds for bound in pair)


@part
def _note(
    number: int, parts: int, numbers: np.ndarray, factor: float, found: np.ndarray, parts_found: np.ndarray
) -> None:
    first, last = bounds_of_part(number, parts, numbers.size, 1)
    parts_found[number] = parts
    for place in range(first, last):
        found[place] = numbers[place] * factor


@compiled
def _scaled(threads: int, numbers: np.ndarray, factor: float, found: np.ndarray, parts_found: np.ndarray) -> None:
    in_parts(_note, threads, (numbers, factor, found, parts_found))


def scaled(threads: int, entries: int = 1000) -> list[int]:
    """Of how many parts each thread was told."""
    numbers = np.arange(entries, dtype=np.float64)
    found, parts_found = np.zeros(entries), np.zeros(threads, np.int64)
    assert threads_for(entries, each=1) >= 1
    _scaled(threads, numbers, 2.0, found, parts_found)
    np.testing.assert_array_equal(found, 2.0 * numbers)
    return parts_found.tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has other threads there")
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads_share_the_work(threads: int) -> None:
    assert scaled(threads) == [threads] * threads


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has other threads there")
def test_several_may_have_threads_of_their_own() -> None:
    together = threading.Barrier(4)

    def often(_: int) -> list[list[int]]:
        together.wait(30)
        return [scaled(2) for _ in range(200)]

    with ThreadPoolExecutor(4) as pool:
        assert all(found == [2, 2] for results in pool.map(often, range(4)) for found in results)


def test_little_is_not_shared() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [threads_for(entries, each=100) for entries in (0, 99, 199)] == [1, 1, 1]
        if sys.platform == "linux":
            assert [threads_for(entries, each=100) for entries in (200, 300, 9000)] == [2, 3, 3]
        torch.set_num_threads(1)
        assert threads_for(9000, each=100) == 1
    finally:
        torch.set_num_threads(before)


_WITHOUT_THREADS = """
import torch

torch.__file__ = "/nowhere/torch/__init__.py"

from textgen.compiled_parts import threads_for
from textgen.model.half_precision import transposed

torch.set_num_threads(4)
assert threads_for(10**6, each=1) == 1
matrix = torch.randn(640, 512).bfloat16()
assert torch.equal(transposed(matrix), matrix.t())
"""


@pytest.mark.slow
def test_where_the_threads_are_not_found_one_does_all() -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_THREADS], check=True, timeout=120)
