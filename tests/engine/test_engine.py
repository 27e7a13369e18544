from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.engine.helpers import (
    EOS,
    PATIENCE_SECONDS,
    VOCAB,
    HeldBackend,
    ManualClock,
    TableBackend,
    ids,
    open_onnx,
    read,
    request,
    text,
    tiny_model,
)
from textgen.engine import (
    Backend,
    BeamsEvent,
    Engine,
    FinishedEvent,
    GenerationRequest,
    GenerationStream,
    Snapshot,
    StatePool,
    TokenEvent,
    TokenScore,
    TorchBackend,
)
from textgen.errors import Busy, EngineClosed, InvalidSetting
from textgen.limits import Limits
from textgen.model import LanguageModel


def wait_until_free(engine: Engine) -> None:
    """Waits for the engine's thread: a request of its own goes through a whole round after what came before."""
    for _ in range(50):
        list(engine.submit(request(max_new_tokens=1)))
        if engine.live_rows == 0:
            return
    pytest.fail("the rows were not freed")


def test_a_request_becomes_tokens_and_an_end(engine: Engine) -> None:
    tokens, finished = read(engine.submit(request(max_new_tokens=7, eos_id=None, seed=1)))
    assert [token.index for token in tokens] == list(range(7))
    assert finished.reason == "length"
    (hypothesis,) = finished.hypotheses
    assert hypothesis.token_ids == tuple(token.token_id for token in tokens)
    assert hypothesis.score == pytest.approx(sum(token.logprob for token in tokens) / 7)
    assert hypothesis.finished


def test_greedy_generation_is_the_backends_argmax(engine: Engine) -> None:
    prompt = [1, 5, 6]
    tokens, _ = read(engine.submit(request(*prompt, temperature=0.0, max_new_tokens=15, eos_id=None)))
    context = np.array([*prompt, *(token.token_id for token in tokens)])
    logits = engine.backend.open_pool(1).read_all(0, context)[2:-1].astype(np.float64)  # [new tokens, vocab]
    assert [token.token_id for token in tokens] == logits.argmax(1).tolist()
    logprobs = logits.max(1) - np.log(np.exp(logits).sum(1))
    assert [token.logprob for token in tokens] == pytest.approx(logprobs.tolist(), abs=1e-4)


KINDS: list[dict[str, Any]] = [
    {"temperature": 1.5},
    {"temperature": 0.0, "repetition_penalty": 1.2},
    {"top_k": 5, "top_p": 0.9, "top_logprobs": 3},
    {"num_samples": 3, "frequency_penalty": 0.5},
    {"num_beams": 4, "num_return": 2},
    {"num_beams": 4, "beam_sampling": True},
    {"num_beams": 4, "num_beam_groups": 2, "no_repeat_ngram_size": 3},
    {"min_p": 0.05, "typical_p": 0.9, "dry_multiplier": 0.8},
    {"eta_cutoff": 0.01, "min_new_tokens": 12, "logit_bias": {7: 1.0}},
]


def of_kind(kind: int, *prompt: int, **settings: Any) -> GenerationRequest:
    return request(*prompt, **{**KINDS[kind], "max_new_tokens": 20, **settings})


def told(stream: GenerationStream) -> list[Any]:
    """All that a stream tells; of a search the end, since of its steps those that nobody read in time are dropped."""
    return [event for event in stream if not isinstance(event, BeamsEvent)]


@pytest.fixture(params=["torch", "lstm", "gru"])
def kinds_backend(request: pytest.FixtureRequest, model: LanguageModel) -> Backend:
    if request.param == "torch":
        return TorchBackend(model)
    return open_onnx(tiny_model(request.param, hidden_size=17))


