"""What brings a model: from the Hugging Face Hub, or in a zip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import gradio as gr

from textgen.ui.hub_token import token_field
from textgen.ui.i18n import known_language, say
from textgen.ui.long_task import LONG_EVENT, LongTask
from textgen.ui.long_work import Updates
from textgen.ui.people import People
from textgen.ui.render import status_html
from textgen.workshop import Person, ProgressCallback, Workshop


class ModelSource:
    """Where models come from; `brought` gets the name of each that has come."""

    def __init__(self, workshop: Workshop, people: People) -> None:
        self._workshop = workshop
        self._people = people
        self.brought = gr.Textbox("", visible=False)

    def _bring(
        self,
        task: LongTask,
        get: Callable[[Person, ProgressCallback], str],
        request: gr.Request,
        language_name: str,
        *,
        begins: str,
        always: Updates | None = None,
    ) -> Iterator[Updates]:
        """Has `get` make a model the person's own; yields how far it is, then its name."""
        language, person = known_language(language_name), self._people.of(request)

        def ended(name: str) -> Updates:
            title = self._workshop.jobs.fetched.titles(person).get(name, name)
            return {task.status: status_html(say("model_brought", language, title=title)), self.brought: name}

        def work(progress: ProgressCallback) -> str:
            return get(person, progress)

        yield from task.follow(work, request, language, begins=begins, ended=ended, always=always)


class HubFetch(ModelSource):
    """Builds the fold in place that brings a model from the Hub.

    `suffix` tells this fold's ids from those of others.
    """

    def __init__(
        self, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox, *, suffix: str = ""
    ) -> None:
        super().__init__(workshop, people)
        with gr.Accordion(i18n("fold_fetch"), open=False, elem_classes="fold", elem_id=f"fold-fetch{suffix}"):
            model = gr.Textbox(
                label=i18n("hub_model"), info=i18n("hub_model_info"), max_lines=1, elem_id=f"hub-model{suffix}"
            )
            with gr.Row():
                self.token = token_field(i18n, "hub_read_token_info", f"hub-token{suffix}")
                revision = gr.Textbox(
                    label=i18n("hub_revision"),
                    info=i18n("hub_revision_info"),
                    max_lines=1,
                    elem_id=f"hub-revision{suffix}",
                    min_width=160,
                )
            fetch = gr.Button(i18n("hub_fetch"), elem_id=f"hub-fetch{suffix}")
            self.task = LongTask(i18n, "hub", suffix=suffix, cancelled="hub_fetch_cancelled")
        gr.on(
            [fetch.click, model.submit, self.token.submit, revision.submit],
            self.fetch,
            [language, model, self.token, revision],
            [*self.task.outputs, self.brought, self.token],
            **LONG_EVENT,
        )

    def fetch(
        self, request: gr.Request, language_name: str, repo: str | None, given: str | None, revision: str | None
    ) -> Iterator[Updates]:
        """Makes a model the person's own; yields how far it is, then its name. The token's field is emptied at once."""
        yield {self.token: ""}
        token = self._people.hub_token(given)

        def get(person: Person, progress: ProgressCallback) -> str:
            wanted = (revision or "").strip() or None
            return self._workshop.fetch((repo or "").strip(), person, token=token, revision=wanted, progress=progress)

        yield from self._bring(self.task, get, request, language_name, begins="hub_asking")


class ZipImport(ModelSource):
    """Builds the field in place that brings a model in a zip."""

    def __init__(self, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox) -> None:
        super().__init__(workshop, people)
        self.file = gr.File(label=i18n("zip_file"), file_count="single", height=150, elem_id="import-zip")
        self.task = LongTask(i18n, "import-zip")
        outputs = [*self.task.outputs, self.brought, self.file]
        self.file.upload(self.bring, [language, self.file], outputs, **LONG_EVENT)

    def bring(self, request: gr.Request, language_name: str, file: str | None) -> Iterator[Updates]:
        """Makes the model in a zip the person's own; yields how far it is, then its name. The field is then empty."""
        if not file:
            return

        def get(person: Person, progress: ProgressCallback) -> str:
            return self._workshop.import_zip(Path(file), PurePath(file).name, person, progress)

        # In one update with the end of the task: of two at once the page loses one.
        emptied = {self.file: None}
        yield from self._bring(self.task, get, request, language_name, begins="progress_checking", always=emptied)
