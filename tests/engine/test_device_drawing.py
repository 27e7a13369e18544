"""What a pool draws by itself, against the sampler, and the engine with and without it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.helpers import BOS, PATIENCE_SECONDS, VOCAB, HeldBackend, ids, read, request, tiny_model
from textgen.config import CELLS
from textgen.engine import Backend, Engine, GenerationRequest, StatePool
from textgen.engine.backends import DrawingPool, Drawn, Draws, Slots
from textgen.engine.decoding import TokenIds
from textgen.engine.device_backend import DeviceBackend, DevicePool, DrawingDevicePool
from textgen.engine.device_model import DeviceModel
from textgen.engine.sampling import SampledSequence, Sampler, draws_for, take_drawn
from textgen.engine.warpers import warp
from textgen.errors import BrokenModel

CPU = torch.device("cpu")


class _Fixed(DeviceModel):
    """Gives the same logits [vocab] after every token, whatever was read."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__(tiny_model(vocab_size=logits.size), CPU, torch.float32)
        self._fixed = torch.from_numpy(logits)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return self._fixed.expand(outputs.shape[0], -1)


def drawing(pool: StatePool) -> DrawingPool:
    assert isinstance(pool, DrawingPool)
    return pool


def chosen_step_by_step(
    pool: StatePool, slots: np.ndarray, first: np.ndarray, sequences: list[SampledSequence], steps: int
) -> None:
    """Appends `steps` tokens to each of `sequences`, by `step` and `choose`."""
    tokens = first
    for _ in range(steps):
        for choice in Sampler(sequences).choose(pool.step(slots, tokens)):
            assert not isinstance(choice, Exception)
        tokens = np.array([sequence.token_ids[-1] for sequence in sequences])


temperatures = st.sampled_from([0.0, 1e-3, 0.3, 0.8, 1.0, 1.7, 5.0])
sampler_settings = st.fixed_dictionaries(
    {
        "temperature": temperatures,
        "top_k": st.sampled_from([0, 1, 2, 5, 39, 40, 41, 1000]),
        "top_p": st.sampled_from([1.0, 0.95, 0.5, 0.1, 1e-3]),
        "min_p": st.sampled_from([0.0, 0.01, 0.2, 0.9, 1.0]),
        "seed": st.integers(0, 2**63 - 1),
        "forbidden_ids": st.frozensets(st.integers(0, VOCAB - 1), max_size=6),
    }
)


@pytest.mark.slow
@given(rows=st.lists(sampler_settings, min_size=1, max_size=5), steps=st.integers(1, 8), cell=st.sampled_from(CELLS))
@settings(max_examples=60)
def test_tokens_are_those_that_the_sampler_chooses(rows: list[dict], steps: int, cell: str) -> None:
    backend = DeviceBackend(tiny_model(cell, hidden_size=9), "cpu")
    requests = [request(max_new_tokens=99, eos_id=None, **row) for row in rows]
    seeds = [row["seed"] for row in rows]
    expected, found = ([SampledSequence(*pair) for pair in zip(requests, seeds, strict=True)] for _ in range(2))
    assert all(sequence.plain for sequence in found)
    slots = np.random.default_rng(0).permutation(6)[: len(rows)]
    first = np.arange(len(rows)) + 5
    slow, pool = backend.open_pool(6), drawing(backend.open_pool(6))
    chosen_step_by_step(slow, slots, first, expected, 2 * steps)
    for _ in range(2):
        drawn = pool.step_and_draw(slots, first, draws_for(found, steps))
        assert drawn.token_ids.shape == drawn.logprobs.shape == drawn.warped_logprobs.shape == (len(rows), steps)
        for sequence, *row in zip(found, *drawn, strict=True):
            assert len(list(take_drawn(sequence, *(part.tolist() for part in row)))) == steps
        first = drawn.token_ids[:, -1]
    for one, other in zip(expected, found, strict=True):
        assert other.token_ids == one.token_ids
        assert other.hypothesis().score == pytest.approx(one.hypothesis().score, abs=1e-4)
    for slot in slots:
        np.testing.assert_allclose(pool.get(int(slot)), slow.get(int(slot)), atol=1e-5)


# Few different numbers, so that many tie.
coarse = st.lists(st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 0.5, 1.0, 1.0, 60.0]), min_size=VOCAB, max_size=VOCAB)