@pytest.mark.slow
def test_the_same_request_gives_the_same_text_in_any_company(kinds_backend: Backend) -> None:
    """To the last bit of all numbers: alone, among 63 of all kinds, after cancels, and from remembered states."""
    wanted = [of_kind(kind, *text(kind % 3, size=5 + 60 * (kind % 3)), seed=kind) for kind in range(len(KINDS))]
    context = text(5, size=300)
    with Engine(kinds_backend, limits=Limits(max_prefix_cache_bytes=0)) as engine:
        alone = [told(engine.submit(one)) for one in wanted]
        scores, snapshot = engine.score(context), engine.snapshot(context)

    answers: list[Any] = []

    def ask(engine: Engine) -> None:
        answers.append((engine.score(context), engine.snapshot(context)))

    held = HeldBackend(kinds_backend)
    with Engine(held) as engine:
        others = [
            engine.submit(of_kind(number % len(KINDS), *text(number % 7, size=1 + 11 * (number % 30)), seed=number))
            for number in range(63 - len(wanted))
        ]
        streams = [engine.submit(one) for one in wanted]
        askers = [threading.Thread(target=ask, args=(engine,)) for _ in range(2)]
        for asker in askers:
            asker.start()
        held.allow(40)
        held.wait_for_call(41)
        for other in others[::3]:
            other.cancel()
        held.open()
        assert [told(stream) for stream in streams] == alone
        for asker in askers:
            asker.join(PATIENCE_SECONDS)
        for other in others:
            list(other)
        assert answers == [(scores, snapshot)] * 2
        # Once more: now the prompts are remembered, whole or in part.
        before = held.tokens_read
        assert [told(engine.submit(one)) for one in wanted] == alone
        assert (held.tokens_read == before) == kinds_backend.exact_rows
    assert max(size for kind, size in held.calls if kind == "step") >= (20 if kinds_backend.exact_rows else 4)


def test_sample_i_is_the_same_among_however_many(engine: Engine) -> None:
    settings = {"temperature": 2.0, "max_new_tokens": 30, "seed": 11}
    *_, five = engine.submit(request(num_samples=5, **settings))
    *_, two = engine.submit(request(num_samples=2, **settings))
    *_, one = engine.submit(request(**settings))
    assert isinstance(five, FinishedEvent)
    assert five.hypotheses[:2] == two.hypotheses  # type: ignore[union-attr]
    assert five.hypotheses[:1] == one.hypotheses  # type: ignore[union-attr]
    assert len({hypothesis.token_ids for hypothesis in five.hypotheses}) == 5


def test_samples_stream_beside_one_another(engine: Engine) -> None:
    tokens, finished = read(engine.submit(request(num_samples=3, max_new_tokens=6, eos_id=None)))
    for sample in range(3):
        own = [token for token in tokens if token.sample == sample]
        assert [token.index for token in own] == list(range(6))
        assert tuple(token.token_id for token in own) == finished.hypotheses[sample].token_ids
    assert [token.sample for token in tokens] == [0, 1, 2] * 6


def test_seeds_differ_and_the_one_drawn_can_be_used_again(engine: Engine) -> None:
    first = engine.submit(request(max_new_tokens=40, eos_id=None, temperature=2.0, seed=None))
    second = engine.submit(request(max_new_tokens=40, eos_id=None, temperature=2.0, seed=None))
    assert first.seed != second.seed
    tokens = ids(first)
    assert tokens != ids(second)
    again = engine.submit(request(max_new_tokens=40, eos_id=None, temperature=2.0, seed=first.seed))
    assert again.seed == first.seed
    assert ids(again) == tokens


def test_the_end_token_ends_and_min_new_tokens_holds_it_off() -> None:
    """After any token the end token is by far the likeliest."""
    backend = TableBackend(lambda token, count: np.where(np.arange(6) == EOS, 9.0, 0.0), vocab_size=6)
    with Engine(backend) as engine:
        tokens, finished = read(engine.submit(request(1, 3, temperature=0.0)))
        assert [token.token_id for token in tokens] == [EOS]
        assert (finished.reason, finished.hypotheses[0].token_ids) == ("eos", (EOS,))
        tokens, finished = read(engine.submit(request(1, 3, temperature=0.0, min_new_tokens=4)))
        assert [token.token_id for token in tokens] == [0, 0, 0, 0, EOS]
        assert finished.reason == "eos"
        forbidden = request(1, 3, temperature=0.0, forbidden_ids=frozenset({EOS, 0}), max_new_tokens=5)
        tokens, finished = read(engine.submit(forbidden))
        assert [token.token_id for token in tokens] == [1] * 5
        assert finished.reason == "length"
        tokens, finished = read(engine.submit(request(1, 3, temperature=0.0, min_new_tokens=1, max_new_tokens=1)))
        assert ([token.token_id for token in tokens], finished.reason) == ([0], "length")


