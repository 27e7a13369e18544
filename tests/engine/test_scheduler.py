"""The scheduler by itself, driven round by round in the test's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.engine.helpers import HeldBackend, ManualClock, request
from textgen.engine import BeamsEvent, Engine, Event, FinishedEvent, GenerationStream, TokenEvent, TorchBackend
from textgen.engine.scheduler import Scheduler
from textgen.engine.streams import Mailbox
from textgen.errors import Busy
from textgen.limits import Limits
from textgen.model import LanguageModel


class Desk:
    """A scheduler without a thread, and the streams it was given."""

    def __init__(self, model: LanguageModel, **limits: Any) -> None:
        self.backend = HeldBackend(TorchBackend(model))
        self.backend.open()
        self.clock = ManualClock()
        self.scheduler = Scheduler(self.backend, limits=Limits(**limits), clock=self.clock)
        self._owner = Engine(model)
        self.mailboxes: list[Mailbox] = []
        self.streams: list[GenerationStream] = []

    def submit(self, *prompt: int, **settings: Any) -> int:
        mailbox = Mailbox()
        stream = GenerationStream(self._owner, mailbox, 0)
        self.scheduler.submit(request(*prompt, **{"eos_id": None, **settings}), seed=0, mailbox=mailbox)
        self.mailboxes.append(mailbox)
        self.streams.append(stream)
        return len(self.streams) - 1

    def rounds(self, count: int) -> list[tuple[str, int]]:
        """Runs rounds and tells the backend's calls."""
        self.backend.calls.clear()
        with torch.inference_mode():
            for _ in range(count):
                self.scheduler.run_round()
        return list(self.backend.calls)

    def unread(self, number: int) -> list[Event]:
        mailbox, events = self.mailboxes[number], []
        while mailbox.unread:
            event = mailbox.take()
            assert event is not None
            events.append(event)
        return events


def test_a_long_prompt_holds_running_streams_up_by_one_chunk_a_token(model: LanguageModel) -> None:
    desk = Desk(model)
    desk.submit(1, 2, 3)
    desk.submit(1, 2)
    assert desk.rounds(1) == [("prefill", 3), ("prefill", 2)]
    assert desk.rounds(1) == [("step", 1), ("step", 1)]
    desk.submit(*[4] * 600)
    desk.submit(*[5] * 300)
    running = [("step", 1), ("step", 1)]
    assert desk.rounds(1) == [*running, ("prefill", 256)]
    assert desk.rounds(1) == [*running, ("prefill", 256)]
    assert desk.rounds(1) == [*running, ("prefill", 88)]
    assert desk.rounds(1) == [*running, ("step", 1), ("prefill", 256)]
    desk.submit(1, 2, 3)
    assert desk.rounds(1) == [*running, ("step", 1), ("prefill", 44), ("prefill", 3)]
    assert desk.rounds(1) == [("step", 1)] * 5
    assert [len(desk.unread(number)) for number in range(5)] == [8, 8, 4, 2, 2]


def test_chunks_of_a_prompt_are_read_as_one_text(model: LanguageModel) -> None:
    prompt = [3 + number % 30 for number in range(700)]
    desk = Desk(model)
    desk.submit(*prompt, max_new_tokens=1, temperature=0.0)
    desk.rounds(3)
    event = desk.unread(0)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]), model.initial_state(1))[0][0, -1]
    assert isinstance(event, TokenEvent)
    assert event.token_id == int(logits.argmax())
    assert event.logprob == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-4)


def test_rows_are_given_out_in_order_and_come_back(model: LanguageModel) -> None:
    desk = Desk(model, max_rows=4)
    desk.submit(max_new_tokens=2)
    desk.submit(num_beams=4, max_new_tokens=2)
    desk.submit(max_new_tokens=2)
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 2)  # nobody overtakes the four beams
    assert desk.rounds(2) == [("prefill", 3), ("step", 1)]
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (4, 1)
    assert desk.rounds(2) == [("prefill", 3), ("step", 4)]
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 0)
    desk.rounds(2)
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (0, 0)
    for number in range(3):
        last = desk.unread(number)[-1]
        assert isinstance(last, FinishedEvent)
        assert last.reason == "length"


