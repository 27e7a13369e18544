from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from textgen.engine.prefix_cache import PrefixCache

Text = tuple[int, ...]
# Few tokens, so that texts share beginnings; ids of several bytes, so that labels are compared token by token.
texts = st.lists(st.sampled_from((1, 2, 256, 257, 65_536)), max_size=8).map(tuple)
AMPLE = 10**9


def state(number: float, size: int = 3) -> np.ndarray:
    return np.full(size, number, dtype=np.float32)


def filled(*entries: Text, max_bytes: int = AMPLE) -> PrefixCache:
    cache = PrefixCache(max_bytes)
    for number, text in enumerate(entries):
        cache.insert(text, state(number))
    return cache


def found(cache: PrefixCache, text: Text) -> tuple[int, float] | None:
    result = cache.longest_prefix(text)
    return None if result is None else (result[0], float(result[1][0]))


# What a node counts beside its label and its state.
NODE = filled((1,)).nbytes - 4 - 3 * 4


def test_the_longest_stored_beginning_is_found() -> None:
    cache = filled((5, 6), (5, 6, 7, 8), (5, 9))
    assert found(cache, (5, 6, 7, 8, 1)) == (4, 1.0)
    assert found(cache, (5, 6, 7, 8)) == (4, 1.0)
    assert found(cache, (5, 6, 7, 9)) == (2, 0.0)
    assert found(cache, (5, 6, 7)) == (2, 0.0)
    assert found(cache, (5, 9, 5, 6)) == (2, 2.0)
    assert found(cache, (5,)) is None
    assert found(cache, (6,)) is None
    assert found(cache, ()) is None
    assert len(cache) == 3


def test_a_place_where_texts_part_is_no_state() -> None:
    cache = filled((1, 2, 3), (1, 2, 4))
    assert found(cache, (1, 2, 5)) is None
    cache.insert((1, 2), state(9))
    assert found(cache, (1, 2, 5)) == (2, 9.0)
    assert found(cache, (1, 2, 3)) == (3, 0.0)


def test_the_state_before_any_text_can_be_stored_too() -> None:
    cache = filled(())
    assert found(cache, (4, 4)) == (0, 0.0)


def test_a_newer_state_takes_the_place_of_an_older_one() -> None:
    cache = filled((1, 2))
    before = cache.nbytes
    cache.insert((1, 2), state(7, size=5))
    assert found(cache, (1, 2)) == (2, 7.0)
    assert len(cache) == 1
    assert cache.nbytes == before + 2 * 4


def test_arrays_are_as_good_as_tuples() -> None:
    cache = PrefixCache(AMPLE)
    cache.insert(np.array([3, 70_000], dtype=np.int64), state(1))
    assert found(cache, (3, 70_000, 1)) == (2, 1.0)
    result = cache.longest_prefix(np.array([3, 70_000], dtype=np.uint32))
    assert result is not None
    assert result[0] == 2


def test_states_are_kept_as_they_were() -> None:
    pool = np.ones((2, 3), dtype=np.float32)
    cache = PrefixCache(AMPLE)
    cache.insert((1,), pool[0])
    pool[:] = 0
    result = cache.longest_prefix((1,))
    assert result is not None
    assert result[1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        result[1][0] = 5


def test_least_recently_used_go_first_and_a_find_is_a_use() -> None:
    room_for_two = filled((1, 1), (2, 2)).nbytes
    cache = filled((1, 1), (2, 2), max_bytes=room_for_two)
    assert found(cache, (1, 1, 5)) == (2, 0.0)
    cache.insert((3, 3), state(2))
    assert found(cache, (2, 2)) is None
    assert found(cache, (1, 1)) == (2, 0.0)
    assert found(cache, (3, 3)) == (2, 2.0)


def test_what_is_too_large_drives_nothing_out() -> None:
    cache = filled((1,), (2,), max_bytes=4_000)
    cache.insert((3,), state(9, size=1_000))
    cache.insert(tuple(range(1_000)), state(9))
    assert len(cache) == 2
    assert found(cache, (3,)) is None
    nothing = filled((1,), max_bytes=0)
    assert len(nothing) == nothing.nbytes == 0


def test_a_growing_text_in_little_room_keeps_the_newest_states_and_one_edge() -> None:
    texts = [tuple(range(end)) for end in range(1, 501)]
    cache = filled(*texts, max_bytes=filled(texts[-1]).nbytes + 3 * NODE)
    kept = texts[-len(cache) :]
    assert 1 < len(kept) < 5
    # The places of the states dropped are gone too: it is the tree of those that are left.
    assert cache.nbytes == filled(*kept).nbytes
    assert found(cache, (*kept[0], 999)) == (len(kept[0]), 499.0 - len(kept) + 1)
    assert found(cache, kept[0][:-1]) is None


def test_it_counts_no_less_than_python_spends() -> None:
    rng = np.random.default_rng(1)
    keys = [tuple(rng.integers(0, 3, size=rng.integers(1, 40)).tolist()) for _ in range(2_000)]
    tracemalloc.start()
    try:
        cache = filled(*keys)
        spent, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent / 2 < cache.nbytes
    assert spent <= cache.nbytes


class CacheMachine(RuleBasedStateMachine):
    """The cache against a dictionary. What is stored determines the tree: a newly filled one has as many bytes."""

    @initialize(max_bytes=st.integers(900, 9_000))
    def start(self, max_bytes: int) -> None:
        self.cache = PrefixCache(max_bytes)
        self.stored: dict[Text, np.ndarray] = {}  # least recently used first
        self.number = 0

    @rule(text=texts, size=st.integers(1, 300))
    def insert(self, text: Text, size: int) -> None:
        self.number += 1
        value = state(self.number, size)
        self.cache.insert(text, value)
        if value.nbytes + 4 * len(text) + NODE <= self.cache.max_bytes:
            self.stored.pop(text, None)
            self.stored[text] = value
        while fresh(self.stored).nbytes > self.cache.max_bytes:
            del self.stored[next(iter(self.stored))]

    @rule(text=texts)
    def look_up(self, text: Text) -> None:
        beginnings = [text[:size] for size in range(len(text), -1, -1) if text[:size] in self.stored]
        result = self.cache.longest_prefix(text)
        if not beginnings:
            assert result is None
            return
        assert result is not None
        length, value = result
        assert text[:length] == beginnings[0]
        self.stored[beginnings[0]] = self.stored.pop(beginnings[0])
        assert value.tobytes() == self.stored[beginnings[0]].tobytes()

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        assert len(self.cache) == len(self.stored)
        assert self.cache.nbytes == fresh(self.stored).nbytes <= self.cache.max_bytes


def fresh(stored: dict[Text, np.ndarray]) -> PrefixCache:
    cache = PrefixCache(AMPLE)
    for text, value in stored.items():
        cache.insert(text, value)
    return cache


TestCacheAgainstADictionary = CacheMachine.TestCase
TestCacheAgainstADictionary.settings = settings(stateful_step_count=25)


@pytest.mark.slow
@given(st.lists(texts, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_insertion_leaves_no_trace(keys: list[Text], random: object) -> None:
    shuffled = list(keys)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert filled(*keys).nbytes == filled(*shuffled).nbytes
