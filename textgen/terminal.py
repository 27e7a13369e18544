"""What long work looks like in a terminal: one line that moves, or a line now and then where output is a file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from textgen.progress import Progress
from textgen.text.readers import FileReport
from textgen.training.events import EndEvent, EvaluationEvent, Event, SampleEvent, StartEvent, StepEvent

_PLAIN_SECONDS = 10.0
_STAGES = {
    "reading": "Reading",
    "sampling": "Reading for the vocabulary",
    "tokenizer": "Training the vocabulary",
    "encoding": "Encoding",
    "evaluating": "Evaluating",
}


def human_duration(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class StatusLine:
    """Text that replaces itself on a terminal; elsewhere it is printed at most every ten seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._moving = stream.isatty()
        self._shown = False
        self._next_plain = clock() + _PLAIN_SECONDS

    def update(self, text: str) -> None:
        if self._moving:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + text[:width])
            self._stream.flush()
            self._shown = True
        elif self._clock() >= self._next_plain:
            self._next_plain = self._clock() + _PLAIN_SECONDS
            self.print(text)

    def print(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False

    def progress(self, progress: Progress) -> None:
        """A `ProgressCallback`."""
        stage = _STAGES.get(progress.stage, progress.stage)
        amount = f"{progress.done:,.0f}"
        if progress.total:
            amount += f" of {progress.total:,.0f}"
        self.update(f"{stage}: {amount} {progress.unit}".rstrip())


def report_lines(reports: Sequence[FileReport], *, limit: int = 12) -> list[str]:
    """What was found in the files that were read, a line each; many files end in a line that sums up."""
    lines = []
    for report in reports[:limit]:
        guessed = " (guessed; --encoding overrides)" if report.guessed and report.encoding != "utf-8" else ""
        duplicates = f", {report.duplicates:,} of them seen before" if report.duplicates else ""
        documents = "1 document" if report.documents == 1 else f"{report.documents:,} documents"
        lines.append(
            f"{report.name}: {report.characters:,} characters, {report.encoding}{guessed}, {documents}{duplicates}"
        )
    if len(reports) > limit:
        characters = sum(report.characters for report in reports)
        lines.append(f"… and {len(reports) - limit} more files; {characters:,} characters in all")
    return lines


class TrainingDisplay:
    """Shows the events of a training run."""

    def __init__(self, line: StatusLine, *, show_samples: bool = True) -> None:
        self._line = line
        self._show_samples = show_samples
        self._held_out = "–"

    def show(self, event: Event) -> None:
        line = self._line
        if isinstance(event, StartEvent):
            budget = f", {event.total_steps:,} steps" if event.total_steps else ""
            begun = f", going on at step {event.step:,}" if event.step else ""
            line.print(f"Training {event.parameters:,} parameters on {event.device}{budget}{begun}.")
            shape = f"{event.batch_size} streams × {event.window} tokens"
            line.print(f"A pass over the text is {event.tokens_per_epoch:,} tokens, read as {shape}.")
        elif isinstance(event, StepEvent):
            line.update(
                f"step {event.step:,} · pass {event.epoch:.1f} · loss {event.loss:.3f} · held-out {self._held_out} "
                f"nats/char · {event.tokens_per_second:,.0f} tokens/s · {human_duration(event.seconds_left)} left"
            )
        elif isinstance(event, EvaluationEvent):
            self._held_out = f"{event.evaluation.nats_per_char:.4f}"
            best = " (best so far)" if event.best else ""
            line.print(
                f"step {event.step:,} · {human_duration(event.elapsed_seconds)}: held-out {self._held_out} nats/char, "
                f"accuracy {event.evaluation.accuracy:.3f}{best}"
            )
        elif isinstance(event, SampleEvent) and self._show_samples:
            for sample in event.samples:
                line.print(f"    “{_shortened(sample)}”")
        elif isinstance(event, EndEvent):
            duration = human_duration(event.elapsed_seconds)
            line.print(f"{event.reason.capitalize()} after {duration} at step {event.step:,}.")
            if event.best is not None:
                line.print(f"Best held-out: {event.best.nats_per_char:.4f} nats/char at step {event.best_step:,}.")


def _shortened(text: str, limit: int = 200) -> str:
    # An untrained model writes any byte; a terminal would take some of them for commands.
    flat = "".join(c if c.isprintable() else "\ufffd" for c in text.strip().replace("\n", " ⏎ "))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
