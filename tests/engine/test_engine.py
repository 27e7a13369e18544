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
    read,
    request,
)
from textgen.engine import Engine, FinishedEvent, GenerationRequest, GenerationStream, TokenEvent, TorchBackend
from textgen.engine.decoding import Logits, TokenIds
from textgen.errors import Busy, EngineClosed, InvalidSetting
from textgen.limits import Limits
from textgen.model import LanguageModel, RecurrentState


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


def test_greedy_generation_is_the_models_argmax(engine: Engine, model: LanguageModel) -> None:
    import torch

    prompt = [1, 5, 6]
    tokens, _ = read(engine.submit(request(*prompt, temperature=0.0, max_new_tokens=15, eos_id=None)))
    for token in tokens:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]), model.initial_state(1))[0][0, -1]
        assert token.token_id == int(logits.argmax())
        assert token.logprob == pytest.approx(float(logits.log_softmax(-1)[token.token_id]), abs=1e-4)
        prompt.append(token.token_id)


MANY = [
    request(1, 5, 6, seed=42, max_new_tokens=60, eos_id=None, temperature=1.5),
    *(
        request(
            *range(1, 3 + number * 23),
            seed=number,
            max_new_tokens=20 + 5 * number,
            temperature=number / 8,
            top_k=number % 4 * 5,
            top_p=1 - number / 40,
            num_beams=1 + 3 * (number % 5 == 4),
            eos_id=EOS if number % 2 else None,
        )
        for number in range(1, 16)
    ),
]
MANY = [
    GenerationRequest(tuple(token % VOCAB for token in wanted.prompt_ids), wanted.settings, eos_id=wanted.eos_id)
    for wanted in MANY
]


def test_the_same_request_gives_the_same_tokens_alone_and_among_fifteen_others(model: LanguageModel) -> None:
    alone = []
    for wanted in MANY:
        with Engine(model) as engine:
            alone.append(list(engine.submit(wanted))[-1])
    held = HeldBackend(TorchBackend(model))
    with Engine(held) as engine:
        streams = [engine.submit(wanted) for wanted in MANY]
        cancelled = engine.submit(request(seed=5))
        held.allow(400)
        next(cancelled)
        cancelled.cancel()
        held.open()
        together = [list(stream)[-1] for stream in streams]
    assert together == alone  # the scores to the last bit, too
    calls = {call for call in held.calls if call[0] == "step"}
    assert calls >= {("step", 1), ("step", 4)}


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
        held.allow(2)
        held.wait_for_call(3)
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        canceller.join()
        held.allow(1)  # the step that is running comes to its end, and no other is begun
        tokens, finished = read(stream)
        assert (len(tokens), finished.reason) == (3, "cancelled")
        assert len(held.calls) == 3
        assert engine.live_rows == 0
        stream.cancel()
        assert list(stream) == []


def test_leaving_the_with_block_cancels(engine: Engine) -> None:
    with engine.submit(request(max_new_tokens=4000, eos_id=None)) as stream:
        assert isinstance(next(stream), TokenEvent)
    *_, last = stream
    assert isinstance(last, FinishedEvent)
    assert last.reason == "cancelled"


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
        held.allow(2)
        held.wait_for_call(3)
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


class FailingBackend(TableBackend):
    """Fails when it reads token 5, and always gives token 3 or, after 4, token 5."""

    def __init__(self) -> None:
        super().__init__(lambda token, count: np.eye(6)[5 if token == 4 else 3] * 9, vocab_size=6)

    def step(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        if 5 in token_ids:
            raise RuntimeError("out of memory")
        return super().step(token_ids, state)


def test_an_error_reaches_the_stream_it_concerns_and_the_engine_lives_on() -> None:
    with Engine(FailingBackend()) as engine:
        good = engine.submit(request(1, max_new_tokens=50, temperature=0.0))
        bad = engine.submit(request(1, 4, temperature=0.0))
        assert isinstance(next(bad), TokenEvent)
        with pytest.raises(RuntimeError, match="out of memory"):
            next(bad)
        assert list(bad) == []
        assert len(ids(good)) == 50
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


def test_a_dropped_engine_ends_its_thread_but_not_under_a_stream(model: LanguageModel) -> None:
    others = set(threading.enumerate())
    stream = Engine(model).submit(request(max_new_tokens=30, eos_id=None))
    (thread,) = set(threading.enumerate()) - others
    assert len(ids(stream)) == 30
    del stream
    gc.collect()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_async_iteration_leaves_the_loop_free(held: HeldBackend) -> None:
    """The loop itself lets the engine go on: were it blocked by waiting for an event, nothing would ever come."""

    async def read_async(stream: GenerationStream) -> list[Any]:
        return [event async for event in stream]

    async def scenario(engine: Engine) -> tuple[list[Any], list[Any]]:
        wanted = [request(seed=seed, max_new_tokens=6, eos_id=None) for seed in (1, 2)]
        readers = [asyncio.create_task(read_async(engine.submit(one))) for one in wanted]
        while not all(reader.done() for reader in readers):
            held.allow(1)
            await asyncio.sleep(0)
        return readers[0].result(), readers[1].result()

    with Engine(held) as engine:
        first, second = asyncio.run(asyncio.wait_for(scenario(engine), PATIENCE_SECONDS))
    for events in (first, second):
        assert len(events) == 7
        assert isinstance(events[-1], FinishedEvent)
    with Engine(held.inner) as engine:
        assert list(engine.submit(request(seed=1, max_new_tokens=6, eos_id=None))) == first


def test_async_errors_cancels_and_cancelled_tasks(model: LanguageModel) -> None:
    async def scenario(engine: Engine, failing: Engine) -> None:
        with pytest.raises(RuntimeError, match="out of memory"):
            async for _ in failing.submit(request(1, 4, temperature=0.0)):
                pass
        async with engine.submit(request(max_new_tokens=4000, eos_id=None)) as stream:
            await anext(stream)
        events = [event async for event in stream]
        assert events[-1].reason == "cancelled"  # type: ignore[union-attr]

    with Engine(model) as engine, Engine(FailingBackend()) as failing:
        asyncio.run(asyncio.wait_for(scenario(engine, failing), PATIENCE_SECONDS))


def test_a_reader_whose_task_was_cancelled_may_go_on_reading(held: HeldBackend) -> None:
    problems: list[dict[str, Any]] = []

    async def scenario(engine: Engine) -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, problem: problems.append(problem))
        stream = engine.submit(request(max_new_tokens=3, eos_id=None))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)  # nothing can come: the backend is held
        held.open()
        held.wait_for_call(2)  # the first event has been put, and the cancelled wait was told of it
        await asyncio.sleep(0)
        return [event async for event in stream]

    with Engine(held) as engine:
        events = asyncio.run(asyncio.wait_for(scenario(engine), PATIENCE_SECONDS))
    assert [event.index for event in events[:-1]] == [0, 1, 2]
    assert problems == []


def test_a_closed_event_loop_does_not_hurt_the_engine(held: HeldBackend) -> None:
    with Engine(held) as engine:
        stream = engine.submit(request(eos_id=None))
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(anext(stream))
        loop.call_soon(loop.stop)
        loop.run_forever()
        waiting.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        held.open()
        assert isinstance(list(stream)[-1], FinishedEvent)
        assert len(ids(engine.submit(request(max_new_tokens=5, eos_id=None)))) == 5


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
