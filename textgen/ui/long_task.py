"""Work that takes a while, started by an event of the page: how far it is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gradio as gr

from textgen.errors import Cancelled
from textgen.ui.i18n import Language, say
from textgen.ui.long_work import LongWork, Updates
from textgen.ui.render import failure_html, status_html
from textgen.workshop import FINISHING, Progress, ProgressCallback

T = TypeVar("T")

# Of every event that has long work done.
LONG_EVENT: dict[str, Any] = {
    "concurrency_limit": 2,
    "trigger_mode": "once",
    "api_visibility": "private",
    "show_progress": "hidden",
}


class LongTask:
    """Builds in place the line that tells how the work goes, and below it, while it runs, a button that cancels it.

    `name` and `suffix` are for their ids and the thread. `cancelled` is the key of what is told when it was cancelled.
    """

    def __init__(self, i18n: gr.I18n, name: str, *, suffix: str = "", cancelled: str = "error_cancelled") -> None:
        self._name = name
        self._cancelled = cancelled
        self._running: dict[str, LongWork[Any]] = {}
        self.status = gr.HTML("", elem_id=f"{name}-status{suffix}")
        self._button = gr.Button(
            i18n("cancel"), size="sm", visible=False, elem_id=f"{name}-cancel{suffix}", elem_classes="cancel"
        )
        self._button.click(self.cancel, queue=False, show_progress="hidden", api_visibility="private")

    @property
    def outputs(self) -> list[Any]:
        """What `follow` updates of its own."""
        return [self.status, self._button]

    def follow(
        self,
        work: Callable[[ProgressCallback], T],
        request: gr.Request,
        language: Language,
        *,
        begins: str,
        ended: Callable[[T], Updates],
        always: Updates | None = None,
    ) -> Iterator[Updates]:
        """Does `work` in a thread; yields how far it is, and in the end what `ended` tells of what it made.

        `begins` is the key of what is told until the work itself tells something; `always` is updated in the end,
        whatever it is. Errors become sentences. Where the page is closed the work goes on.
        """
        session, following = str(request.session_hash), LongWork(work, name=f"textgen-{self._name}")
        self._running[session] = following
        try:
            yield {self.status: status_html(say(begins, language), busy=True), self._button: gr.Button(visible=True)}
            for progress in following:
                yield {
                    self.status: progress_html(progress, language),
                    self._button: gr.Button(visible=progress.stage != FINISHING),
                }
            ending = ended(following.result)
        except Cancelled:
            ending = {self.status: status_html(say(self._cancelled, language))}
        except Exception as error:
            ending = {self.status: failure_html(error, language)}
        finally:
            if self._running.get(session) is following:
                del self._running[session]
        yield {self._button: gr.Button(visible=False), **ending, **(always or {})}

    def cancel(self, request: gr.Request) -> None:
        """Ends what this page has running, which is told in its line."""
        following = self._running.get(str(request.session_hash))
        if following is not None:
            following.cancel()


def progress_html(progress: Progress, language: Language) -> str:
    """How far one stage is."""
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say(f"progress_{progress.stage}", language, done=done, total=total), busy=True)
