"""The runs of the Train tab as their handlers answer."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from textgen.jobs.manager import JobManager
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.shelf import Shelf
from textgen.studio import Studio
from textgen.ui.i18n import build_i18n
from textgen.ui.people import People
from textgen.ui.run_panel import RunPanel
from textgen.workshop import Workshop

_LIMITS = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
_OLDER, _NEWER = "20260101-000000-aaa", "20260102-000000-bbb"


class Place:
    """The panel over two runs of one person. Time stands still: what was seen of the runs stays what they are."""

    def __init__(self, trained_run: Path, runs: Path) -> None:
        for created, name in enumerate((_OLDER, _NEWER)):
            shutil.copytree(trained_run, runs / name)
            RunFolder(runs / name).write_about(title=name, owner="", created=float(created))
        self.runs = runs
        self.workshop = Workshop(runs, device="cpu", limits=_LIMITS, clock=lambda: 0.0)
        shelf = Shelf(Studio([runs], device="cpu", limits=_LIMITS), self.workshop)
        with gr.Blocks() as self.page:
            language, started = gr.Textbox("en"), gr.Textbox("")
            self.panel = RunPanel(shelf, self.workshop, People(None), build_i18n(), language, started)

    def look(
        self,
        run: str,
        compared: list[str] | None = None,
        scale: str = "linear",
        smoothing: object = 0.8,
        seen: str = "",
    ) -> list[Any]:
        asking: Any = SimpleNamespace(cookies={}, session_hash="x")
        return self.panel.look(asking, "en", run, compared, scale, smoothing, seen)

    def ask(self, handler: str, *inputs: object) -> list[list[Any]]:
        """What a browser that sends `inputs` is answered by each event of that handler."""
        asking: Any = SimpleNamespace(cookies={}, session_hash="x")
        events = [event for event in self.page.fns.values() if getattr(event.fn, "__name__", "") == handler]
        answers = [asyncio.run(self.page.process_api(event, [*inputs], request=asking)) for event in events]
        return [answer["data"] for answer in answers]

    def discard(self, run: str) -> None:
        """As another process does: the workshop of this one does not hear of it."""
        JobManager(self.runs, device="cpu", limits=_LIMITS).discard(run)


@pytest.fixture
def place(trained_run: Path, tmp_path: Path) -> Place:
    return Place(trained_run, tmp_path / "runs")


def _shown(updates: list[Any]) -> str:
    return str(updates[-3])


def test_of_runs_that_another_process_discards_the_next_is_shown(place: Place) -> None:
    assert _shown(place.look(_NEWER)) == _NEWER
    place.discard(_NEWER)
    assert _shown(place.look(_NEWER, scale="log")) == _OLDER
    place.discard(_OLDER)
    assert "No runs yet" in place.look(_OLDER)[2]


def test_what_is_compared_may_be_discarded_meanwhile(place: Place) -> None:
    place.look(_NEWER, [_OLDER])
    place.discard(_OLDER)
    assert _shown(place.look(_NEWER, [_OLDER], scale="log")) == _NEWER


def test_a_run_whose_settings_are_damaged_is_shown_with_what_is_wrong(place: Place) -> None:
    place.look(_NEWER)
    (place.runs / _NEWER / "config.json").write_text("{", encoding="utf-8")
    updates = place.look(_NEWER, scale="log")
    assert _shown(updates) == _NEWER
    assert "config.json" in updates[-5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "meant"), [(None, 0.0), (0.99, 0.98), (5, 0.98), (-1, 0.0), (math.nan, 0.0), ("x", 0.0)]
)
def test_the_number_beside_the_slider_may_be_anything_while_somebody_types(
    place: Place, typed: object, meant: float
) -> None:
    plot = place.look(_NEWER, smoothing=meant)[9]
    answers = [
        *place.ask("look", "en", _NEWER, [], "linear", typed, ""),
        *place.ask("follow", "en", _NEWER, [], "linear", typed),
    ]
    assert len(answers) > 2
    assert all(plot in str(answer) for answer in answers)


def test_a_queue_that_cannot_be_read_is_told_and_all_is_drawn_once_it_can(place: Place) -> None:
    before = place.look(_NEWER)
    queue = place.runs / "queue.sqlite3"
    queue.rename(place.runs / "aside")
    queue.mkdir()
    place.workshop.forget()
    updates = place.look(_NEWER, seen=before[-1])
    assert "could not be written" in updates[2]
    assert updates[-2].active
    assert len(updates) == len(before)
    queue.rmdir()
    place.workshop.forget()
    assert place.look(_NEWER, seen=updates[-1])[2] == before[2]


def test_a_run_that_may_not_be_read_leaves_the_fields_empty(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asking: Any = SimpleNamespace(cookies={}, session_hash="x")
    assert place.panel.choose(asking, _NEWER)[1] == _NEWER

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert not any(place.panel.choose(asking, _NEWER))
