"""The fold of the form that brings a model from the Hugging Face Hub to start from."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from textgen.errors import NotFound, TextgenError
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.long_work import LongWork
from textgen.ui.people import People
from textgen.ui.render import error_html, status_html
from textgen.workshop import Person, Progress, Workshop

_LOGGER = logging.getLogger(__name__)


class HubFetch:
    """Builds the fold in place; `base` is the dropdown that a fetched model is chosen in, `bases` gives its choices.

    `chosen` changes when another base stands there by what was done here. A token goes from the browser to the client
    of the Hub; no answer holds it.
    """

    def __init__(
        self,
        workshop: Workshop,
        people: People,
        i18n: gr.I18n,
        language: gr.Textbox,
        base: gr.Dropdown,
        bases: Callable[[Person, Language], list[tuple[str, str]]],
    ) -> None:
        self._workshop = workshop
        self._people = people
        self._bases = bases
        with gr.Accordion(i18n("fold_fetch"), open=False, elem_classes="fold", elem_id="fold-fetch"):
            with gr.Row():
                model = gr.Textbox(
                    label=i18n("hub_model"),
                    info=i18n("hub_model_info"),
                    max_lines=1,
                    elem_id="hub-model",
                    min_width=200,
                    scale=3,
                )
                token = gr.Textbox(
                    label=i18n("hub_token"),
                    info=i18n("hub_read_token_info"),
                    type="password",
                    max_lines=1,
                    elem_id="hub-token",
                    min_width=160,
                    scale=2,
                )
            with gr.Row():
                fetch = gr.Button(i18n("hub_fetch"), elem_id="hub-fetch", min_width=90)
                remove = gr.Button(i18n("hub_remove"), elem_id="hub-remove", min_width=90)
            status = gr.HTML("", elem_id="hub-status")
        self.chosen = gr.Textbox("", visible=False)
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        fetched = gr.on(
            [fetch.click, model.submit, token.submit],
            self.fetch,
            [language, model, token],
            [status, base, token],
            concurrency_limit=2,
            trigger_mode="once",
            **quiet,
        )
        removed = remove.click(self.remove, [language, base], [status, base], **quiet)
        # A step of its own: what changes together with the base may be asked about while the old one still stands.
        for event in (fetched, removed):
            event.then(lambda: secrets.token_hex(4), None, [self.chosen], queue=False, **quiet)

    def fetch(
        self, request: gr.Request, language_name: str, repo: str | None, given: str | None
    ) -> Iterator[tuple[str, Any, Any]]:
        """Makes a model the person's own and chooses it; yields how far it is. The token's field is emptied at once."""
        language, person, name = known_language(language_name), self._people.of(request), (repo or "").strip()
        yield status_html(say("hub_asking", language), busy=True), gr.skip(), ""
        # Where many share a machine, its own login is for none of them.
        token = (given or "").strip() or (False if self._people.shared else None)

        def work(progress: Any) -> str:
            return self._workshop.fetch(name, person, token=token, progress=progress)

        try:
            fetching = LongWork(work, name="textgen-fetch")
            for progress in fetching:
                yield _downloading(progress, language), gr.skip(), gr.skip()
            chosen = gr.Dropdown(self._bases(person, language), value=fetching.result)
            yield status_html(say("hub_fetched", language, name=name)), chosen, gr.skip()
        except Exception as error:
            if not isinstance(error, TextgenError):
                _LOGGER.exception("a model could not be fetched")
            yield error_html(say_error(error, language)), gr.skip(), gr.skip()

    def remove(self, request: gr.Request, language_name: str, base: str | None) -> tuple[str, Any]:
        """Deletes the fetched model that is chosen."""
        language, person = known_language(language_name), self._people.of(request)
        titles = {name: title for title, name in self._bases(person, language)}
        try:
            self._workshop.jobs.fetched.remove(base or "", person)
        except NotFound:
            return error_html(say("hub_remove_none", language)), gr.skip()
        except TextgenError as error:
            return error_html(say_error(error, language)), gr.skip()
        choices = self._bases(person, language)
        told = say("hub_removed", language, name=titles.get(base or "", base or ""))
        return status_html(told), gr.Dropdown(choices, value=choices[0][1])


def _downloading(progress: Progress, language: Language) -> str:
    if progress.stage == "checking":
        return status_html(say("hub_checking", language), busy=True)
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say("hub_downloading", language, done=done, total=total), busy=True)
