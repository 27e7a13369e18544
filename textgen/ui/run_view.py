"""What one generation shows, event by event."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from textgen.config import GenerationSettings
from textgen.studio import BeamsUpdate, TextDelta, TextEnd
from textgen.ui.gallery import finished_gallery, growing_gallery
from textgen.ui.i18n import Language, say
from textgen.ui.render import error_html, hypotheses_html, link_button, share_percent, status_html
from textgen.ui.tokens import tokens_panel
from textgen.ui.tree import tree_html


class Updates(NamedTuple):
    """One update of the page, in the order of the handler's outputs. What is None stays as it is."""

    document: str | None
    status: str | None
    results: str | None
    tokens: str | None
    link: str | None
    go: gr.Button | None
    go_on: gr.Button | None
    stop: gr.Button | None
    model: gr.Dropdown | None

    def outputs(self) -> tuple[Any, ...]:
        """What Gradio gets."""
        return tuple(gr.skip() if value is None else value for value in self)


class RunView:
    """The document, the line under it, and what is beside and below, while a model continues `prompt`."""

    def __init__(self, prompt: str, language: Language) -> None:
        self._prompt = prompt
        self._language = language
        self._document = prompt
        self._status = say("status_reading", language)
        self._results = ""
        # The colours of the text before stay till there are new ones: the page must not jump.
        self._tokens: str | None = None
        self._link: str | None = None
        self._where = ""
        self._texts = [""]
        self._searching = False
        self._model = ""
        self._note = ""
        self._shown: dict[str, Any] = {}

    def begin(
        self, settings: GenerationSettings, link: str, *, model: str, backend: str, read_characters: int
    ) -> Updates:
        """The settings are good and the model reads; `link` is the query of the page's address.

        `read_characters`: how many of the text, from its end, the model gets to read.
        """
        self._model = model
        if read_characters < len(self._prompt):
            self._note = say("status_cut", self._language, characters=f"{read_characters:,}")
        self.run_by(backend)
        if settings.adapt:
            self._status = say("status_learning", self._language)
        self._texts = [""] * settings.num_samples
        self._searching = settings.num_beams > 1
        self._link = link
        if self._searching or len(self._texts) > 1:
            self._tokens = ""
        return self.running()

    def run_by(self, backend: str) -> None:
        """Names what runs the model."""
        where = say("status_model", self._language, model=self._model, backend=backend)
        self._where = f"{where} · {self._note}" if self._note else where

    def take(self, event: TextDelta | BeamsUpdate, seed: int) -> None:
        """Keeps what an event brings; `running` shows it."""
        numbers = {"tokens": f"{event.tokens:,}", "rate": f"{event.tokens_per_second:,.0f}"}
        if isinstance(event, BeamsUpdate):
            self._document = self._prompt + (event.hypotheses[0].text if event.hypotheses else "")
            self._status = say("status_searching", self._language, **numbers)
            self._results = hypotheses_html(say("hypotheses", self._language), event.hypotheses, self._language)
        elif not self._searching:
            # After a search the whole text comes once more, as one delta; here it is shown already.
            self._texts[event.sample] += event.text
            self._status = say("status_writing", self._language, seed=seed, **numbers)
            if len(self._texts) == 1:
                self._document = self._prompt + self._texts[0]

    def running(self) -> Updates:
        """The page as it is while the model writes."""
        if len(self._texts) > 1:
            self._results = growing_gallery(self._texts, self._language)
        return self._updates(status_html(self._status, where=self._where, busy=True), running=True)

    def failed(self, sentence: str) -> Updates:
        """The page with a sentence on what went wrong; what was written stays."""
        return self._updates(error_html(sentence), running=False)

    def end(self, event: TextEnd, link: str) -> Updates:
        """The page with all that was written; `link` now has the seed too."""
        several = len(event.samples) > 1
        self._document = self._prompt if several else self._prompt + event.text
        self._link = link
        if several:
            self._results = finished_gallery(self._prompt, event.samples, self._language)
        elif self._searching:
            self._results = self._found(event)
        self._tokens = "" if several or not event.samples else self._coloured(event)
        button = link_button(self._language, complete="prompt=" in link)
        return self._updates(status_html(self._summary(event), where=self._where, link=button), running=False)

    def _found(self, event: TextEnd) -> str:
        shown = event.hypotheses if len(event.hypotheses) > 1 else ()
        title = say("results", self._language)
        listed = hypotheses_html(title, shown, self._language, prompt=self._prompt, limit=len(shown))
        return listed + tree_html(event.tree, [item.node for item in event.hypotheses], self._language)

    def _coloured(self, event: TextEnd) -> str:
        return tokens_panel(self._prompt, event.samples[0], self._language)

    def _summary(self, event: TextEnd) -> str:
        numbers = {"tokens": f"{event.tokens:,}", "rate": f"{event.tokens_per_second:,.0f}"}
        key = "status_beams" if self._searching else "status_writing"
        figures = say(key, self._language, seed=event.seed, **numbers)
        if event.copied_share is not None:
            percent = share_percent(event.copied_share)
            figures += " · " + say("status_copied", self._language, percent=percent)
        # Of several texts each has its own reason, which its card tells.
        return figures if len(event.samples) > 1 else f"{figures} · {say(f'reason_{event.reason}', self._language)}"

    def _updates(self, status: str, *, running: bool) -> Updates:
        """What has changed since the last time: with many people writing, whatever is sent costs them time."""
        values: dict[str, str | None] = {
            "document": self._document,
            "status": status,
            "results": self._results,
            "tokens": self._tokens,
            "link": self._link,
        }
        changed = {name: value if value != self._shown.get(name) else None for name, value in values.items()}
        go = go_on = stop = None
        if running != self._shown.get("running"):
            go, go_on = gr.Button(interactive=not running), gr.Button(interactive=not running)
            stop = gr.Button(interactive=running)
        self._shown = {**values, "running": running}
        return Updates(**changed, go=go, go_on=go_on, stop=stop, model=None)
