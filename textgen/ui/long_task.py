"""Work that takes a while, started by an event of the page: how far it is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gradio as gr

from textgen.ui.i18n import Language, say
from textgen.ui.long_work import LongWork, Updates
from textgen.ui.render import failure_html, status_html
from textgen.workshop import Progress, ProgressCallback

T = TypeVar("T")

# Of every event that has long work done.
LONG_EVENT: dict[str, Any] = {
    "concurrency_limit": 2,
    "trigger_mode": "once",
    "api_visibility": "private",
    "show_progress": "hidden",
}


class LongTask:
    """Builds the line in place that tells how the work goes; `elem_id` names it and the thread."""

    def __init__(self, *, elem_id: str) -> None:
        self._elem_id = elem_id
        self.status = gr.HTML("", elem_id=elem_id)

    def follow(
        self, work: Callable[[ProgressCallback], T], language: Language, *, begins: str, ended: Callable[[T], Updates]
    ) -> Iterator[Updates]:
        """Does `work` in a thread; yields how far it is, and in the end what `ended` tells of what it made.

        `begins` is the key of what is told until the work itself tells something. Errors become sentences.
        """
        yield {self.status: status_html(say(begins, language), busy=True)}
        try:
            following = LongWork(work, name=self._elem_id)
            for progress in following:
                yield {self.status: progress_html(progress, language)}
            yield ended(following.result)
        except Exception as error:
            yield {self.status: failure_html(error, language)}


def progress_html(progress: Progress, language: Language) -> str:
    """How far one stage is."""
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say(f"progress_{progress.stage}", language, done=done, total=total), busy=True)
