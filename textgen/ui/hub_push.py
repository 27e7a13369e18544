"""The fold of a model that puts it on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from textgen.shelf import Shelf
from textgen.ui.hub_token import token_field
from textgen.ui.i18n import known_language, say
from textgen.ui.long_task import LONG_EVENT, LongTask
from textgen.ui.long_work import Updates
from textgen.ui.people import People
from textgen.ui.render import link_html, status_html
from textgen.workshop import ProgressCallback


class HubPush:
    """Builds the `fold` in place, to be seen where there is a model to push; `shown` holds the name of the one shown.

    `suffix` tells this fold's ids from those of others.
    """

    def __init__(
        self,
        shelf: Shelf,
        people: People,
        i18n: gr.I18n,
        language: gr.Textbox,
        shown: gr.Textbox,
        *,
        suffix: str = "",
    ) -> None:
        self._shelf = shelf
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
                info = "hub_own_token_info" if people.shared else "hub_token_info"
                self.token = token_field(i18n, info, f"push-token{suffix}")
            with gr.Row():
                private = gr.Checkbox(
                    True, label=i18n("hub_private"), info=i18n("hub_private_info"), elem_id=f"push-private{suffix}"
                )
                button = gr.Button(i18n("hub_push"), elem_id=f"push{suffix}", min_width=120)
            self.task = LongTask(i18n, "push", suffix=suffix)
        asked = [language, shown, repo, self.token, private]
        button.click(self.push, asked, [*self.task.outputs, self.token], **LONG_EVENT)

    def push(
        self, request: gr.Request, language_name: str, name: str | None, repo: str, given: str | None, private: bool
    ) -> Iterator[Updates]:
        """Puts the model there; yields how far it is, then its address. The token's field is emptied at once."""
        yield {self.token: ""}
        language, person, token = known_language(language_name), self._people.of(request), self._people.hub_token(given)

        def work(progress: ProgressCallback) -> str:
            return self._shelf.push(
                name or "", (repo or "").strip(), person, token=token, private=bool(private), progress=progress
            )

        def ended(address: str) -> Updates:
            return {self.task.status: status_html(say("hub_pushed", language), link=link_html(address))}

        yield from self.task.follow(work, request, language, begins="hub_preparing", ended=ended)
