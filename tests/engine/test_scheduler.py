"""The scheduler by itself, driven round by round in the test's own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.helpers import VOCAB, HeldBackend, ManualClock, TableBackend, request, text
from textgen.engine import Backend, BeamsEvent, Engine, Event, FinishedEvent, GenerationStream, TokenEvent
from textgen.engine.scheduler import Scheduler
from textgen.engine.streams import Mailbox
from textgen.engine.tasks import SamplingTask, ScoringTask, SearchTask, SnapshotTask
from textgen.errors import BrokenModel, Busy, DeadlineExceeded, EngineClosed
from textgen.limits import Limits
from textgen.model import LanguageModel


class Desk:
    """A scheduler without a thread, and the streams it was given. It takes `ahead` steps in a round where it may."""

    def __init__(self, backend: Backend, *, ahead: int = 1, **limits: Any) -> None:
        self.backend = HeldBackend(backend)
        self.backend.open()
        self.clock = ManualClock()
        self.limits = Limits(**limits)
        self.scheduler = Scheduler(self.backend, limits=self.limits, clock=self.clock)
        self.scheduler.max_steps_ahead = ahead
        self._owner = Engine(backend)
        self.mailboxes: list[Mailbox] = []
        self.streams: list[GenerationStream] = []

    def submit(self, *prompt: int, **settings: Any) -> int:
        wanted = request(*prompt, **{"eos_id": None, **settings})
        mailbox = Mailbox(clock=self.clock)
        stream = GenerationStream(self._owner, mailbox, 0, wanted.prompt_ids)
        kind = SearchTask if wanted.settings.num_beams > 1 else SamplingTask
        self.scheduler.submit(kind(wanted, seed=0, mailbox=mailbox, deadline=self._deadline()))
        self.mailboxes.append(mailbox)
        self.streams.append(stream)
        return len(self.streams) - 1

    def score(self, *token_ids: int) -> ScoringTask:
        task = ScoringTask(token_ids, top_logprobs=0, deadline=self._deadline(), seconds=3.0)
        self.scheduler.submit(task)
        return task

    def snapshot(self, *token_ids: int) -> SnapshotTask:
        task = SnapshotTask(token_ids, start=None, deadline=self._deadline(), seconds=3.0)
        self.scheduler.submit(task)
        return task

    def _deadline(self) -> float:
        return self.clock() + self.limits.request_deadline_seconds

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

    def last(self, number: int) -> FinishedEvent:
        event = self.unread(number)[-1]
        assert isinstance(event, FinishedEvent)
        return event


def test_streams_join_and_leave_between_steps(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    desk.submit(1, 2, 3, max_new_tokens=4)
    assert desk.rounds(1) == [("read", 2), ("step", 1)]
    desk.submit(1, 2, 3, 4, max_new_tokens=1)
    desk.submit(1, max_new_tokens=2, num_samples=3)
    desk.submit(1, 9, max_new_tokens=3, num_beams=2)
    # The first two of the four tokens are known; a single token is read with the first step.
    assert desk.rounds(1) == [("read", 2), ("step", 1 + 1 + 3 + 1)]
    assert desk.rounds(1) == [("step", 1 + 3 + 2)]
    assert desk.rounds(1) == [("step", 1 + 2)]
    assert desk.rounds(1) == []
    assert [len(desk.unread(number)) for number in range(4)] == [5, 2, 7, 4]
    assert desk.scheduler.live_rows == 0


def test_where_rows_are_not_exact_each_request_steps_alone(torch_backend: Backend) -> None:
    desk = Desk(torch_backend)
    desk.submit(1, 2, 3)
    desk.submit(1, 2, num_samples=2)
    desk.submit(1, 5, 6, num_beams=3)
    assert desk.rounds(1) == [("read", 2), ("step", 1)]
    assert desk.rounds(1) == [("read", 1), ("step", 1), ("step", 1), ("step", 1)]
    assert desk.rounds(1) == [("read", 2), *[("step", 1)] * 4]
    assert desk.rounds(1) == [*[("step", 1)] * 3, ("step", 3)]


def test_more_rows_than_a_step_takes_are_stepped_in_turn(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend, max_rows=400, max_waiting_requests=0)
    desk.scheduler.max_step_rows = 10
    for _ in range(9):
        desk.submit(1)
    desk.submit(1, num_beams=4)
    desk.submit(1, num_samples=12, max_new_tokens=1)
    desk.submit(1, num_beams=12)
    assert desk.rounds(1) == [("step", 9), ("step", 1 + 6), ("step", 6), ("step", 1)]
    assert desk.rounds(1) == [("step", 9), ("step", 4), ("step", 12)]
    assert [len(desk.unread(number)) for number in range(12)] == [2] * 10 + [13, 2]


def test_a_long_prompt_holds_running_streams_up_by_one_chunk_a_token(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    desk.submit(*text(1, size=301))
    assert desk.rounds(1) == [("read", 256)]
    desk.submit(1, 2, max_new_tokens=300)
    assert desk.rounds(1) == [("read", 1 + 44), ("step", 2)]
    desk.submit(*text(2, size=601))
    desk.submit(*text(3, size=101))
    calls = desk.rounds(12)
    assert desk.scheduler.busy_chunk_tokens == 64
    between = " ".join(f"{kind}{size if kind == 'step' else ''}" for kind, size in calls)
    assert "read read" not in between
    assert max(size for kind, size in calls if kind == "read") == 64
    assert sum(size for kind, size in calls if kind == "read") == 600 + 100
    assert calls[-1] == ("step", 4)
    assert [len(desk.unread(number)) for number in (0, 1)] == [13, 13]


def test_where_rows_are_not_exact_cuts_are_the_same_in_any_company(torch_backend: Backend) -> None:
    desk = Desk(torch_backend)
    desk.submit(*text(1, size=601))
    assert desk.rounds(3) == [("read", 256), ("read", 256), ("read", 88), ("step", 1)]
    desk.submit(*text(1, size=601))
    desk.submit(1, 2, 3)
    running = ("step", 1)
    assert desk.rounds(2) == [("read", 256), running, ("read", 2), running, running]
    assert desk.rounds(2) == [("read", 256), running, running, ("read", 88), running, running, running]


def test_a_short_prompt_among_long_ones_is_served_early(backend: Backend) -> None:
    desk = Desk(backend)
    for number in range(8):
        desk.submit(*text(number, size=2_000))
    desk.rounds(2)
    short = desk.submit(1, 2, 3)
    desk.rounds(9)
    assert len(desk.unread(short)) >= 1
    assert not any(desk.unread(number) for number in range(8))
    # Those others that read longest are no worse off for it.
    desk.rounds(200)
    assert all(desk.unread(number) for number in range(8))


def test_short_prompts_share_a_chunk_and_leave_the_rest_of_it_to_a_long_one(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    desk.submit(1, 2, max_new_tokens=50)
    desk.rounds(1)
    for number in range(20):
        desk.submit(*text(number, size=3), max_new_tokens=50)
    desk.submit(*text(99, size=200), max_new_tokens=50)
    assert desk.rounds(1) == [("read", 20 * 2 + 24), ("step", 1 + 20)]
    for number in range(40):
        desk.submit(*text(100 + number, size=2), max_new_tokens=50)
    # The long one is next, and has enough of it to be worth its while.
    assert desk.rounds(1) == [("read", 24 + 40), ("step", 21 + 40)]


def test_all_who_read_get_on(onnx_backend: Backend) -> None:
    """More prompts at once than share a chunk, while others write; with a text to be scored in between."""
    desk = Desk(onnx_backend)
    desk.submit(1, 2, max_new_tokens=200)
    desk.rounds(1)
    for number in range(9):
        desk.submit(*text(number, size=100), max_new_tokens=1)
    scoring = desk.score(*text(77, size=100))
    calls = desk.rounds(20)
    assert scoring.future.done()
    assert all(desk.last(number).reason == "length" for number in range(1, 10))
    assert max(size for kind, size in calls if kind != "step") <= 64
    assert len(desk.unread(0)) == 1 + 20


def test_chunks_of_a_prompt_are_read_as_one_text(backend: Backend, model: LanguageModel) -> None:
    prompt = text(4, size=700)
    desk = Desk(backend)
    desk.submit(*prompt, max_new_tokens=1, temperature=0.0)
    desk.rounds(3)
    event = desk.unread(0)[0]
    logits = backend.open_pool(1).read_all(0, np.array(prompt))[-1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert isinstance(event, TokenEvent)
    assert event.token_id == int(logits.argmax())
    assert event.logprob == pytest.approx(float(logprobs.max()), abs=1e-4)


def test_a_long_text_is_scored_chunk_by_chunk_between_steps(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    alone = desk.score(*text(1, size=400))
    assert desk.rounds(2) == [("score", 256), ("score", 143)]
    desk.submit(1, max_new_tokens=50)
    desk.rounds(1)
    busy = desk.score(*text(1, size=400))
    assert desk.rounds(7) == [*[("score", 64), ("step", 1)] * 6, ("score", 399 - 6 * 64), ("step", 1)]
    assert busy.future.result(0) == alone.future.result(0)
    assert len(alone.future.result(0)) == 399
    assert desk.scheduler.live_rows == 1


def test_rows_are_given_out_in_order_and_come_back(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend, max_rows=4)
    desk.submit(max_new_tokens=2)
    desk.submit(num_beams=4, max_new_tokens=2)
    desk.submit(max_new_tokens=2)
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 2)  # nobody overtakes the four beams
    assert desk.rounds(2) == [("read", 2), ("step", 1), ("step", 1)]
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (4, 1)
    assert desk.rounds(2) == [("step", 1), ("step", 4)]  # the prompt is remembered
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 0)
    desk.rounds(2)
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (0, 0)
    assert [desk.last(number).reason for number in range(3)] == ["length"] * 3


@pytest.mark.parametrize("which", range(3))
def test_a_sample_that_has_ended_no_longer_costs_a_step(onnx_backend: Backend, which: int) -> None:
    desk = Desk(onnx_backend)
    ends = iter([number == which for number in range(3)])
    desk.submit(1, 5, num_samples=3, stop_condition=lambda tokens: len(tokens) == 2 and next(ends))
    assert desk.rounds(3) == [("read", 1), ("step", 3), ("step", 3), ("step", 2)]
    assert desk.scheduler.live_rows == 3  # they come back with the request's end
    desk.rounds(17)
    last = desk.last(0)
    reasons = ["stop" if number == which else "length" for number in range(3)]
    assert [hypothesis.reason for hypothesis in last.hypotheses] == reasons
    assert last.reason == reasons[0]
    assert desk.scheduler.live_rows == 0


def test_samples_that_are_cut_short_say_so_whatever_ended_before(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    ends = iter([True, False])
    desk.submit(1, 5, num_samples=2, stop_condition=lambda tokens: len(tokens) == 2 and next(ends))
    desk.rounds(3)
    desk.streams[0].cancel()
    desk.rounds(1)
    last = desk.last(0)
    assert [(item.reason, item.finished) for item in last.hypotheses] == [("stop", True), ("cancelled", False)]


def test_slots_are_used_again(backend: Backend) -> None:
    desk = Desk(backend)
    for number in range(30):
        desk.submit(*text(number, size=5), max_new_tokens=1 + number % 3, num_samples=1 + number % 4)
        desk.rounds(4)
    (pool,) = desk.backend.pools
    assert pool.capacity == 4
    assert desk.scheduler.live_rows == 0


def test_the_pool_grows_to_what_is_needed_and_its_rows_stay(onnx_backend: Backend) -> None:
    desk, alone = Desk(onnx_backend, max_rows=40), Desk(onnx_backend)
    desk.submit(1, 5, temperature=0.0)
    alone.submit(1, 5, temperature=0.0)
    desk.rounds(4)
    for number in range(39):
        desk.submit(*text(number, size=3))
    desk.rounds(20)
    alone.rounds(20)
    (pool,) = desk.backend.pools
    assert pool.capacity == 40
    assert desk.last(0) == alone.last(0)


def test_only_so_many_may_wait(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend, max_rows=2, max_waiting_requests=1)
    for _ in range(3):
        desk.submit()
    with pytest.raises(Busy, match="1 requests are already waiting"):
        desk.submit()
    with pytest.raises(Busy):
        desk.score(1, 2, 3)
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (2, 1)
    desk.streams[0].cancel()
    desk.rounds(1)
    desk.submit()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_samples": 3}])
def test_cancelling_frees_the_rows_before_the_next_step(backend: Backend, settings: dict[str, int]) -> None:
    desk = Desk(backend)
    desk.submit(temperature=0.0, **settings)
    desk.rounds(3)
    desk.streams[0].cancel()
    assert desk.rounds(1) == []
    assert desk.scheduler.live_rows == 0
    *steps, last = desk.unread(0)
    assert len(steps) == 3 * settings.get("num_samples", 1)
    assert isinstance(last, FinishedEvent)
    assert last.reason == "cancelled"
    assert [len(h.token_ids) for h in last.hypotheses] == [3] * settings.get("num_samples", 1)
    assert not last.hypotheses[0].finished
    if isinstance(steps[-1], BeamsEvent):
        assert last.hypotheses[0] == steps[-1].hypotheses[0]


def test_a_stream_that_was_dropped_is_cancelled(backend: Backend) -> None:
    desk = Desk(backend)
    desk.submit()
    desk.rounds(2)
    desk.streams.clear()
    assert desk.rounds(1) == []
    assert desk.scheduler.live_rows == 0


def test_cancelled_while_reading_or_waiting(backend: Backend) -> None:
    desk = Desk(backend, max_rows=2)
    desk.submit(*text(1, size=900))
    desk.submit(*text(2, size=900))
    for _ in range(2):
        desk.submit()
    desk.rounds(1)
    for number in (0, 1, 2):
        desk.streams[number].cancel()
    assert desk.rounds(1) == [("read", 2), ("step", 1)]
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (1, 0)
    for number in (0, 1, 2):
        (last,) = desk.unread(number)
        assert isinstance(last, FinishedEvent)
        assert (last.reason, last.hypotheses[0].token_ids) == ("cancelled", ())


def test_the_deadline_ends_running_reading_and_waiting_requests(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend, max_rows=3, request_deadline_seconds=10.0)
    desk.submit()
    desk.submit(*text(1, size=3_000))
    scoring = desk.score(*text(2, size=3_000))
    desk.clock.seconds = 4.0
    desk.submit()
    desk.rounds(2)
    desk.clock.seconds = 9.99
    assert desk.rounds(1)[-1] == ("step", 1)
    desk.clock.seconds = 10.0
    # The one that waited goes on in their place.
    assert desk.rounds(1) == [("step", 1)]
    *steps, last = desk.unread(0)
    assert len(steps) == 3
    assert isinstance(last, FinishedEvent)
    assert (last.reason, len(last.hypotheses[0].token_ids), last.hypotheses[0].finished) == ("deadline", 3, False)
    assert desk.last(1).reason == "deadline"
    with pytest.raises(DeadlineExceeded, match="within 3 seconds"):
        scoring.future.result(0)
    desk.submit(num_beams=3)
    desk.clock.seconds = 20.0
    assert desk.rounds(1) == []
    assert [desk.last(number).reason for number in (2, 3)] == ["deadline"] * 2
    assert (desk.scheduler.live_rows, desk.scheduler.waiting_requests) == (0, 0)


def test_closing_begins_no_further_step(backend: Backend) -> None:
    desk = Desk(backend)

    def close(tokens: Sequence[int]) -> bool:
        desk.scheduler.close()
        return False

    desk.submit(1, stop_condition=close)
    desk.submit(1)
    scoring = desk.score(*text(1, size=3_000))
    calls = desk.rounds(1)
    assert [call for call in calls if call[0] == "step"] == [("step", 2 if backend.batched else 1)]
    desk.scheduler.run()
    assert desk.backend.calls == calls
    assert desk.scheduler.live_rows == 0
    assert [desk.last(number).reason for number in (0, 1)] == ["cancelled"] * 2
    with pytest.raises(EngineClosed):
        scoring.future.result(0)
    with pytest.raises(EngineClosed):
        desk.submit()


def test_until_idle_it_works_off_what_there_is_and_returns(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend, max_rows=1)
    for _ in range(3):
        desk.submit(max_new_tokens=3)
    desk.scheduler.run(until_idle=True)
    assert [desk.last(number).reason for number in range(3)] == ["length"] * 3


def test_a_reader_who_is_far_behind_costs_little_memory(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    desk.submit(num_beams=2, max_new_tokens=100)
    desk.rounds(100)
    events = desk.unread(0)
    assert len(events) == Mailbox.max_unread_beams + 1
    newest = events[-2]
    assert isinstance(newest, BeamsEvent)
    assert len(newest.hypotheses[0].token_ids) == 100


def test_a_broken_row_concerns_its_own_request_alone() -> None:
    """The table has no numbers after token 5, which always follows token 4."""
    rows = np.eye(8) * 9

    def logits(token: int, count: int) -> np.ndarray:
        return np.full(8, np.nan) if token == 5 else rows[5 if token == 4 else 3]

    desk = Desk(TableBackend(logits, vocab_size=8))
    settings = {"temperature": 0.0, "max_new_tokens": 5}
    desk.submit(1, **settings)
    desk.submit(1, 4, **settings)
    desk.submit(1, 4, num_samples=2, **settings)
    desk.submit(1, 4, num_beams=2, **settings)
    desk.submit(1, num_beams=2, **settings)
    scoring, fine = desk.score(1, 4, 5, 6), desk.score(1, 3, 3)
    desk.rounds(10)
    for number, tokens in ((1, 1), (2, 2), (3, 1)):
        for _ in range(tokens):
            assert isinstance(desk.mailboxes[number].take(), TokenEvent | BeamsEvent)
        with pytest.raises(BrokenModel, match="new token 1"):
            desk.mailboxes[number].take()
    assert [desk.last(number).reason for number in (0, 4)] == ["length"] * 2
    with pytest.raises(BrokenModel):
        scoring.future.result(0)
    assert len(fine.future.result(0)) == 2
    assert desk.scheduler.live_rows == 0


def test_what_a_request_brings_with_it_may_fail_for_itself_alone(backend: Backend) -> None:
    def failing(tokens: Sequence[int]) -> Any:
        if len(tokens) == 2:
            raise KeyError("a bug of the caller")
        return ()

    desk = Desk(backend)
    for settings in ({}, {"num_beams": 2}, {"num_samples": 2}):
        desk.submit(stop_condition=failing, **settings)
        desk.submit(forbidden_next=failing, **settings)
        desk.submit(forbidden_next=lambda tokens: [VOCAB + 5], **settings)  # no such token
    fine = desk.submit()
    desk.rounds(40)
    assert desk.last(fine).reason == "length"
    for number in range(fine):
        with pytest.raises((KeyError, IndexError)):
            list(desk.streams[number])
    assert desk.scheduler.live_rows == 0


def test_a_sample_that_fails_takes_the_others_of_its_request_with_it(backend: Backend) -> None:
    fails = iter([False, False, False, True])
    desk = Desk(backend)
    desk.submit(1, num_samples=3, stop_condition=lambda tokens: 1 / 0 if next(fails, False) else False)
    desk.rounds(3)
    stream = desk.streams[0]
    assert [event.sample for event in (next(stream), next(stream), next(stream))] == [0, 1, 2]  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert list(stream) == []
    assert desk.scheduler.live_rows == 0


@pytest.mark.parametrize("ahead", [1, 6])
def test_a_bug_in_choosing_ends_those_it_concerns_and_nobody_else(onnx_backend: Backend, ahead: int) -> None:
    desk = Desk(onnx_backend, ahead=ahead)
    desk.submit(1, 5)
    desk.rounds(1)
    desk.scheduler._batches[0].sampler._choose = lambda *arguments: 1 / 0  # type: ignore[assignment]
    desk.rounds(1)
    with pytest.raises(ZeroDivisionError):
        list(desk.streams[0])
    assert desk.scheduler.live_rows == 0
    desk.submit(1, 5, max_new_tokens=2)
    desk.rounds(3)
    assert desk.last(1).reason == "length"


def test_time_is_counted_from_when_the_prompt_is_read(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    desk.submit(*text(1, size=300), max_new_tokens=3)
    desk.clock.seconds = 10.0
    desk.rounds(1)
    desk.clock.seconds = 20.0
    desk.rounds(1)
    assert desk.streams[0].writing_seconds == 0.0
    desk.clock.seconds = 21.5
    desk.rounds(2)
    assert desk.streams[0].writing_seconds == 1.5
    assert desk.last(0).reason == "length"


def test_rows_are_free_before_the_answer_is_known(onnx_backend: Backend) -> None:
    desk = Desk(onnx_backend)
    rows: list[int] = []
    for task in (desk.score(1, 5, 6), desk.snapshot(1, 5, 6)):
        task.future.add_done_callback(lambda _: rows.append(desk.scheduler.live_rows))
        desk.rounds(1)
    assert rows == [1, 0]


def test_a_broken_text_is_told_by_the_place_in_it() -> None:
    """Also past the first piece of it that is read."""
    desk = Desk(TableBackend(lambda token, count: np.full(8, np.nan if token == 5 else 0.0), vocab_size=8))
    task = desk.score(*[4] * 300, 5, 4, 4)
    desk.rounds(2)
    with pytest.raises(BrokenModel, match="new token 300 "):
        task.future.result(0)


class TestRunningAhead:
    """Several steps in a round, where nobody waits."""

    def desk(self, happens: Callable[[int], object] = lambda count: None, **limits: Any) -> Desk:
        """With a model of 8 tokens that writes 3, 4, 5, 6, 7, 3, ...; `happens` is called before each of its steps."""

        def logits(token: int, count: int) -> np.ndarray:
            happens(count)
            return np.where(np.arange(8) == (3 if token in {1, 7} else token + 1), 9.0, 0.0)

        return Desk(TableBackend(logits, vocab_size=8), ahead=6, **limits)

    def test_what_is_written_is_what_single_steps_write(self, onnx_backend: Backend) -> None:
        written = []
        for ahead in (1, 16):
            desk = Desk(onnx_backend, ahead=ahead)
            for number in range(3):
                settings = {"temperature": number / 2, "seed": number, "top_logprobs": number}
                desk.submit(1, 5, num_samples=2, max_new_tokens=40, forbidden_ids=frozenset({7, number}), **settings)
            desk.rounds(1)
            assert desk.rounds(1) == [("step", 6)] * ahead
            desk.rounds(60)
            written.append([desk.unread(number) for number in range(3)])
        assert written[0] == written[1]

    def test_a_round_has_many_steps_and_ends_with_the_text(self) -> None:
        desk = self.desk()
        desk.submit(1, temperature=0.0, max_new_tokens=14)
        assert desk.rounds(1) == [("step", 1)] * 6
        assert [event.token_id for event in desk.unread(0) if isinstance(event, TokenEvent)] == [3, 4, 5, 6, 7, 3]
        assert desk.rounds(3) == [("step", 1)] * 8
        assert desk.last(0).reason == "length"

    def test_it_ends_where_a_text_may_end(self) -> None:
        desk = self.desk()
        desk.submit(1, temperature=0.0, eos_id=6)
        desk.submit(5, temperature=0.0, eos_id=6)
        assert desk.rounds(1) == [("step", 2)]
        assert desk.last(1).reason == "eos"
        assert desk.rounds(2) == [("step", 1)] * 3
        assert desk.last(0).hypotheses[0].token_ids == (3, 4, 5, 6)

    @pytest.mark.parametrize(
        "settings", [{"stop_condition": lambda ids: False}, {"repetition_penalty": 1.1}, {"num_beams": 2}]
    )
    def test_what_looks_at_the_text_goes_step_by_step(self, settings: dict[str, Any]) -> None:
        desk = self.desk()
        desk.submit(1, 5, **settings)
        desk.rounds(1)
        assert len(desk.rounds(1)) == 1
        desk.submit(1, 5)
        desk.rounds(1)
        assert len(desk.rounds(1)) == 1

    def test_whoever_comes_is_let_in_at_the_next_step(self) -> None:
        desk = self.desk(lambda count: desk.submit(1, 3, 3) if count == 3 and len(desk.streams) == 1 else None)
        desk.submit(1, temperature=0.0)
        assert desk.rounds(1) == [("step", 1)] * 3
        assert desk.rounds(1) == [("read", 2), *[("step", 2)] * 6]
        assert len(desk.streams) == 2

    def test_a_prompt_that_is_read_is_not_kept_waiting(self) -> None:
        desk = self.desk()
        desk.submit(1)
        desk.rounds(1)
        desk.submit(*[4] * 600)
        assert desk.rounds(3) == [("read", 64), ("step", 1)] * 3

    def test_who_cancels_is_free_before_the_next_step(self) -> None:
        desk = self.desk(lambda count: desk.streams[0].cancel() if count == 4 else None)
        desk.submit(1, temperature=0.0, num_samples=2)
        assert desk.rounds(2) == [("step", 2)] * 4
        assert desk.last(0).reason == "cancelled"
        assert desk.scheduler.live_rows == 0

    def test_it_does_not_go_on_for_long(self) -> None:
        def happens(count: int) -> None:
            desk.clock.seconds += desk.scheduler.max_ahead_seconds / 2

        desk = self.desk(happens)
        desk.submit(1)
        assert desk.rounds(1) == [("step", 1)] * 2

    def test_what_went_well_is_told_before_what_went_wrong(self) -> None:
        desk = self.desk(lambda count: 1 // (count - 5))
        desk.submit(1, temperature=0.0)
        assert desk.rounds(1) == [("step", 1)] * 5
        assert [next(desk.streams[0]) for _ in range(4)] != []
        with pytest.raises(ZeroDivisionError):
            next(desk.streams[0])
        assert desk.scheduler.live_rows == 0

    def test_logits_that_are_no_numbers_fail_their_row_alone(self) -> None:
        desk = Desk(TableBackend(lambda token, count: np.full(8, np.nan if count == 4 else 0.0), vocab_size=8), ahead=6)
        desk.submit(1)
        desk.rounds(2)
        desk.submit(1, max_new_tokens=2)
        desk.rounds(3)
        assert [next(desk.streams[0]) for _ in range(3)] != []
        with pytest.raises(BrokenModel, match="new token 3 "):
            next(desk.streams[0])
        assert desk.last(1).reason == "length"

    def test_a_long_text_is_remembered(self, onnx_backend: Backend) -> None:
        desk = Desk(onnx_backend, ahead=10)
        desk.submit(1, 5, max_new_tokens=200)
        desk.rounds(10)
        desk.streams[0].cancel()
        desk.rounds(1)
        new = desk.last(0).hypotheses[0].token_ids
        assert len(new) == 100
        task = desk.snapshot(1, 5, *new)
        assert desk.rounds(1) == [("read", 100 - 70)]
        found = task.future.result(0)
        fresh = Desk(onnx_backend)
        task = fresh.snapshot(1, 5, *new)
        fresh.rounds(1)
        assert task.future.result(0) == found


class TestPrefixCache:
    def test_a_prompt_is_read_once(self, onnx_backend: Backend) -> None:
        desk = Desk(onnx_backend)
        prompt = text(1, size=150)
        desk.submit(*prompt, max_new_tokens=1)
        assert desk.rounds(1) == [("read", 149), ("step", 1)]
        for settings, rows in (({}, 1), ({"num_beams": 3}, 1), ({"num_samples": 2}, 2)):
            desk.submit(*prompt, max_new_tokens=1, **settings)
            assert desk.rounds(1) == [("step", rows)]
        desk.submit(*prompt[:100], *text(2, size=50))
        assert desk.rounds(1)[0] == ("read", 149)  # no state was kept in the middle of the prompt

    def test_a_growing_text_costs_its_new_tokens(self, onnx_backend: Backend) -> None:
        desk = Desk(onnx_backend)
        context = list(text(1, size=100))
        for _ in range(3):
            number = desk.submit(*context, max_new_tokens=10)
            desk.rounds(12)
            new = desk.last(number).hypotheses[0].token_ids
            context += [*new, 5, 6]
        number = desk.submit(*context)
        # The last new token and the two of the person, the second of which is read with the first step.
        assert desk.rounds(1) == [("read", 2), ("step", 1)]

    def test_a_long_text_is_remembered_while_it_is_written(self, onnx_backend: Backend) -> None:
        desk = Desk(onnx_backend)
        desk.submit(1, 5, max_new_tokens=200)
        desk.rounds(100)
        desk.streams[0].cancel()
        desk.rounds(1)
        new = desk.last(0).hypotheses[0].token_ids
        assert len(new) == 100
        task = desk.snapshot(1, 5, *new)
        assert desk.rounds(1) == [("read", 99 - 63)]
        assert task.future.done()

    def test_what_was_remembered_is_what_was_read(self, onnx_backend: Backend) -> None:
        context = text(3, size=80)
        desk, fresh = Desk(onnx_backend), Desk(onnx_backend, max_prefix_cache_bytes=0)
        desk.submit(*context[:30])
        desk.submit(*context[:60])
        desk.rounds(5)
        found = []
        for one in (desk, fresh):
            task = one.snapshot(*context)
            one.rounds(3)
            found.append(task.future.result(0))
        assert found[0] == found[1]
        assert fresh.backend.calls == [("read", 79)]
        assert desk.backend.tokens_read == 79 - 59

    def test_it_stays_within_its_bytes(self, onnx_backend: Backend) -> None:
        desk = Desk(onnx_backend, max_prefix_cache_bytes=3_000)
        for number in range(5):
            desk.submit(*text(number, size=50), max_new_tokens=1)
            desk.rounds(2)
        desk.submit(*text(0, size=50), max_new_tokens=1)
        assert desk.rounds(1)[0] == ("read", 49)
        desk.submit(*text(0, size=50), max_new_tokens=1)
        assert desk.rounds(1) == [("step", 1)]

    def test_where_rows_are_not_exact_every_prompt_is_read(self, torch_backend: Backend) -> None:
        desk = Desk(torch_backend)
        for _ in range(2):
            desk.submit(*text(1, size=50), max_new_tokens=1)
            assert desk.rounds(1) == [("read", 49), ("step", 1)]