def test_only_so_many_may_wait(model: LanguageModel) -> None:
    desk = Desk(model, max_rows=2, max_waiting_requests=1)
    for _ in range(3):
        desk.submit()
    with pytest.raises(Busy, match="1 requests are already waiting"):
        desk.submit()
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (2, 1)
    desk.streams[0].cancel()
    desk.rounds(1)
    desk.submit()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_cancelling_frees_the_rows_before_the_next_step(model: LanguageModel, num_beams: int) -> None:
    desk = Desk(model)
    desk.submit(num_beams=num_beams, temperature=0.0)
    desk.rounds(3)
    desk.streams[0].cancel()
    assert desk.rounds(1) == []
    assert desk.scheduler.live_rows == 0
    *steps, last = desk.unread(0)
    assert len(steps) == 3
    assert isinstance(last, FinishedEvent)
    assert last.reason == "cancelled"
    assert [len(h.token_ids) for h in last.hypotheses] == [3]
    assert not last.hypotheses[0].finished
    if isinstance(steps[-1], BeamsEvent):
        assert last.hypotheses[0] == steps[-1].hypotheses[0]


def test_a_stream_that_was_dropped_is_cancelled(model: LanguageModel) -> None:
    desk = Desk(model)
    desk.submit()
    desk.rounds(2)
    desk.streams.clear()
    assert desk.rounds(1) == []
    assert desk.scheduler.live_rows == 0


def test_cancelled_while_reading_the_prompt_or_waiting(model: LanguageModel) -> None:
    desk = Desk(model, max_rows=2)
    desk.submit(*[4] * 600)
    desk.submit()
    desk.submit()
    desk.rounds(1)
    for number in (0, 2):
        desk.streams[number].cancel()
    assert desk.rounds(1) == []  # the second one's turn to read comes in the next round
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 0)
    for number in (0, 2):
        (last,) = desk.unread(number)
        assert isinstance(last, FinishedEvent)
        assert (last.reason, last.hypotheses[0].token_ids) == ("cancelled", ())
    assert desk.rounds(1) == [("prefill", 3)]


def test_the_deadline_ends_running_and_waiting_requests(model: LanguageModel) -> None:
    desk = Desk(model, max_rows=1, request_deadline_seconds=10.0)
    desk.submit()
    desk.clock.seconds = 4.0
    desk.submit()
    desk.submit()
    desk.rounds(2)
    desk.clock.seconds = 9.99
    assert desk.rounds(1) == [("step", 1)]
    desk.clock.seconds = 10.0
    assert desk.rounds(1) == []
    *steps, last = desk.unread(0)
    assert len(steps) == 3
    assert isinstance(last, FinishedEvent)
    assert (last.reason, len(last.hypotheses[0].token_ids), last.hypotheses[0].finished) == ("deadline", 3, False)
    assert desk.rounds(1) == [("prefill", 3)]
    desk.clock.seconds = 14.0
    assert desk.rounds(1) == []
    for number in (1, 2):
        assert desk.unread(number)[-1].reason == "deadline"  # type: ignore[union-attr]
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (0, 0)


def test_closing_begins_no_further_step(model: LanguageModel) -> None:
    desk = Desk(model)

    def close(tokens: Sequence[int]) -> bool:
        desk.scheduler.close()
        return False

    desk.submit(stop_condition=close)
    desk.submit()
    assert desk.rounds(1) == [("prefill", 3)]
    desk.scheduler.run()
    assert desk.scheduler.live_rows == 0
    assert [desk.unread(number)[-1].reason for number in (0, 1)] == ["cancelled"] * 2  # type: ignore[union-attr]


def test_a_reader_who_is_far_behind_costs_little_memory(model: LanguageModel) -> None:
    desk = Desk(model)
    desk.submit(num_beams=2, max_new_tokens=100)
    desk.rounds(100)
    events = desk.unread(0)
    assert len(events) == Mailbox.max_unread_beams + 1
    newest = events[-2]
    assert isinstance(newest, BeamsEvent)
    assert len(newest.hypotheses[0].token_ids) == 100