@pytest.mark.slow
@given(logits=coarse, row=sampler_settings)
@settings(max_examples=150)
def test_ties_and_log_probabilities_are_as_in_the_sampler(logits: list[float], row: dict) -> None:
    table = np.array(logits, dtype=np.float32)
    table[8] = 0.25  # not everything is forbidden or impossible
    wish = request(max_new_tokens=99, eos_id=None, **{**row, "forbidden_ids": row["forbidden_ids"] - {8}})
    slow, sequence = SampledSequence(wish, row["seed"]), SampledSequence(wish, row["seed"])
    pool = drawing(_pool(table))
    drawn = pool.step_and_draw(np.array([0]), np.array([5]), draws_for([sequence], 8))
    for place in range(8):
        (choice,) = Sampler([slow]).choose(table[None])
        assert not isinstance(choice, Exception)
        assert drawn.token_ids[0, place] == choice.event.token_id
        assert drawn.logprobs[0, place] == pytest.approx(choice.event.logprob, abs=1e-4)
        assert drawn.warped_logprobs[0, place] == pytest.approx(choice.event.warped_logprob, abs=1e-6)


def _pool(logits: np.ndarray) -> StatePool:
    return DrawingDevicePool(_Fixed(logits), CPU, 3, use_graphs=False)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_told(spoil: float, temperature: float) -> None:
    logits = np.linspace(-1, 1, VOCAB, dtype=np.float32)
    logits[9] = spoil
    assert _is_broken(logits, request(temperature=temperature))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_to_choose_from_is_told(temperature: float) -> None:
    logits = np.full(VOCAB, -np.inf, dtype=np.float32)
    assert _is_broken(logits, request(temperature=temperature))
    logits[7] = 1.0
    assert not _is_broken(logits, request(temperature=temperature))
    assert _is_broken(logits, request(temperature=temperature, forbidden_ids=frozenset({7})))


def _is_broken(logits: np.ndarray, wish: GenerationRequest) -> bool:
    sequence = SampledSequence(wish, 0)
    drawn = drawing(_pool(logits)).step_and_draw(np.array([2]), np.array([5]), draws_for([sequence], 3))
    choices = list(take_drawn(sequence, *(part[0].tolist() for part in drawn)))
    assert (drawn.token_ids < VOCAB).all()
    broken = isinstance(choices[0], Exception)
    assert len(choices) == (1 if broken else 3)
    assert np.isnan(drawn.logprobs).all() == broken
    return broken


def test_each_slot_forbids_what_its_own_sequence_does() -> None:
    """Also when a slot goes to another sequence, and when the pool has grown."""
    logits = np.zeros(VOCAB, dtype=np.float32)
    pool = drawing(_pool(logits))
    for number in (3, 2, 1, 0):
        sets = [frozenset(range(number + row, 38)) for row in range(3)]
        sequences = [SampledSequence(request(temperature=0.0, forbidden_ids=ids), 0) for ids in sets]
        drawn = pool.step_and_draw(np.arange(3), np.full(3, 5), draws_for(sequences, 1))
        lowest = [0 if number + row > 0 else 38 for row in range(3)]
        assert drawn.token_ids[:, 0].tolist() == lowest
        pool.grow(pool.capacity + 1)
    free = SampledSequence(request(temperature=0.0), 0)
    for slot in (0, 5):
        assert pool.step_and_draw(np.array([slot]), np.array([5]), draws_for([free], 1)).token_ids.tolist() == [[0]]


@pytest.mark.parametrize("changes", [{}, {"top_k": 9}, {"top_p": 0.7}, {"min_p": 0.3}], ids=str)
def test_the_highest_random_number_takes_the_last_token(changes: dict) -> None:
    highest = np.nextafter(1.0, 0.0)
    for seed in range(30):
        logits = np.random.default_rng(seed).normal(0, 2, VOCAB).astype(np.float32)
        draws = draws_for([SampledSequence(request(temperature=1.0, **changes), 0)], 1)
        draws = draws._replace(uniforms=np.array([[highest]]))
        drawn = drawing(_pool(logits)).step_and_draw(np.array([0]), np.array([5]), draws)
        kept = warp(logits[None], request(temperature=1.0, **changes).settings)[0]
        assert drawn.token_ids[0, 0] == np.where(np.isfinite(kept), kept, np.inf).argmin()


