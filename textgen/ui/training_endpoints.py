"""What other programs may ask about training: start a run, look at runs, pause and resume them. One's own only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr

from textgen.studio import Studio
from textgen.ui.people import People
from textgen.ui.publishing import publish
from textgen.workshop import RunRequest, RunView, Workshop

_RUN_ID = "20260101-120000-abc"
# Importing keeps a process busy: as many at once as on the page.
_IMPORTS_AT_ONCE = 4


class Run(TypedDict):
    """A run as it is now. Losses are nats per character; `position` is its place among those that wait."""

    run_id: str
    title: str
    state: str
    step: int
    progress: float
    position: int | None
    loss: float | None
    heldout_loss: float | None
    best_heldout_loss: float | None


class RunReport(Run):
    """A run, and what it has told last."""

    seconds_left: float | None
    tokens_per_second: float | None
    error: str | None
    samples: list[str]


class TrainingEndpoints:
    """/train, /runs, /run and /change_run over a workshop."""

    def __init__(self, studio: Studio, workshop: Workshop, people: People) -> None:
        self._studio = studio
        self._workshop = workshop
        self._people = people

    def publish(self) -> None:
        """Offers them inside the current `gr.Blocks`."""
        train = {
            "text": "Once there was a fox who could count. …",
            "base": "fairy-tales",
            "preset": "quick",
            "minutes": 3,
            "title": "Foxes",
            "sample_prompts": ["Once there was"],
        }
        publish(self.train, examples=train, files="files", concurrency_limit=_IMPORTS_AT_ONCE)
        publish(self.runs, examples={}, queue=False)
        publish(self.run, examples={"run_id": _RUN_ID}, queue=False)
        publish(self.change_run, examples={"run_id": _RUN_ID, "action": "pause"})

    def train(
        self,
        request: gr.Request,
        text: str = "",
        files: list[str] | None = None,
        base: str | None = None,
        preset: Literal["quick", "balanced", "thorough"] = "quick",
        minutes: float | None = None,
        title: str = "",
        sample_prompts: list[str] | None = None,
    ) -> Iterator[str]:
        """Start a training run on a text, on files, or on both. It goes on by itself; look at it with /run.

        On ZeroGPU it trains until the job ends or is cancelled.

        Parameters:
            text: text to train on, at least some hundred characters in all
            files: files to train on: txt, md, html, csv, docx, epub, pdf and others, or a zip of these
            base: the model to start from, a name from /models; from nothing when not given
            preset: how long and how large
            minutes: for so many minutes, in place of the preset's
            title: what the run is called; as the text when not given
            sample_prompts: what its samples begin with

        Returns:
            run_id: the id of the run, which is also the name of its model
        """
        person = self._people.of(request)
        asked = RunRequest(
            preset=preset,
            base=self._studio.info(base, person).folder if base else None,
            sample_prompts=tuple(sample_prompts or ("",)),
            changes={} if minutes is None else {"training": {"minutes": minutes}},
        )
        named = [(Path(file), Path(file).name) for file in files or ()]
        upload = self._workshop.uploads.receive(named, text, person)
        try:
            run_id = self._workshop.start(upload.upload_id, asked, person, title=title)
        except BaseException:
            self._workshop.uploads.replaced(upload.upload_id, person)
            raise
        yield run_id
        for _ in self._workshop.attend(run_id, person):
            yield run_id

    def runs(self, request: gr.Request) -> list[Run]:
        """List your runs, the newest first.

        Returns:
            runs: each with its state, how far it is, and its losses in nats per character
        """
        return [self._told(view) for view in self._workshop.runs(self._people.of(request))]

    def run(self, request: gr.Request, run_id: str) -> RunReport:
        """Say how a run is doing, with what it wrote last.

        Parameters:
            run_id: what /train answered, or an id from /runs

        Returns:
            run: its state, how far it is, losses in nats per character, speed, what went wrong, and its newest samples
        """
        view = self._workshop.jobs.view(run_id, self._people.of(request))
        history = self._workshop.history(view)
        newest = history.samples[-1] if history.samples else {}
        error = view.status.details.get("error")
        return {
            **self._told(view),
            "seconds_left": _number(history.latest.get("seconds_left")) if view.is_active else None,
            "tokens_per_second": _number(history.latest.get("tokens_per_second")) if view.is_active else None,
            "error": None if error is None else str(error),
            "samples": [str(text) for text in newest.get("samples", ())],
        }

    def change_run(
        self, request: gr.Request, run_id: str, action: Literal["pause", "resume", "stop", "discard"]
    ) -> Iterator[list[Run]]:
        """Pause a run, resume it, stop it and keep its model, or discard it with its model.

        On ZeroGPU one that is resumed trains until the job ends or is cancelled.

        Parameters:
            run_id: an id from /runs
            action: what is to become of it

        Returns:
            runs: your runs as they are after it
        """
        person, jobs = self._people.of(request), self._workshop.jobs
        verbs = {"pause": jobs.pause, "resume": jobs.resume, "stop": jobs.stop, "discard": jobs.discard}
        try:
            verbs[action](run_id, person)
        finally:
            self._workshop.forget()
        yield self.runs(request)
        for _ in self._workshop.attend(run_id, person) if action == "resume" else ():
            yield self.runs(request)

    def _told(self, view: RunView) -> Run:
        history = self._workshop.history(view)
        return {
            "run_id": view.run_id,
            "title": view.title,
            "state": view.state,
            "step": view.status.step,
            "progress": view.status.progress,
            "position": view.position,
            "loss": history.losses[-1][1] if history.losses else None,
            "heldout_loss": history.held_out[-1][1] if history.held_out else None,
            "best_heldout_loss": history.best[1] if history.best else None,
        }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
