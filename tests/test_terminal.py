from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from textgen.jobs.estimate import RunEstimate
from textgen.jobs.run_history import RunHistory
from textgen.progress import Progress
from textgen.terminal import (
    StatusLine,
    TrainingDisplay,
    estimate_lines,
    human_duration,
    report_lines,
    verdict_sentence,
)
from textgen.text.readers import FileReport
from textgen.training.estimate import TrainingEstimate
from textgen.training.evaluation import Evaluation
from textgen.training.events import (
    BatchSplitEvent,
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    StartEvent,
    StepEvent,
)
from textgen.training.memorization import Memorization
from textgen.training.verdict import Verdict


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that a person sees: what was erased is gone."""
        return [line.rsplit("\r\x1b[K", 1)[-1] for line in self.getvalue().split("\n")]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


EVALUATION = Evaluation(1.5, 0.75, 1.1, 4.48, 0.61, 1000, 2000, 2100)
EVENTS: list[Event] = [
    StartEvent(0, 200, "cpu, 2 threads, fp32", 1_234_567, 16, 48, 98_765),
    SampleEvent(0, ("untrained \x1b[2J\x07 bytes",)),
    StepEvent(100, 1.5, 0.5, 2.25, 1e-3, 0.5, 12_345.0, 65.0, 3_725.0),
    EvaluationEvent(100, 66.0, EVALUATION, True),
    SampleEvent(100, ("Once\nupon a time",), Memorization(3, "upon\na", 0.125)),
    CheckpointEvent(100, "last"),
    StepEvent(200, 3.0, 1.0, 2.0, 1e-3, 0.5, 12_345.0, 65.0, 5.0),
    EndEvent(200, "finished", 130.0, 100, EVALUATION),
]


def show(terminal: io.StringIO, events: list[Event], **options: Any) -> None:
    display = TrainingDisplay(StatusLine(terminal, clock=Clock()), **options)
    for event in events:
        display.show(event)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (45_296, "12 h 34 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert human_duration(seconds) == said


def test_a_terminal_shows_one_line_that_moves() -> None:
    terminal = Terminal()
    line = StatusLine(terminal, clock=Clock())
    line.update("one")
    line.update("two")
    assert terminal.screen() == ["two"]
    line.print("stays")
    line.update("three")
    assert terminal.screen() == ["stays", "three"]
    line.clear()
    assert terminal.screen() == ["stays", ""]


def test_a_moving_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    StatusLine(terminal, clock=Clock()).update("x" * 100)
    assert terminal.screen() == ["x" * 39]


def test_a_file_gets_a_line_every_ten_seconds() -> None:
    output, clock = io.StringIO(), Clock()
    line = StatusLine(output, clock=clock)
    for second in range(35):
        clock.now = float(second)
        line.update(f"second {second}")
    line.clear()
    assert output.getvalue() == "second 10\nsecond 20\nsecond 30\n"


def test_progress_names_the_stage() -> None:
    terminal = Terminal()
    line = StatusLine(terminal, clock=Clock())
    line.progress(Progress("encoding", 1_234_567, 2_000_000, "characters"))
    assert terminal.screen() == ["Encoding: 1,234,567 of 2,000,000 characters"]
    line.progress(Progress("something new", 3))
    assert terminal.screen() == ["something new: 3"]


def test_a_training_line_says_step_loss_heldout_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    show(terminal, EVENTS[:3])
    line = terminal.screen()[-1]
    for part in ("step 100", "pass 1.5", "1 h 02 min left", "12,345 tokens/s"):
        assert part in line
    # What a narrow terminal cuts off comes last.
    assert line.endswith("loss 2.250 nats/token · held-out – nats/char")
    show(terminal, EVENTS[3:7])
    assert "held-out 0.7500 nats/char" in terminal.screen()[-1]


def test_what_is_said_at_the_end_is_said_of_a_resumed_run_as_a_whole() -> None:
    output = io.StringIO()
    display = TrainingDisplay(StatusLine(output, clock=Clock()))
    before = RunHistory(held_out=[(50.0, 0.7), (60.0, 0.72)], losses=[(60.0, 1.1)], tokens_per_char=0.5)
    display.recall(before)
    for event in (EVENTS[3], EVENTS[-1]):
        display.show(event)
    assert "Held-out loss has risen since step 50; the best checkpoint is kept." in output.getvalue()
    untold = io.StringIO()
    show(untold, [EVENTS[3], EVENTS[-1]])
    assert "risen" not in untold.getvalue()


def test_a_whole_run_reads_well_in_a_file() -> None:
    output = io.StringIO()
    show(output, EVENTS)
    lines = output.getvalue().splitlines()
    assert lines == [
        "Training 1,234,567 parameters on cpu, 2 threads, fp32, 200 steps.",
        "A pass over the text is 98,765 tokens, read as 16 streams × 48 tokens.",
        "    “untrained \ufffd[2J\ufffd bytes”",
        "step 100 · 1 min 06 s: held-out 0.7500 nats/char, accuracy 0.610 (best so far)",
        "    “Once ⏎ upon a time”",
        "    copied from the training text: 12.5% of 8-token sequences, at most 3 tokens in a row: “upon ⏎ a”",
        "Finished after 2 min 10 s at step 200.",
        "Best held-out: 0.7500 nats/char at step 100.",
    ]


def test_a_resumed_run_without_heldout_text_and_samples_says_less() -> None:
    output = io.StringIO()
    start = StartEvent(50, None, "cpu", 10, 1, 2, 3, members=2)
    show(output, [start, EVENTS[1], EndEvent(60, "stopped", 1.0, None, None)], show_samples=False)
    assert output.getvalue().splitlines() == [
        "Training 10 parameters of 2 networks side by side on cpu, going on at step 50.",
        "A pass over the text is 3 tokens, read as 1 streams × 2 tokens.",
        "Stopped after 1 s at step 60.",
    ]


def test_a_run_from_a_base_tells_what_is_kept_and_why_it_ended() -> None:
    output = io.StringIO()
    evaluations = [replace(EVALUATION, nats_per_char=nats) for nats in (1.2, 1.0, 1.05, 1.1)]
    events: list[Event] = [
        EvaluationEvent(
            100 * number, 60.0 * number, evaluation, number < 2, kept=replace(EVALUATION, nats_per_char=0.9)
        )
        for number, evaluation in enumerate(evaluations)
    ]
    end = EndEvent(300, "finished", 180.0, 100, evaluations[1], early=True)
    show(output, [*events[:2], BatchSplitEvent(150, 4, 4), *events[2:], end])
    assert output.getvalue().splitlines() == [
        "step 0 · 0 s: held-out 1.2000 nats/char, accuracy 0.610, on what the base held out 0.9000",
        (
            "step 100 · 1 min 00 s: held-out 1.0000 nats/char, accuracy 0.610, "
            "on what the base held out 0.9000 (best so far)"
        ),
        "Memory is short: each batch is now read 4 rows at a time, which teaches the same.",
        "step 200 · 2 min 00 s: held-out 1.0500 nats/char, accuracy 0.610, on what the base held out 0.9000",
        "step 300 · 3 min 00 s: held-out 1.1000 nats/char, accuracy 0.610, on what the base held out 0.9000",
        "Finished early, since it had stopped getting better after 3 min 00 s at step 300.",
        "Best held-out: 1.0000 nats/char at step 100.",
        "Held-out loss has risen since step 100; the best checkpoint is kept.",
    ]


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        (Verdict("too_early"), None),
        (Verdict("flat", 100), None),
        (Verdict("diverged", 1200), "Training went wrong at step 1,200; try a smaller learning rate."),
        (Verdict("improving"), "Held-out loss was still falling; training longer may help."),
    ],
)
def test_a_verdict_is_a_sentence(judged: Verdict, said: str | None) -> None:
    assert verdict_sentence(judged) == said


@pytest.mark.parametrize(("free", "short"), [(None, False), (10**9, False), (10**6, True)])
def test_an_estimate_is_told_with_units(free: int | None, short: bool) -> None:
    training = TrainingEstimate(12_345.6, 1_000, 185.0, 2.25, 1.6, 512_000_000, 16_000_000, 40_000_000)
    lines = estimate_lines(RunEstimate(training, "cpu, 2 threads, fp32", 1_000_000, free))
    assert lines[:3] == [
        "1,000,000 parameters on cpu, 2 threads, fp32: 12,346 tokens/s.",
        "The budget is about 1,000 steps, 2.2 passes over the text, 3 min 05 s; each evaluation takes 2 s.",
        "Memory: 512 MB at most.",
    ]
    assert ("free" in lines[3]) == (free is not None)
    assert (lines[-1] == "That is not enough space for the run's checkpoints.") == short


def test_long_samples_are_cut() -> None:
    output = io.StringIO()
    show(output, [SampleEvent(1, ("月" * 500,))])
    assert output.getvalue().strip() == "“" + "月" * 199 + "…”"


def report(name: str, *, encoding: str = "utf-8", guessed: bool = True, **counts: int) -> FileReport:
    values: dict[str, Any] = {"bytes": 10, "characters": 1234, "documents": 1, "duplicates": 0, "newlines": 1, **counts}
    return FileReport(name=name, encoding=encoding, guessed=guessed, first_lines=(), **values)


def test_files_are_reported_with_their_encoding() -> None:
    assert report_lines([report("a.txt"), report("b.txt", encoding="gb18030", documents=2000, duplicates=3)]) == [
        "a.txt: 1,234 characters, utf-8, 1 document",
        "b.txt: 1,234 characters, gb18030 (guessed; --encoding overrides), 2,000 documents, 3 of them seen before",
    ]
    assert "guessed" not in report_lines([report("c.txt", encoding="gb18030", guessed=False)])[0]


def test_many_files_are_summed_up() -> None:
    lines = report_lines([report(f"{number}.txt") for number in range(20)], limit=3)
    assert len(lines) == 4
    assert lines[-1] == "… and 17 more files; 24,680 characters in all"