@pytest.mark.parametrize(
    "wish",
    [
        {"typical_p": 0.9},
        {"epsilon_cutoff": 0.1},
        {"eta_cutoff": 0.1},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"presence_penalty": 0.1},
        {"no_repeat_ngram_size": 3},
        {"dry_multiplier": 0.5},
        {"logit_bias": {5: 1.0}},
        {"min_new_tokens": 2},
        {"top_logprobs": 1},
        {"forbidden_next": lambda ids: [7]},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_what_the_device_cannot_draw_is_not_plain(wish: dict) -> None:
    assert not SampledSequence(request(**wish), 0).plain


def test_a_stop_condition_is_plain_and_cuts_off_what_was_drawn_beyond_it() -> None:
    sequence = SampledSequence(request(stop_condition=lambda ids: 9 in ids, max_new_tokens=9), 0)
    assert sequence.plain
    choices = list(take_drawn(sequence, [5, 9, 6, 7], [-1.0] * 4, [-2.0] * 4))
    assert [choice.reason for choice in choices if not isinstance(choice, Exception)] == [None, "stop"]
    assert sequence.token_ids == [5, 9]


def test_what_a_stop_condition_raises_is_given() -> None:
    def fail(ids: object) -> bool:
        raise ValueError("no")

    sequence = SampledSequence(request(stop_condition=fail), 0)
    (choice,) = take_drawn(sequence, [5, 9], [-1.0] * 2, [-2.0] * 2)
    assert isinstance(choice, ValueError)


def test_not_every_pool_draws() -> None:
    """Apple's GPUs have no float64, which the sampler counts in."""
    model = DeviceModel(tiny_model(), CPU, torch.float32)
    assert not isinstance(DevicePool(model, CPU, 1, use_graphs=False), DrawingPool)
    assert isinstance(DrawingDevicePool(model, CPU, 1, use_graphs=False), DrawingPool)


# The engine on such a pool.


class Watched:
    """A backend whose pools note what they are asked: rows and tokens to draw, and how many tokens to read.

    Nothing runs until `gate` is set. `broken`: they cannot draw.
    """

    def __init__(self, inner: Backend, *, broken: bool = False) -> None:
        self.inner = inner
        self.broken = broken
        self.drawn: list[tuple[int, ...]] = []
        self.tokens_read = 0
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open_pool(self, capacity: int) -> StatePool:
        return WatchedPool(self, self.inner.open_pool(capacity))


class WatchedPool:
    def __init__(self, backend: Watched, inner: StatePool) -> None:
        self._backend = backend
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        assert self._backend.gate.wait(PATIENCE_SECONDS)
        self._backend.tokens_read += sum(part.size for part in token_ids)
        self._inner.read_many(slots, token_ids)

    def step_and_draw(self, slots: Slots, token_ids: TokenIds, draws: Draws) -> Drawn:
        assert self._backend.gate.wait(PATIENCE_SECONDS)
        self._backend.drawn.append(draws.uniforms.shape)
        if self._backend.broken:
            raise RuntimeError("out of luck")
        return drawing(self._inner).step_and_draw(slots, token_ids, draws)


@pytest.fixture(scope="module")
def device_backend() -> DeviceBackend:
    return DeviceBackend(tiny_model(hidden_size=24), "cpu")


def engine_on(backend: object) -> Engine:
    return Engine(backend)  # type: ignore[arg-type]


def without_drawing(backend: Backend) -> HeldBackend:
    held = HeldBackend(backend)
    held.open()
    return held


WISHES = [
    request(BOS, 5, seed=1, max_new_tokens=61, eos_id=None),
    request(BOS, 6, 7, seed=2, temperature=0.0, forbidden_ids=frozenset({0, 1, 3}), max_new_tokens=16),
    request(BOS, 8, seed=3, temperature=1.5, top_p=0.9, max_new_tokens=200),
    request(BOS, 9, seed=4, top_k=5, min_p=0.1, num_samples=3, max_new_tokens=13),
    request(BOS, 9, seed=4, stop_condition=lambda new: len(new) > 2 and new[-1] % 7 == 3, max_new_tokens=50),
    request(BOS, 5, seed=5, repetition_penalty=1.2, max_new_tokens=11),  # from here on by `choose`
    request(BOS, 5, seed=6, top_logprobs=3, max_new_tokens=11),
    request(BOS, 5, num_beams=3, max_new_tokens=9),
]


def test_the_engine_writes_the_same_texts_with_and_without(device_backend: DeviceBackend) -> None:
    found = []
    for backend in (device_backend, without_drawing(device_backend)):
        with engine_on(backend) as engine:
            streams = [engine.submit(wish) for wish in WISHES]
            events = [list(stream) for stream in streams]
        found.append(events)
    for one, other in zip(*found, strict=True):
        assert [hypothesis.token_ids for hypothesis in one[-1].hypotheses] == [
            hypothesis.token_ids for hypothesis in other[-1].hypotheses
        ]
        assert one[-1].reason == other[-1].reason
        assert len(one) == len(other)
        for first, second in zip(one[-1].hypotheses, other[-1].hypotheses, strict=True):
            assert first.score == pytest.approx(second.score, abs=1e-4)


def test_events_come_in_order_with_their_log_probabilities(device_backend: DeviceBackend) -> None:
    with engine_on(device_backend) as engine:
        tokens, finished = read(engine.submit(request(seed=3, max_new_tokens=21, eos_id=None)))
    assert [event.index for event in tokens] == list(range(21))
    assert tuple(event.token_id for event in tokens) == finished.hypotheses[0].token_ids
    scores = [event.logprob for event in tokens]
    with engine_on(device_backend) as engine:
        given_back = engine.score((BOS, 5, 6, *finished.hypotheses[0].token_ids))
    np.testing.assert_allclose(scores, [score.logprob for score in given_back[2:]], atol=1e-4)


def test_several_tokens_at_once_only_where_nobody_waits(device_backend: DeviceBackend) -> None:
    alone = Watched(device_backend)
    with engine_on(alone) as engine:
        assert len(ids(engine.submit(request(max_new_tokens=20, eos_id=None)))) == 20
    assert alone.drawn == [(1, 8)] * 3
    # Beside a search, which reads a token in each round, nobody runs ahead.
    watched = Watched(device_backend)
    watched.gate.clear()
    with engine_on(watched) as engine:
        search = engine.submit(request(num_beams=2, max_new_tokens=10, min_new_tokens=10))
        sample = engine.submit(request(max_new_tokens=40, eos_id=None))
        watched.gate.set()
        for stream in (search, sample):
            list(stream)
    beside = watched.drawn.count((1, 1))
    assert beside in (9, 10)  # the search may have read its prompt a round earlier
    assert watched.drawn == [(1, 1)] * beside + [(1, 8)] * 4


@pytest.mark.parametrize("length", range(1, 18))
def test_what_was_drawn_beyond_an_end_leaves_no_trace(device_backend: DeviceBackend, length: int) -> None:
    """Neither in a text that goes on from there, whose beginning is remembered, nor in who has the slot next."""
    with engine_on(device_backend) as engine:
        beginning = ids(engine.submit(request(seed=1, max_new_tokens=length, eos_id=None)))
        found = ids(engine.submit(request(BOS, 5, 6, *beginning, temperature=0.0, eos_id=None)))
        other = ids(engine.submit(request(BOS, 7, temperature=0.0, eos_id=None)))
    with engine_on(device_backend) as engine:
        assert found == ids(engine.submit(request(BOS, 5, 6, *beginning, temperature=0.0, eos_id=None)))
        assert other == ids(engine.submit(request(BOS, 7, temperature=0.0, eos_id=None)))


def test_running_texts_are_remembered(device_backend: DeviceBackend) -> None:
    """Each 64th token is the last of a run, whose state is at hand; so little has to be read again."""
    watched = Watched(device_backend)
    with engine_on(watched) as engine:
        beginning = ids(engine.submit(request(seed=1, max_new_tokens=131, eos_id=None)))
        assert watched.tokens_read == 2
        ids(engine.submit(request(BOS, 5, 6, *beginning, max_new_tokens=1, eos_id=None)))
    assert watched.tokens_read - 2 <= 4


def test_a_pool_that_fails_fails_those_who_asked_it(device_backend: DeviceBackend) -> None:
    with engine_on(Watched(device_backend, broken=True)) as engine:
        plain = engine.submit(request(num_samples=2))
        other = engine.submit(request(repetition_penalty=1.1, max_new_tokens=5, eos_id=None))
        with pytest.raises(RuntimeError, match="out of luck"):
            list(plain)
        assert len(ids(other)) == 5
        assert engine.live_rows == 0


def test_a_broken_model_is_told_once() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.output_bias[9] = float("nan")
    with engine_on(DeviceBackend(model, "cpu")) as engine:
        for _ in range(2):
            with pytest.raises(BrokenModel):
                list(engine.submit(request(num_samples=2)))


def test_a_request_s_own_function_may_fail(device_backend: DeviceBackend) -> None:
    def fail(new: Sequence[int]) -> bool:
        if len(new) == 3:
            raise ValueError("no")
        return False

    with engine_on(device_backend) as engine:
        failing = engine.submit(request(num_samples=2, stop_condition=fail, eos_id=None))
        other = engine.submit(request(max_new_tokens=30, eos_id=None))
        with pytest.raises(ValueError, match="no"):
            list(failing)
        assert len(ids(other)) == 30
        assert engine.live_rows == 0
