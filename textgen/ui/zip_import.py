"""The fold that brings a model in a zip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import gradio as gr

from textgen.errors import TextgenError
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.long_work import LongWork
from textgen.ui.people import People
from textgen.ui.render import error_html, status_html
from textgen.workshop import Progress, Workshop

_LOGGER = logging.getLogger(__name__)


class ZipImport:
    """Builds the field in place; `imported` gets the name of each model that has come."""

    def __init__(self, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox) -> None:
        self._workshop = workshop
        self._people = people
        self.imported = gr.Textbox("", visible=False)
        file = gr.File(label=i18n("zip_file"), file_count="single", height=150, elem_id="import-zip")
        status = gr.HTML("", elem_id="import-zip-status")
        file.upload(
            self.bring,
            [language, file],
            [status, self.imported, file],
            concurrency_limit=2,
            trigger_mode="once",
            api_visibility="private",
            show_progress="hidden",
        )

    def bring(self, request: gr.Request, language_name: str, file: str | None) -> Iterator[tuple[str, Any, Any]]:
        """Makes the model in a zip the person's own; yields how far it is, then its name. The field is then empty."""
        language, person = known_language(language_name), self._people.of(request)
        if not file:
            return
        name = PurePath(file).name

        def work(progress: Callable[[Progress], None]) -> str:
            return self._workshop.import_zip(Path(file), name, person, progress)

        try:
            importing = LongWork(work, name="textgen-import-model")
            yield status_html(say("hub_checking", language), busy=True), gr.skip(), gr.skip()
            for progress in importing:
                yield _unpacking(progress, language), gr.skip(), gr.skip()
            title = self._workshop.jobs.fetched.titles(person).get(importing.result, name)
            yield status_html(say("model_brought", language, title=title)), importing.result, None
        except Exception as error:
            if not isinstance(error, TextgenError):
                _LOGGER.exception("a model could not be imported")
            yield error_html(say_error(error, language)), gr.skip(), None


def _unpacking(progress: Progress, language: Language) -> str:
    if progress.stage == "checking":
        return status_html(say("hub_checking", language), busy=True)
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say("zip_unpacking", language, done=done, total=total), busy=True)
