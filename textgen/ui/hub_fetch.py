"""The fold that brings a model from the Hugging Face Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

from textgen.errors import TextgenError
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.long_work import LongWork
from textgen.ui.people import People
from textgen.ui.render import error_html, status_html
from textgen.workshop import Progress, Workshop

_LOGGER = logging.getLogger(__name__)


class HubFetch:
    """Builds the fold in place; `fetched` gets the name of each model that has come.

    `suffix` tells this fold's ids from those of others. A token goes from the browser to the client of the Hub; no
    answer holds it.
    """

    def __init__(
        self, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox, *, suffix: str = ""
    ) -> None:
        self._workshop = workshop
        self._people = people
        self.fetched = gr.Textbox("", visible=False)
        with gr.Accordion(i18n("fold_fetch"), open=False, elem_classes="fold", elem_id=f"fold-fetch{suffix}"):
            model = gr.Textbox(
                label=i18n("hub_model"), info=i18n("hub_model_info"), max_lines=1, elem_id=f"hub-model{suffix}"
            )
            with gr.Row():
                token = gr.Textbox(
                    label=i18n("hub_token"),
                    info=i18n("hub_read_token_info"),
                    type="password",
                    max_lines=1,
                    elem_id=f"hub-token{suffix}",
                    min_width=160,
                )
                revision = gr.Textbox(
                    label=i18n("hub_revision"),
                    info=i18n("hub_revision_info"),
                    max_lines=1,
                    elem_id=f"hub-revision{suffix}",
                    min_width=160,
                )
            fetch = gr.Button(i18n("hub_fetch"), elem_id=f"hub-fetch{suffix}")
            status = gr.HTML("", elem_id=f"hub-status{suffix}")
        gr.on(
            [fetch.click, model.submit, token.submit, revision.submit],
            self.fetch,
            [language, model, token, revision],
            [status, self.fetched, token],
            concurrency_limit=2,
            trigger_mode="once",
            api_visibility="private",
            show_progress="hidden",
        )

    def fetch(
        self, request: gr.Request, language_name: str, repo: str | None, given: str | None, revision: str | None
    ) -> Iterator[tuple[str, Any, Any]]:
        """Makes a model the person's own; yields how far it is, then its name. The token's field is emptied at once."""
        language, person, name = known_language(language_name), self._people.of(request), (repo or "").strip()
        yield status_html(say("hub_asking", language), busy=True), gr.skip(), ""
        # Where many share a machine, its own login is for none of them.
        token = (given or "").strip() or (False if self._people.shared else None)

        def work(progress: Any) -> str:
            wanted = (revision or "").strip() or None
            return self._workshop.fetch(name, person, token=token, revision=wanted, progress=progress)

        try:
            fetching = LongWork(work, name="textgen-fetch")
            for progress in fetching:
                yield _downloading(progress, language), gr.skip(), gr.skip()
            title = self._workshop.jobs.fetched.titles(person).get(fetching.result, name)
            yield status_html(say("model_brought", language, title=title)), fetching.result, gr.skip()
        except Exception as error:
            if not isinstance(error, TextgenError):
                _LOGGER.exception("a model could not be fetched")
            yield error_html(say_error(error, language)), gr.skip(), gr.skip()


def _downloading(progress: Progress, language: Language) -> str:
    if progress.stage == "checking":
        return status_html(say("hub_checking", language), busy=True)
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say("hub_downloading", language, done=done, total=total), busy=True)
