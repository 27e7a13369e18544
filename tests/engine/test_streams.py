"""Events between two threads, and between a thread and an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.engine.helpers import PATIENCE_SECONDS, HeldBackend, ManualClock, request
from textgen.engine import BeamsEvent, Engine, Event, FinishedEvent, GenerationStream, Hypothesis, TokenEvent
from textgen.engine.streams import Mailbox
from textgen.model import LanguageModel

END = FinishedEvent("length", ())
FOR_EVER = 10_000.0


def token(index: int) -> TokenEvent:
    return TokenEvent(5, -1.0, index)


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts `work` and returns what waits for its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
        return found[0]

    return result


def all_events(mailbox: Mailbox) -> list[Event]:
    events = []
    while (event := mailbox.take()) is not None:
        events.append(event)
    return events


def test_events_come_in_order_and_then_nothing() -> None:
    mailbox = Mailbox()
    sent: list[Event] = [token(0), token(1), END]
    for event in sent:
        mailbox.put(event)
    assert mailbox.unread == 3
    assert all_events(mailbox) == sent
    assert mailbox.unread == 0
    assert mailbox.take() is None


def test_an_error_comes_once_after_the_events_before_it() -> None:
    mailbox = Mailbox()
    mailbox.put(token(0))
    mailbox.fail(RuntimeError("out of memory"))
    assert mailbox.take() == token(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        mailbox.take()
    assert mailbox.take() is None


@pytest.mark.parametrize("nap_seconds", [0.0, Mailbox.nap_seconds])
def test_a_reader_gets_everything_however_it_waits(monkeypatch: pytest.MonkeyPatch, nap_seconds: float) -> None:
    monkeypatch.setattr(Mailbox, "nap_seconds", nap_seconds)
    for _ in range(20):
        mailbox = Mailbox()
        result = in_thread(partial(all_events, mailbox))
        sent: list[Event] = [*map(token, range(50)), END]
        for event in sent:
            mailbox.put(event)
        assert result() == sent


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_the_end_does_not_wait_for_a_nap_to_be_over(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Whether it comes before the nap or in it; and what came in the nap is found then."""
    monkeypatch.setattr(Mailbox, "nap_seconds", FOR_EVER)
    for _ in range(20):
        mailbox = Mailbox()

        def events(box: Mailbox = mailbox) -> list[Event] | str:
            try:
                return all_events(box)
            except RuntimeError as error:
                return str(error)

        result = in_thread(events)
        mailbox.put(token(0))
        mailbox.put(token(1))
        if end == "finished":
            mailbox.put(END)
            assert result() == [token(0), token(1), END]
        else:
            mailbox.fail(RuntimeError("out of memory"))
            assert result() == "out of memory"


def test_of_unread_beams_the_newest_are_kept() -> None:
    mailbox = Mailbox()
    sent = [BeamsEvent((Hypothesis((number,), 0.0, False),)) for number in range(50)]
    for event in sent:
        mailbox.put(event)
    mailbox.put(END)
    assert all_events(mailbox) == [*sent[: Mailbox.max_unread_beams - 1], sent[-1], END]


def test_it_tells_how_long_writing_took_whenever_it_is_asked() -> None:
    clock = ManualClock()
    mailbox = Mailbox(clock=clock)
    clock.seconds = 5.0
    assert mailbox.writing_seconds == 0.0
    mailbox.begin()
    clock.seconds = 7.0
    assert mailbox.writing_seconds == 0.0
    mailbox.put(token(0))
    clock.seconds = 90.0
    assert mailbox.writing_seconds == 2.0


@pytest.mark.slow
def test_it_is_wanted_while_its_reader_is_there(model: LanguageModel) -> None:
    mailbox = Mailbox()
    assert not mailbox.wanted
    engine = Engine(model)
    stream = GenerationStream(engine, mailbox, 7, (1, 2))
    assert mailbox.wanted
    assert stream.seed == 7
    del stream
    gc.collect()
    assert not mailbox.wanted
    other = Mailbox()
    stream = GenerationStream(engine, other, 7, (1, 2))
    stream.cancel()
    stream.cancel()
    assert not other.wanted


def test_threads_and_event_loops_read_the_same(engine: Engine) -> None:
    async def read_async(stream: GenerationStream) -> list[Event]:
        return [event async for event in stream]

    for settings in ({}, {"num_samples": 3}, {"num_beams": 2}):
        wanted = request(max_new_tokens=12, eos_id=None, **settings)
        expected = list(engine.submit(wanted))
        found = asyncio.run(asyncio.wait_for(read_async(engine.submit(wanted)), PATIENCE_SECONDS))
        assert found == expected
        assert len(found) == (12 * settings.get("num_samples", 1)) + 1


@pytest.mark.parametrize("nap_seconds", [0.0, Mailbox.nap_seconds])
def test_async_iteration_leaves_the_loop_free(
    held: HeldBackend, monkeypatch: pytest.MonkeyPatch, nap_seconds: float
) -> None:
    """The loop itself lets the engine go on: were it blocked by waiting for an event, nothing would ever come."""
    monkeypatch.setattr(Mailbox, "nap_seconds", nap_seconds)

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


@pytest.mark.parametrize("nap_seconds", [0.0, FOR_EVER])
def test_a_reader_whose_task_was_cancelled_may_go_on_reading(
    held: HeldBackend, monkeypatch: pytest.MonkeyPatch, nap_seconds: float
) -> None:
    """Cancelled while it waits to be told, or in its nap."""
    monkeypatch.setattr(Mailbox, "nap_seconds", nap_seconds)
    problems: list[dict[str, Any]] = []

    async def scenario(engine: Engine) -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, problem: problems.append(problem))
        stream = engine.submit(request(max_new_tokens=3, eos_id=None))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)  # nothing can come: the backend is held
        held.open()
        held.wait_for_call(3)  # the first event has been put, and the cancelled wait was told of it
        await asyncio.sleep(0)
        monkeypatch.setattr(Mailbox, "nap_seconds", 0.0)
        return [event async for event in stream]

    with Engine(held) as engine:
        events = asyncio.run(asyncio.wait_for(scenario(engine), PATIENCE_SECONDS))
    assert [event.index for event in events[:-1]] == [0, 1, 2]
    assert problems == []


@pytest.mark.parametrize("nap_seconds", [0.0, Mailbox.nap_seconds])
def test_a_closed_event_loop_does_not_hurt_the_engine(
    held: HeldBackend, monkeypatch: pytest.MonkeyPatch, nap_seconds: float
) -> None:
    monkeypatch.setattr(Mailbox, "nap_seconds", nap_seconds)
    with Engine(held) as engine:
        stream = engine.submit(request(eos_id=None))
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(anext(stream))
        for _ in range(3):  # through the nap, where there is none to wait for, to the wait
            loop.call_soon(loop.stop)
            loop.run_forever()
        waiting.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        held.open()
        assert isinstance(list(stream)[-1], FinishedEvent)
        *tokens, _ = engine.submit(request(max_new_tokens=5, eos_id=None))
        assert len(tokens) == 5
