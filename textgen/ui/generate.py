"""The Generate tab: the text is a document, and the model writes into it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from textgen.errors import NotFound, TextgenError
from textgen.studio import EVERYBODY, Person, Studio, TextEnd, TextEvent, Writing
from textgen.ui.control_panel import ControlPanel
from textgen.ui.controls import settings_of
from textgen.ui.i18n import Language, known_language, say, say_error, say_setting
from textgen.ui.link import Link, query_of, read_query, with_seed
from textgen.ui.people import NOBODY_ELSE, People
from textgen.ui.render import error_html, model_choices, status_html
from textgen.ui.run_view import RunView
from textgen.ui.running import RunningStreams

# Time between two updates of a page: at least so much, and so much for each that is writing. Sending a page takes the
# processor a few milliseconds, which all who write would have to wait.
_FLUSH_SECONDS = 0.07
_FLUSH_SECONDS_PER_STREAM = 0.02
_LONGEST_FLUSH_SECONDS = 2.0
_EXAMPLES = ("Once upon a time", "The old witch said", "To be, or not to be", "ROMEO:\n")
_LOGGER = logging.getLogger(__name__)
# Where the document stands among the inputs of the generate handler.
_DOCUMENT_INPUT = 2

Outputs = tuple[Any, ...]


class GenerateTab:
    """Builds the tab inside the current `gr.Blocks` and wires it to the studio."""

    def __init__(
        self,
        studio: Studio,
        i18n: gr.I18n,
        model: gr.Dropdown,
        language: gr.Textbox,
        people: People = NOBODY_ELSE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._studio = studio
        self._running = RunningStreams()
        self._clock = clock
        self._model = model
        self._language = language
        self._people = people
        # The query of the page's address; page.js puts it there.
        self.link = gr.Textbox("", visible=False)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=320, elem_classes="paper"):
                self._build_paper(i18n)
            with gr.Column(scale=3, min_width=280, elem_classes="controls"):
                self.panel = ControlPanel(i18n, studio.limits)
        self._wire()

    def _build_paper(self, i18n: gr.I18n) -> None:
        self.document = gr.Textbox(
            label=i18n("document"),
            info=i18n("document_info"),
            placeholder=i18n("document_placeholder"),
            lines=13,
            max_lines=13,
            autofocus=True,
            elem_id="document",
            buttons=["copy"],
        )

        def button(key: str, **options: Any) -> gr.Button:
            return gr.Button(i18n(key), elem_id=key, **{"scale": 1, "min_width": 60, **options})

        with gr.Row(elem_classes="go-row"):
            self.go = button("generate", variant="primary", scale=3, min_width=120)
            self.stop = button("stop", variant="stop", interactive=False)
            self.go_on = button("continue", interactive=False)
            self.undo, self.redo, self.clear = button("undo"), button("redo"), button("clear")
        self.status = gr.HTML(status_html(""), elem_id="status")
        self.results = gr.HTML("", elem_id="results")
        self.tokens = gr.HTML("", elem_id="tokens")
        self.examples = gr.Dataset(
            components=[gr.Textbox(visible=False)],
            samples=[[example] for example in _EXAMPLES],
            label=i18n("examples"),
            elem_id="examples",
        )

    def _wire(self) -> None:
        here: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        shown = [self.document, self.status, self.results, self.tokens]
        generated = gr.on(
            [self.go.click, self.go_on.click],
            self.generate,
            [self._language, self._model, self.document, *self.panel.components],
            [*shown, self.link, self.go, self.go_on, self.stop, self._model],
            js=f"(...inputs) => {{ window.textgenRemember(inputs[{_DOCUMENT_INPUT}]); return inputs; }}",
            concurrency_limit=None,
            trigger_mode="once",
            **here,
        )
        self.stop.click(self.stop_generating, None, None, queue=False, **here)
        self.link.change(None, [self.link], None, js="(query) => { window.textgenAddress(query); }", **here)
        # What stood in the document before is remembered in the browser, where the text is: see document.js.
        generated.then(None, [*shown, self.link], None, js="(...all) => { window.textgenShown(...all); }", **here)
        self.undo.click(None, [self.document], shown, js="(text) => window.textgenUndo(text)", **here)
        self.redo.click(None, [self.document], shown, js="(text) => window.textgenRedo(text)", **here)
        self.clear.click(None, [self.document], shown, js="(text) => window.textgenReplace(text, '')", **here)
        self.examples.click(
            None,
            [self.document, self.examples],
            shown,
            js=f"(text, index) => window.textgenReplace(text, {json.dumps(_EXAMPLES)}[index])",
            **here,
        )

    def open_link(self, query: str, language: Language, person: Person = EVERYBODY) -> tuple[Link | None, Any, Any]:
        """What the address asks for, and updates of the document and the status."""
        names = {info.name for info in self._studio.models(person)}
        link = read_query(query.removeprefix("?"), self.panel.controls, names.__contains__)
        if link is None:
            return None, gr.skip(), gr.skip()
        status = status_html(say("link_opened", language))
        if link.ignored:
            known = ", ".join(say_setting(name, language) for name in link.ignored)
            status = error_html(say("link_ignored", language, names=known))
        return link, gr.skip() if link.prompt is None else link.prompt, status

    def stop_generating(self, request: gr.Request) -> None:
        """Stops what this page is generating; the text stays."""
        self._running.stop(str(request.session_hash))

    def generate(
        self, request: gr.Request, language_name: str, model: str | None, text: str | None, *values: Any
    ) -> Iterator[Outputs]:
        """Continues `text`; yields updates of the page."""
        language, session = known_language(language_name), str(request.session_hash)
        text = whole_characters(text or "")
        view = RunView(text, language)
        self._running.expect(session)
        try:
            yield view.running().outputs()
            yield from self._write(view, session, self._people.of(request), model or "", text, values)
        except TextgenError as error:
            failed = view.failed(say_error(error, language))
            if isinstance(error, NotFound):  # deleted since the page was opened: the list is out of date
                failed = failed._replace(model=self._choices(self._people.of(request), model))
            yield failed.outputs()
        except Exception as error:
            _LOGGER.exception("generation failed")
            yield view.failed(say_error(error, language)).outputs()
        finally:
            self._running.end(session, None)

    def _choices(self, person: Person, model: str | None) -> Any:
        """The models there are now; the list stays as it is where they cannot be looked at."""
        try:
            return model_choices(self._studio.models(person), model)
        except (TextgenError, OSError):
            return None

    def _write(
        self, view: RunView, session: str, person: Person, model: str, text: str, values: tuple[Any, ...]
    ) -> Iterator[Outputs]:
        with self._studio.borrow(model, person) as loaded:
            settings = settings_of(self.panel.named(values), loaded.tokens_reading)
            backend = self._studio.writer_name(loaded)
        title = next((info.title for info in self._studio.models(person) if info.name == model), model)
        link = query_of(model, text, settings)
        # A long text is read from where the model's memory of it begins to matter.
        prompt = text[-self._studio.limits.max_prompt_chars :]
        yield view.begin(settings, link, model=title, backend=backend, read_characters=len(prompt)).outputs()
        with self._studio.generate(model, prompt, settings, person) as stream:
            # Left also when the browser has gone: Gradio then closes this generator.
            self._running.start(session, stream)
            try:
                for event in self._paced(stream, view):
                    view.run_by(stream.backend_name)
                    if isinstance(event, TextEnd):
                        link = query_of(model, text, with_seed(settings, event.seed))
                        yield view.end(event, link).outputs()
                    else:
                        yield view.running().outputs()
            finally:
                self._running.end(session, stream)

    def _flush_seconds(self) -> float:
        wanted = max(_FLUSH_SECONDS, _FLUSH_SECONDS_PER_STREAM * self._running.count)
        return min(wanted, _LONGEST_FLUSH_SECONDS)

    def _paced(self, stream: Writing, view: RunView) -> Iterator[TextEvent]:
        """Tells the view of all events and gives back those after which the page is to be sent anew."""
        shown = 0.0
        for event in stream:
            if isinstance(event, TextEnd):
                yield event
                return
            view.take(event, stream.seed)
            if self._clock() - shown >= self._flush_seconds():
                shown = self._clock()
                yield event


def whole_characters(text: str) -> str:
    """`text` with U+FFFD in place of halves of surrogate pairs, which browsers may send and nobody can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
