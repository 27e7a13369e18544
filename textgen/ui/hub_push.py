"""The fold of a run that puts its model on the Hugging Face Hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from textgen.errors import TextgenError
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.long_work import LongWork
from textgen.ui.people import People
from textgen.ui.render import error_html, link_html, status_html
from textgen.workshop import Progress

_LOGGER = logging.getLogger(__name__)


class HubPush:
    """Builds the `fold` in place, to be seen where there is a model to push; `shown` holds the name of the one shown.

    What became of it is told in `status`. `push` puts a model on the Hub, as `Workshop.push` does; `suffix` tells this
    fold's ids from those of others. The token goes from the browser to the client of the Hub. The field is emptied at
    once; no answer holds it.
    """

    def __init__(
        self,
        push: Callable[..., str],
        people: People,
        i18n: gr.I18n,
        language: gr.Textbox,
        shown: gr.Textbox,
        *,
        suffix: str = "",
    ) -> None:
        self._push = push
        self._people = people
        with gr.Accordion(
            i18n("fold_push"), open=False, elem_classes="fold", elem_id=f"fold-push{suffix}", visible=False
        ) as self.fold:
            with gr.Row():
                repo = gr.Textbox(
                    label=i18n("hub_model"),
                    info=i18n("hub_repo_info"),
                    max_lines=1,
                    elem_id=f"push-repo{suffix}",
                    min_width=180,
                )
                token = gr.Textbox(
                    label=i18n("hub_token"),
                    info=i18n("hub_own_token_info" if people.shared else "hub_token_info"),
                    type="password",
                    max_lines=1,
                    elem_id=f"push-token{suffix}",
                    min_width=180,
                )
            with gr.Row():
                private = gr.Checkbox(
                    True, label=i18n("hub_private"), info=i18n("hub_private_info"), elem_id=f"push-private{suffix}"
                )
                button = gr.Button(i18n("hub_push"), elem_id=f"push{suffix}", min_width=120)
            self.status = gr.HTML("", elem_id=f"push-status{suffix}")
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        button.click(
            self.push,
            [language, shown, repo, token, private],
            [self.status, token],
            concurrency_limit=2,
            trigger_mode="once",
            **quiet,
        )

    def push(
        self, request: gr.Request, language_name: str, name: str | None, repo: str, token: str | None, private: bool
    ) -> Iterator[tuple[str, Any]]:
        """Puts the model there; yields how far it is, then its address. The token's field is empty from the start."""
        language, person = known_language(language_name), self._people.of(request)
        yield status_html(say("hub_preparing", language), busy=True), ""
        # Where many share a machine, its own login is for none of them.
        given = (token or "").strip() or (False if self._people.shared else None)

        def work(progress: Any) -> str:
            return self._push(
                name or "", (repo or "").strip(), person, token=given, private=bool(private), progress=progress
            )

        try:
            pushing = LongWork(work, name="textgen-push")
            for progress in pushing:
                yield _uploading(progress, language), gr.skip()
            yield status_html(say("hub_pushed", language), link=link_html(pushing.result)), gr.skip()
        except Exception as error:
            if not isinstance(error, TextgenError):
                _LOGGER.exception("a model could not be pushed")
            yield error_html(say_error(error, language)), gr.skip()


def _uploading(progress: Progress, language: Language) -> str:
    done, total = f"{progress.done:.1f}", f"{progress.total or 0.0:.1f}"
    return status_html(say("hub_uploading", language, done=done, total=total), busy=True)
