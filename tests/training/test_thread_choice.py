from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from textgen.training.thread_choice import ThreadChoice


class Machine:
    """Steps that take what `seconds` says of the number of threads, one after the other."""

    def __init__(self, most: int, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.threads = most
        self.seconds = seconds
        self.changes: list[tuple[float, int]] = []
        self.choice = ThreadChoice(most, self._set)

    def _set(self, threads: int) -> None:
        self.threads = threads
        self.changes.append((self.now, threads))

    def work(self, seconds: float) -> dict[int, float]:
        """How long each number of threads was used."""
        end, spent = self.now + seconds, dict[int, float]()
        while self.now < end:
            assert self.threads == self.choice.threads
            threads, step = self.threads, self.seconds(self.threads)
            self.now += step
            spent[threads] = spent.get(threads, 0.0) + step
            self.choice.add(step)
        return spent


def idle(threads: int) -> float:
    return 0.1 / threads**0.8


def crowded(threads: int) -> float:
    """Another program has one of two processors."""
    return 0.1 if threads == 1 else 0.3


def test_all_are_used_where_nobody_else_works() -> None:
    spent = Machine(2, idle).work(600)
    assert spent[2] > 0.98 * sum(spent.values())


@pytest.mark.parametrize("before", [0.0, 100.0])
def test_it_gives_way_soon_and_comes_back(before: float) -> None:
    machine = Machine(2, idle)
    machine.work(before)
    machine.seconds = crowded
    machine.work(5)
    spent = machine.work(200)
    assert spent[1] > 0.9 * sum(spent.values())
    machine.seconds = idle
    machine.work(70)
    assert machine.threads == 2
    spent = machine.work(200)
    assert spent[2] > 0.95 * sum(spent.values())


def test_some_of_many_may_be_best() -> None:
    """Three of eight processors are taken: four threads are faster than eight, and than two."""
    machine = Machine(8, lambda threads: 0.1 / threads if threads <= 5 else 0.1)
    machine.work(10)
    spent = machine.work(300)
    assert spent[4] > 0.9 * sum(spent.values())
    assert set(spent) <= {8, 4, 2}


def test_steps_of_long_are_tried_too() -> None:
    machine = Machine(2, lambda threads: 8.0 if threads == 1 else 30.0)
    machine.work(300)
    spent = machine.work(3000)
    assert spent[1] > 0.6 * sum(spent.values())


def test_a_step_now_and_then_that_takes_long_changes_nothing() -> None:
    machine = Machine(2, idle)
    seconds = iter(range(10**6))
    machine.seconds = lambda threads: 5.0 if next(seconds) % 40 == 39 else idle(threads)
    spent = machine.work(600)
    assert spent[2] > 0.9 * sum(spent.values())


def test_one_thread_is_left_alone() -> None:
    machine = Machine(1, crowded)
    machine.work(50)
    assert machine.changes == []


def test_pytorch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    try:
        choice = ThreadChoice(2)
        for _ in range(6):
            choice.add(1.0)
        assert torch.get_num_threads() == choice.threads == 1
        choice.close()
        assert torch.get_num_threads() == choice.threads == 2
    finally:
        torch.set_num_threads(before)
