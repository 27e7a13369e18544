"""The Train tab, top to bottom one story: text, what to start from, how long, and the runs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from textgen.shelf import Shelf
from textgen.studio import Studio
from textgen.ui.i18n import known_language
from textgen.ui.people import People
from textgen.ui.run_panel import RunPanel
from textgen.ui.train_form import TrainForm
from textgen.workshop import Workshop


class TrainTab:
    """Builds the tab inside the current `gr.Tab`."""

    def __init__(
        self,
        studio: Studio,
        shelf: Shelf,
        workshop: Workshop,
        people: People,
        i18n: gr.I18n,
        language: gr.Textbox,
    ) -> None:
        self._people = people
        self._language = language
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=4, min_width=320, elem_classes="train-form"):
                self._form = TrainForm(studio, workshop, people, i18n, language)
            with gr.Column(scale=5, min_width=320, elem_classes="train-runs"):
                self.panel = RunPanel(shelf, workshop, people, i18n, language, self._form.started)

        self._refresh_bases(self.panel.discarded.then)

    def bases(self, request: gr.Request, language_name: str, chosen: str | None) -> Any:
        """The choices of what to start from; one that is gone is no longer chosen."""
        choices = self._form.bases(self._people.of(request), known_language(language_name))
        kept: dict[str, Any] = {} if chosen in [name for _, name in choices] else {"value": choices[0][1]}
        return gr.Dropdown(choices, **kept)

    def refresh_on(self, *events: Any) -> None:
        """Shows the runs and the models as they are now whenever one of these events comes."""
        for event in events:
            event(**self.panel.refreshing)
            self._refresh_bases(event)

    def _refresh_bases(self, event: Any) -> None:
        base = self._form.base
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        event(self.bases, [self._language, base], [base], **quiet)
