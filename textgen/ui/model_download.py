"""A button that gives a model as a zip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from textgen.files import explain_write_errors, temporary_folder
from textgen.ui.i18n import known_language, say
from textgen.ui.long_task import LONG_EVENT
from textgen.ui.people import People
from textgen.ui.render import failure_html, status_html
from textgen.workshop import Person


class ModelDownload:
    """Builds the `button` in place; `archive` packs the model of a name, for a person, into a folder.

    `label` is the key of the button's text. `elem_id` names the button; the page clicks another one behind it when the
    file is there.
    """

    def __init__(
        self,
        archive: Callable[[str, Person, Path], Path],
        people: People,
        i18n: gr.I18n,
        *,
        elem_id: str,
        label: str = "download",
    ) -> None:
        self._archive = archive
        self._people = people
        self._elem_id = elem_id
        self.button = gr.Button(i18n(label), elem_id=elem_id, visible=False)
        self._file = gr.DownloadButton(visible="hidden", elem_id=f"{elem_id}-file", elem_classes="behind")

    def wire(self, language: gr.Textbox, name: Any, status: gr.HTML) -> None:
        """Gives the model that the component `name` names; `status`, which has an elem_id, says what became of it."""
        made = self.button.click(self.pack, [language, name], [self._file, status], **LONG_EVENT)
        # The button behind the button has its file a moment later.
        problem, file = f"#{status.elem_id} .problem", f"{self._elem_id}-file"
        saved = f"() => {{ if (!document.querySelector('{problem}')) window.textgenDownload('{file}'); }}"
        made.then(None, None, None, js=saved, api_visibility="private")

    def pack(self, request: gr.Request, language_name: str, name: str | None) -> Iterator[tuple[Any, str]]:
        """Makes the zip that is downloaded next; says first that it does."""
        language, person = known_language(language_name), self._people.of(request)
        yield gr.skip(), status_html(say("packing", language), busy=True)
        try:
            with temporary_folder() as folder:
                made = self._archive(name or "", person, folder)
                # Gradio deletes what is in its cache after a day; there the same model lies once.
                with explain_write_errors(Path(self._file.GRADIO_CACHE)):
                    path = save_file_to_cache(made, self._file.GRADIO_CACHE)
        except Exception as error:
            yield gr.skip(), failure_html(error, language)
            return
        yield gr.DownloadButton(value=path), status_html(say("downloading", language))
