"""What long work looks like in a terminal: one line that moves, or a line now and then where output is a file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from textgen.jobs.run_history import RunHistory
from textgen.jobs.run_view import RunView
from textgen.progress import FINISHING, Progress
from textgen.text.importing import ImportedText
from textgen.text.readers import FileReport
from textgen.training.events import (
    BatchSplitEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    StartEvent,
    StepEvent,
)
from textgen.training.memorization import Memorization
from textgen.training.verdict import Verdict, verdict

if TYPE_CHECKING:
    from textgen.jobs.estimate import RunEstimate
    from textgen.shelf import ShelfModel

_PLAIN_SECONDS = 10.0
_STAGES = {
    "reading": "Reading",
    "sampling": "Reading for the vocabulary",
    "tokenizer": "Training the vocabulary",
    "encoding": "Encoding",
    "indexing": "Indexing what was copied from",
    "evaluating": "Evaluating",
    "importing": "Converting",
    "uploading": "Uploading",
    "downloading": "Downloading",
    "unpacking": "Unpacking",
    "checking": "Reading it",
    FINISHING: "Finishing",
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
        amount = "" if progress.total is None and not progress.done else f": {progress.done:,.0f}"
        if progress.total:
            amount += f" of {progress.total:,.0f}"
        self.update(f"{stage}{amount} {progress.unit}".rstrip())


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


def base_learned_sentence(share: float) -> str:
    """What is to be said where the base has learned from that share of the held-out text."""
    return f"The base has learned from {share:.0%} of the held-out text: figures for it are better than for new text."


def import_lines(texts: Sequence[ImportedText]) -> list[str]:
    """What became of imported files, a line each, warnings below."""
    lines = []
    for text in texts:
        if text.path is None:
            lines.append(str(text.problem))
            continue
        guessed = " (guessed; --encoding overrides)" if text.guessed and text.encoding != "utf-8" else ""
        parts = [
            f"{text.name} → {text.path.name}: {text.characters:,} characters",
            f"{text.encoding}{guessed}" if text.encoding else text.kind,
            "1 document" if text.documents == 1 else f"{text.documents:,} documents",
        ]
        parts += [f"{text.duplicates:,} of them seen before"] if text.duplicates else []
        parts += [f"column “{text.column}” of {', '.join(text.columns)}"] if text.column is not None else []
        parts += [" ".join(f"{script} {share:.0%}" for script, share in text.scripts[:3])] if text.scripts else []
        lines.append(", ".join(parts))
        lines += [str(text.problem)] if text.problem else []
    return [printable(line) for line in lines]


class TrainingDisplay:
    """Shows the events of a training run."""

    def __init__(self, line: StatusLine, *, show_samples: bool = True) -> None:
        self._line = line
        self._show_samples = show_samples
        self._held_out = "–"
        self._evaluations: list[tuple[int, float]] = []
        self._losses: list[tuple[int, float]] = []

    def recall(self, history: RunHistory) -> None:
        """What a run that is gone on with has told before: what is said at the end is said of all of it."""
        self._evaluations = [(int(step), nats) for step, nats in history.held_out]
        self._losses = [(int(step), nats / (history.tokens_per_char or 1.0)) for step, nats in history.losses]
        if self._evaluations:
            self._held_out = f"{self._evaluations[-1][1]:.4f}"

    def show(self, event: Event) -> None:
        line = self._line
        if isinstance(event, StartEvent):
            budget = f", {event.total_steps:,} steps" if event.total_steps else ""
            begun = f", going on at step {event.step:,}" if event.step else ""
            networks = f" of {event.members} networks side by side" if event.members > 1 else ""
            line.print(f"Training {event.parameters:,} parameters{networks} on {event.device}{budget}{begun}.")
            shape = f"{event.batch_size} streams × {event.window} tokens"
            line.print(f"A pass over the text is {event.tokens_per_epoch:,} tokens, read as {shape}.")
        elif isinstance(event, StepEvent):
            self._losses.append((event.step, event.loss))
            line.update(
                f"step {event.step:,} · pass {event.epoch:.1f} · {human_duration(event.seconds_left)} left · "
                f"{event.tokens_per_second:,.0f} tokens/s · loss {event.loss:.3f} nats/token · "
                f"held-out {self._held_out} nats/char"
            )
        elif isinstance(event, EvaluationEvent):
            self._held_out = f"{event.evaluation.nats_per_char:.4f}"
            self._evaluations.append((event.step, event.evaluation.nats_per_char))
            best = " (best so far)" if event.best and event.step else ""
            kept = f", on what the base held out {event.kept.nats_per_char:.4f}" if event.kept else ""
            line.print(
                f"step {event.step:,} · {human_duration(event.elapsed_seconds)}: held-out {self._held_out} nats/char, "
                f"accuracy {event.evaluation.accuracy:.3f}{kept}{best}"
            )
        elif isinstance(event, BatchSplitEvent):
            rows = "1 row" if event.rows == 1 else f"{event.rows:,} rows"
            line.print(f"Memory is short: each batch is now read {rows} at a time, which teaches the same.")
        elif isinstance(event, SampleEvent) and self._show_samples:
            for sample in event.samples:
                line.print(f"    “{_shortened(sample)}”")
            if event.memorization is not None:
                line.print(f"    {_copied(event.memorization)}")
        elif isinstance(event, EndEvent):
            duration = human_duration(event.elapsed_seconds)
            early = " early, since it had stopped getting better" if event.early else ""
            line.print(f"{event.reason.capitalize()}{early} after {duration} at step {event.step:,}.")
            if event.best is not None:
                line.print(f"Best held-out: {event.best.nats_per_char:.4f} nats/char at step {event.best_step:,}.")
            for sentence in filter(None, [verdict_sentence(verdict(self._evaluations, self._losses))]):
                line.print(sentence)


def verdict_sentence(judged: Verdict) -> str | None:
    """What a person should know of it; None where there is nothing to say."""
    if judged.kind == "diverged":
        return f"Training went wrong at step {judged.since_step:,}; try a smaller learning rate."
    if judged.kind == "overfitting":
        return f"Held-out loss has risen since step {judged.since_step:,}; the best checkpoint is kept."
    if judged.kind == "improving":
        return "Held-out loss was still falling; training longer may help."
    return None


def run_facts(view: RunView) -> dict[str, Any]:
    """A run as JSON can hold it."""
    facts: dict[str, Any] = {"id": view.run_id, "title": view.title, "state": view.state, "step": view.status.step}
    facts |= {"progress": round(view.status.progress, 4), "position": view.position}
    if view.waits_for_room:
        facts["waits_for_room"] = True
    error = view.status.details.get("error")
    return facts | ({"error": error} if error else {})


def run_line(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    state = facts["state"] if facts["position"] is None else f"{facts['state']}, {facts['position']} in the queue"
    error = f": {facts['error']}" if facts.get("error") else ""
    far = f"step {facts['step']:,}, {facts['progress']:.0%}"
    return f"{facts['id']}  {_shortened(facts['title'], 60)}  {state}, {far}{error}"


def model_facts(model: ShelfModel) -> dict[str, Any]:
    """A model as JSON can hold it."""
    return {
        "name": model.name,
        "title": model.title,
        "origin": model.origin,
        "source": model.source,
        "checkpoint": str(model.checkpoint),
        **model.model.model_dump(),
        "num_parameters": model.num_parameters,
        "disk_bytes": model.disk_bytes,
        "nats_per_char": model.nats_per_char,
    }


def model_line(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    shape = f"{facts['cell']} {facts['num_layers']} × {facts['hidden_size']}, {facts['num_parameters']:,} parameters"
    if facts["members"] > 1:
        shape = f"{facts['members']} networks, each {shape}"
    nats = "" if facts["nats_per_char"] is None else f", {facts['nats_per_char']:.3f} nats/char"
    told = {"ships": "", "run": " (a run)"}.get(facts["origin"], f" (from {_shortened(facts['source'], 60)})")
    size = f"{facts['disk_bytes'] / 1e6:,.1f} MB"
    name = f"{facts['checkpoint']}  {_shortened(facts['title'], 60)}{told}"
    return f"{printable(name)}  {shape}, {facts['vocab_size']:,} pieces, {size}{nats}"


def estimate_lines(estimate: RunEstimate) -> list[str]:
    """What a run would cost, in sentences."""
    training = estimate.training
    each = f"each evaluation takes {human_duration(training.evaluation_seconds)}"
    passes = f"{training.steps:,} steps, {training.passes:,.1f} passes over the text"
    lines = [
        f"{estimate.parameters:,} parameters on {estimate.device}: {training.tokens_per_second:,.0f} tokens/s.",
        f"The budget is about {passes}, {human_duration(training.seconds)}; {each}.",
    ]
    if training.peak_bytes is not None:
        lines.append(f"Memory: {_megabytes(training.peak_bytes)} at most.")
    free = "" if estimate.free_bytes is None else f"; {_megabytes(estimate.free_bytes)} are free"
    lines.append(f"Disk: {_megabytes(training.disk_bytes)} while saving{free}.")
    if not estimate.fits_on_disk:
        lines.append("That is not enough space for the run's checkpoints.")
    return lines


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _copied(found: Memorization) -> str:
    longest = f", at most {found.longest_tokens} tokens in a row: “{_shortened(found.longest_text, 60)}”"
    share = f"copied from the training text: {found.copied_share:.1%} of 8-token sequences"
    return share + (longest if found.longest_tokens else "")


def _shortened(text: str, limit: int = 200) -> str:
    flat = printable(text.strip().replace("\n", " ⏎ "))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def printable(text: str) -> str:
    """`text` with a mark in place of what a terminal would obey."""
    # An untrained model writes any byte, and names can hold any; a terminal would take some of them for commands.
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