def test_the_stop_condition_sees_new_tokens_and_ends_the_stream(engine: Engine) -> None:
    seen: list[list[int]] = []

    def stop(tokens: Sequence[int]) -> bool:
        seen.append(list(tokens))
        return len(tokens) == 4

    tokens, finished = read(engine.submit(request(stop_condition=stop, eos_id=None)))
    assert finished.reason == "stop"
    assert seen == [[token.token_id for token in tokens[:count]] for count in range(1, 5)]


def test_requests_are_checked_at_the_door(model: LanguageModel) -> None:
    with Engine(model, limits=Limits(max_new_tokens=5)) as engine:
        with pytest.raises(InvalidSetting):
            engine.submit(request(max_new_tokens=6))
        with pytest.raises(InvalidSetting):
            engine.submit(request(VOCAB))
        assert engine.live_rows == 0


def test_cancel_works_from_another_thread_while_the_reader_waits(held: HeldBackend) -> None:
    with Engine(held) as engine:
        stream = engine.submit(request(eos_id=None))
        held.allow(3)
        held.wait_for_call(4)
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        canceller.join()
        held.allow(1)  # the step that is running comes to its end, and no other is begun
        tokens, finished = read(stream)
        assert (len(tokens), finished.reason) == (3, "cancelled")
        assert len(held.calls) == 4
        assert engine.live_rows == 0
        stream.cancel()
        assert list(stream) == []


def test_leaving_the_with_block_cancels(engine: Engine) -> None:
    with engine.submit(request(max_new_tokens=4000, eos_id=None)) as stream:
        assert isinstance(next(stream), TokenEvent)
    *_, last = stream
    assert isinstance(last, FinishedEvent)
    assert last.reason == "cancelled"


@pytest.mark.slow
def test_an_abandoned_stream_frees_its_rows(engine: Engine) -> None:
    stream = engine.submit(request(max_new_tokens=4000, eos_id=None))
    next(stream)
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    wait_until_free(engine)


def test_nobody_reading_does_not_hold_up_the_others(engine: Engine) -> None:
    unread = engine.submit(request(max_new_tokens=4000, eos_id=None))
    tokens, _ = read(engine.submit(request(max_new_tokens=300, eos_id=None)))
    assert len(tokens) == 300
    unread.cancel()
    assert len(list(unread)) >= 300


def test_the_deadline_is_the_clocks(held: HeldBackend) -> None:
    clock = ManualClock()
    with Engine(held, limits=Limits(request_deadline_seconds=5.0), clock=clock) as engine:
        stream = engine.submit(request(eos_id=None))
        held.allow(3)
        held.wait_for_call(4)
        clock.seconds = 5.0
        held.open()
        tokens, finished = read(stream)
        assert (len(tokens), finished.reason) == (3, "deadline")


def test_busy_is_said_at_once_and_passes(held: HeldBackend) -> None:
    with Engine(held, limits=Limits(max_rows=1, max_waiting_requests=2)) as engine:
        streams = [engine.submit(request(max_new_tokens=2, eos_id=None)) for _ in range(3)]
        assert (engine.live_rows, engine.waiting_requests) == (1, 2)
        with pytest.raises(Busy, match="2 requests are already waiting"):
            engine.submit(request(eos_id=None))
        held.open()
        assert [len(ids(stream)) for stream in streams] == [2, 2, 2]
        assert len(ids(engine.submit(request(max_new_tokens=2, eos_id=None)))) == 2


class FailingPool:
    """Fails where token 5 is stepped."""

    def __init__(self, inner: StatePool) -> None:
        self._inner = inner
        self.grow, self.reset, self.copy, self.get, self.put = (
            inner.grow,
            inner.reset,
            inner.copy,
            inner.get,
            inner.put,
        )
        self.read_all = inner.read_all

    @property
    def capacity(self) -> int:
        return self._inner.capacity

    def read_many(self, slots: np.ndarray, token_ids: Sequence[np.ndarray]) -> None:
        if any(5 in ids for ids in token_ids):
            raise RuntimeError("out of memory")
        self._inner.read_many(slots, token_ids)

    def step(self, slots: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
        if 5 in token_ids:
            raise RuntimeError("out of memory")
        return self._inner.step(slots, token_ids)


class FailingBackend(TableBackend):
    """Always gives token 3 or, after 4, token 5, with which it fails."""

    def __init__(self, *, batched: bool = False) -> None:
        super().__init__(lambda token, count: np.eye(6)[5 if token == 4 else 3] * 9, vocab_size=6, batched=batched)

    def open_pool(self, capacity: int) -> StatePool:
        return FailingPool(super().open_pool(capacity))


def test_an_error_reaches_the_stream_it_concerns_and_the_engine_lives_on() -> None:
    with Engine(FailingBackend()) as engine:
        good = engine.submit(request(1, max_new_tokens=50, temperature=0.0))
        for settings in ({}, {"num_samples": 2}, {"num_beams": 2}):
            bad = engine.submit(request(1, 4, temperature=0.0, **settings))
            assert isinstance(next(bad), TokenEvent | BeamsEvent)
            with pytest.raises(RuntimeError, match="out of memory"):
                list(bad)
            assert list(bad) == []
        with pytest.raises(RuntimeError, match="out of memory"):
            list(engine.submit(request(1, 5, 4)))
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.snapshot((1, 5, 4))
        assert len(ids(good)) == 50
        assert len(ids(engine.submit(request(1, max_new_tokens=5)))) == 5
        assert engine.live_rows == 0


def test_rows_that_fail_together_are_told_together() -> None:
    """Nobody can say which of them it was; but those who come later are served."""
    with Engine(FailingBackend(batched=True)) as engine:
        streams = [engine.submit(request(1, 4, temperature=0.0, num_samples=count)) for count in (1, 2)]
        for stream in streams:
            with pytest.raises(RuntimeError, match="out of memory"):
                list(stream)
        assert len(ids(engine.submit(request(1, max_new_tokens=5)))) == 5
        assert engine.live_rows == 0


def test_an_error_in_the_stop_condition_concerns_its_request_alone(engine: Engine) -> None:
    def broken(tokens: Sequence[int]) -> bool:
        raise KeyError("a bug of the caller")

    for num_beams in (1, 2):
        with pytest.raises(KeyError):
            list(engine.submit(request(stop_condition=broken, num_beams=num_beams)))
    assert len(ids(engine.submit(request(max_new_tokens=5, eos_id=None)))) == 5


def test_closing_ends_all_streams_and_the_thread(held: HeldBackend) -> None:
    others = set(threading.enumerate())
    engine = Engine(held, limits=Limits(max_rows=2))
    streams = [engine.submit(request(eos_id=None)) for _ in range(3)]
    held.wait_for_call(1)
    closer = threading.Thread(target=engine.close)
    closer.start()
    held.allow(1)
    closer.join(PATIENCE_SECONDS)
    assert not closer.is_alive()
    assert [list(stream)[-1].reason for stream in streams] == ["cancelled"] * 3  # type: ignore[union-attr]
    assert set(threading.enumerate()) <= others
    engine.close()
    with pytest.raises(EngineClosed):
        engine.submit(request(eos_id=None))


def test_an_engine_that_was_never_used_has_no_thread(model: LanguageModel) -> None:
    before = threading.active_count()
    Engine(model).close()
    engine = Engine(model)
    assert threading.active_count() == before
    engine.close()


@pytest.mark.slow
def test_a_dropped_engine_ends_its_thread_but_not_under_a_stream(model: LanguageModel) -> None:
    others = set(threading.enumerate())
    stream = Engine(model).submit(request(max_new_tokens=30, eos_id=None))
    (thread,) = set(threading.enumerate()) - others
    assert len(ids(stream)) == 30
    del stream
    gc.collect()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_async_errors_and_cancels(engine: Engine) -> None:
    async def scenario(failing: Engine) -> None:
        with pytest.raises(RuntimeError, match="out of memory"):
            async for _ in failing.submit(request(1, 4, temperature=0.0)):
                pass
        async with engine.submit(request(max_new_tokens=4000, eos_id=None)) as stream:
            await anext(stream)
        events = [event async for event in stream]
        assert events[-1].reason == "cancelled"  # type: ignore[union-attr]

    with Engine(FailingBackend()) as failing:
        asyncio.run(asyncio.wait_for(scenario(failing), PATIENCE_SECONDS))


class TestSnapshots:
    """The state at a place in the text, to continue, rewind or branch from."""

    def test_what_continues_is_what_would_have_come(self, engine: Engine) -> None:
        settings = {"temperature": 0.0, "eos_id": None}
        whole, _ = read(engine.submit(request(1, 5, 6, max_new_tokens=30, **settings)))
        context = (1, 5, 6, *(token.token_id for token in whole))
        for place in (1, 3, 4, 20):
            start = engine.snapshot(context[:place])
            assert start.token_ids == context[:place]
            rest = engine.submit(request(*context[place:3], start=start, max_new_tokens=33 - max(place, 3), **settings))
            tokens, _ = read(rest)
            expected = whole[max(place, 3) - 3 :]
            assert [token.token_id for token in tokens] == [token.token_id for token in expected]
            found, wanted = ([token.logprob for token in some] for some in (tokens, expected))
            assert found == wanted if engine.backend.exact_rows else found == pytest.approx(wanted, abs=1e-5)

    def test_of_a_stream_it_is_where_its_reader_is(self, engine: Engine) -> None:
        stream = engine.submit(request(1, 5, 6, max_new_tokens=50, temperature=0.0, eos_id=None))
        read_so_far = [next(stream) for _ in range(7)]
        snapshot = stream.snapshot()
        assert snapshot.token_ids == (1, 5, 6, *(event.token_id for event in read_so_far))  # type: ignore[union-attr]
        rest = [event.token_id for event in stream if isinstance(event, TokenEvent)]
        continued = engine.submit(request(start=snapshot, max_new_tokens=43, temperature=0.0, eos_id=None))
        assert ids(continued) == rest
        # And of what goes on from a snapshot in turn: from there, without the text before.
        assert continued.snapshot().token_ids == (*snapshot.token_ids, *rest)
        assert np.abs(continued.snapshot().state - stream.snapshot().state).max() < 1e-5

    def test_branches_go_their_own_ways(self, engine: Engine) -> None:
        start = engine.snapshot((1, 5, 6, 7))
        branches = [engine.submit(request(token, start=start, temperature=0.0, eos_id=None)) for token in (8, 9, 10)]
        texts = [ids(branch) for branch in branches]
        plain = [request(1, 5, 6, 7, token, temperature=0.0, eos_id=None) for token in (8, 9, 10)]
        expected = [ids(engine.submit(one)) for one in plain]
        assert texts == expected
        assert len({tuple(one) for one in texts}) == 3

    def test_samples_and_beams_go_on_from_it(self, engine: Engine) -> None:
        start = engine.snapshot((1, 5, 6, 7))
        for settings in ({"num_samples": 3}, {"num_beams": 3, "num_return": 3}, {"repetition_penalty": 1.3}):
            *_, found = engine.submit(request(start=start, eos_id=None, **settings))
            *_, expected = engine.submit(request(1, 5, 6, 7, eos_id=None, **settings))
            for one, other in zip(found.hypotheses, expected.hypotheses, strict=True):  # type: ignore[union-attr]
                assert one.token_ids == other.token_ids
                assert one.score == pytest.approx(other.score, abs=1e-5)

    def test_of_beams_and_samples(self, engine: Engine) -> None:
        stream = engine.submit(request(1, 5, num_beams=3, eos_id=None))
        first = next(stream)
        assert isinstance(first, BeamsEvent)
        assert stream.snapshot().token_ids == (1, 5, *first.hypotheses[0].token_ids)
        *_, last = stream
        assert isinstance(last, FinishedEvent)
        assert stream.snapshot().token_ids == (1, 5, *last.hypotheses[0].token_ids)
        stream = engine.submit(request(1, 5, num_samples=3, eos_id=None))
        *_, last = stream
        assert isinstance(last, FinishedEvent)
        for sample in range(3):
            assert stream.snapshot(sample).token_ids == (1, 5, *last.hypotheses[sample].token_ids)

    def test_only_what_follows_is_read(self, held: HeldBackend) -> None:
        held.open()
        with Engine(held) as engine:
            start = engine.snapshot(text(1, size=500))
            held.calls.clear()
            list(engine.submit(request(5, 6, start=start, max_new_tokens=2)))
            # The snapshot's own last token is still to be read.
            assert held.calls == [("read", 2), ("step", 1), ("step", 1)]
            list(engine.submit(request(start=start, max_new_tokens=1)))
            assert held.calls[3:] == [("step", 1)]

    def test_it_survives_as_bytes_in_another_engine(self, backend: Backend) -> None:
        context = text(1, size=20)
        with Engine(backend) as engine:
            data = engine.snapshot(context).to_bytes()
            expected = told(engine.submit(request(*context, seed=3)))
        with Engine(backend) as other:
            assert told(other.submit(request(start=Snapshot.from_bytes(data), seed=3))) == expected

    def test_another_model_refuses_it(self, engine: Engine) -> None:
        start = engine.snapshot((1, 5, 6))
        with Engine(tiny_model(hidden_size=24, embedding_size=12)) as other:
            with pytest.raises(InvalidSetting, match="snapshot"):
                other.submit(request(start=start))
            with pytest.raises(InvalidSetting, match="snapshot"):
                other.snapshot((5,), start=start)
            assert not other.in_use

    def test_the_same_model_in_another_backend_takes_it(self, torch_backend: Backend, onnx_backend: Backend) -> None:
        with Engine(torch_backend) as one, Engine(onnx_backend) as other:
            start = one.snapshot(text(1, size=30))
            assert len(ids(other.submit(request(start=start, eos_id=None)))) == 20

    def test_what_others_bring_changes_nobody_elses_text(self, onnx_backend: Backend) -> None:
        """A snapshot may come from outside, with a state that no text leads to."""
        context = text(1, size=30)
        wanted = request(*context, 7, temperature=0.0, eos_id=None, max_new_tokens=70)
        with Engine(onnx_backend) as engine:
            expected = told(engine.submit(wanted))
            honest = engine.snapshot(context)
        forged = Snapshot(honest.model_hash, context, -honest.state)
        with Engine(onnx_backend) as engine:
            stream = engine.submit(request(7, start=forged, temperature=0.0, eos_id=None, max_new_tokens=70))
            assert told(stream) != expected
            written = stream.snapshot().token_ids
            assert engine.snapshot((7,), start=forged).token_ids == written[:31]
            assert told(engine.submit(wanted)) == expected
            follows = request(*written, temperature=0.0)
            found = told(engine.submit(follows))
        with Engine(onnx_backend) as engine:
            assert told(engine.submit(follows)) == found

    def test_what_no_model_has_read_is_refused(self, engine: Engine) -> None:
        for wrong in ((), (VOCAB,)):
            with pytest.raises(InvalidSetting):
                engine.snapshot(wrong)


def test_nobody_waits_for_an_answer_from_a_closed_engine(held: HeldBackend) -> None:
    found: list[BaseException] = []

    def ask(question: Any) -> None:
        try:
            question(text(1, size=600))
        except EngineClosed as error:
            found.append(error)

    engine = Engine(held)
    askers = [threading.Thread(target=ask, args=(question,)) for question in (engine.score, engine.snapshot)]
    for asker in askers:
        asker.start()
    held.wait_for_call(1)
    closer = threading.Thread(target=engine.close)
    closer.start()
    held.open()
    for thread in (closer, *askers):
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    with pytest.raises(EngineClosed):
        engine.score((1, 5))
    assert len(found) >= 1


def test_rows_are_free_when_the_answer_is_there(engine: Engine) -> None:
    for number in range(20):
        assert isinstance(engine.score(text(number, size=5))[0], TokenScore)
        assert not engine.in_use
        engine.snapshot(text(number, size=5))
        assert not engine.in_use
        list(engine.submit(request(max_new_tokens=1)))
        assert not engine.in_use


@pytest.mark.slow
def test_many_threads_may_submit_read_and_cancel(model: LanguageModel) -> None:
    expected: dict[int, list[int]] = {}
    found: dict[int, list[int]] = {}
    with Engine(model) as engine:
        for seed in range(12):
            expected[seed] = ids(engine.submit(request(seed=seed, max_new_tokens=25, eos_id=None)))

        def person(seed: int) -> None:
            for _ in range(3):
                with engine.submit(request(seed=seed + 99, max_new_tokens=4000, eos_id=None)) as stream:
                    next(stream)
                found[seed] = ids(engine.submit(request(seed=seed, max_new_tokens=25, eos_id=None)))

        people = [threading.Thread(target=person, args=(seed,)) for seed in range(12)]
        for thread in people:
            thread.start()
        for thread in people:
            thread.join(PATIENCE_SECONDS)
        assert found == expected
        wait_until_free(engine)
