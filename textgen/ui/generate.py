"""The Generate tab: the text is a document, and the model writes into it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from textgen.config import GenerationSettings, parse_settings
from textgen.errors import InvalidSetting, TextgenError
from textgen.studio import BeamsUpdate, Studio, TextDelta, TextEnd, TextStream
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.render import error_html, hypotheses_html, status_html
from textgen.ui.running import RunningStreams

_FLUSH_SECONDS = 0.07
_EXAMPLES = ("ROMEO:\n", "To be, or not to be", "First Citizen:\nWhat news", "KING RICHARD III:\n")
_LOGGER = logging.getLogger(__name__)

Updates = tuple[Any, ...]


# Where the document stands among the inputs of `Controls`.
_DOCUMENT_INPUT = 2


@dataclass(frozen=True)
class Controls:
    """The inputs of the generate handler, in its order."""

    language: gr.Textbox
    model: gr.Dropdown
    document: gr.Textbox
    temperature: gr.Slider
    length: gr.Slider
    beams: gr.Slider
    top_k: gr.Slider
    top_p: gr.Slider
    min_tokens: gr.Slider
    length_penalty: gr.Slider
    num_return: gr.Slider
    seed: gr.Textbox
    stop_texts: gr.Textbox

    def inputs(self) -> list[Any]:
        return [getattr(self, name) for name in self.__dataclass_fields__]


class GenerateTab:
    """Builds the tab inside the current `gr.Blocks` and wires it to the studio."""

    def __init__(
        self,
        studio: Studio,
        i18n: gr.I18n,
        model: gr.Dropdown,
        language: gr.Textbox,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._studio = studio
        self._running = RunningStreams()
        self._clock = clock
        self._build(i18n, model, language)
        self._wire()

    def _build(self, i18n: gr.I18n, model: gr.Dropdown, language: gr.Textbox) -> None:
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=320, elem_classes="paper"):
                document = gr.Textbox(
                    label=i18n("document"),
                    info=i18n("document_info"),
                    placeholder=i18n("document_placeholder"),
                    lines=13,
                    max_lines=13,
                    autofocus=True,
                    elem_id="document",
                    buttons=["copy"],
                )
                with gr.Row(elem_classes="go-row"):
                    self.go = gr.Button(i18n("generate"), variant="primary", elem_id="generate", scale=3, min_width=120)
                    self.stop = gr.Button(
                        i18n("stop"), variant="stop", elem_id="stop", interactive=False, scale=1, min_width=70
                    )
                    self.undo = gr.Button(i18n("undo"), elem_id="undo", scale=1, min_width=60)
                    self.redo = gr.Button(i18n("redo"), elem_id="redo", scale=1, min_width=60)
                    self.clear = gr.Button(i18n("clear"), elem_id="clear", scale=1, min_width=60)
                self.status = gr.HTML(status_html(""), elem_id="status")
                self.hypotheses = gr.HTML("", elem_id="hypotheses")
                self.examples = gr.Dataset(
                    components=[gr.Textbox(visible=False)],
                    samples=[[example] for example in _EXAMPLES],
                    label=i18n("examples"),
                    elem_id="examples",
                )
            with gr.Column(scale=3, min_width=280, elem_classes="controls"):
                self.controls = self._build_controls(i18n, language, model, document)

    def _build_controls(
        self, i18n: gr.I18n, language: gr.Textbox, model: gr.Dropdown, document: gr.Textbox
    ) -> Controls:
        defaults, limits = GenerationSettings(), self._studio.limits

        def slider(key: str, low: float, high: float, value: float, step: float) -> gr.Slider:
            elem_id = key.replace("_", "-")
            return gr.Slider(
                low, high, value, step=step, label=i18n(key), info=i18n(f"{key}_info"), elem_id=elem_id, buttons=[]
            )

        temperature = slider("temperature", 0.0, 2.0, defaults.temperature, 0.05)
        length = slider("length", 1, min(1000, limits.max_new_tokens), defaults.max_new_tokens, 1)
        beams = slider("beams", 1, min(16, limits.max_beams), defaults.num_beams, 1)
        with gr.Accordion(i18n("more"), open=False, elem_id="more"):
            top_k = slider("top_k", 0, 200, defaults.top_k, 1)
            top_p = slider("top_p", 0.05, 1.0, defaults.top_p, 0.01)
            min_tokens = slider("min_tokens", 0, min(1000, limits.max_new_tokens), defaults.min_new_tokens, 1)
            length_penalty = slider("length_penalty", -2.0, 3.0, defaults.length_penalty, 0.1)
            num_return = slider("num_return", 1, min(16, limits.max_beams), defaults.num_return, 1)
            # A box of text, not of a number: a browser's numbers would round large seeds.
            seed = gr.Textbox(label=i18n("seed"), info=i18n("seed_info"), max_lines=1, elem_id="seed")
            stop_texts = gr.Textbox(
                label=i18n("stop_texts"), info=i18n("stop_texts_info"), lines=2, elem_id="stop-texts"
            )
        return Controls(
            language, model, document, temperature, length, beams, top_k, top_p, min_tokens, length_penalty, num_return,
            seed, stop_texts,
        )  # fmt: skip

    def _wire(self) -> None:
        document = self.controls.document
        generated = self.go.click(
            self.generate,
            self.controls.inputs(),
            [document, self.status, self.hypotheses, self.go, self.stop],
            js=f"(...inputs) => {{ window.textgenRemember(inputs[{_DOCUMENT_INPUT}]); return inputs; }}",
            show_progress="hidden",
            concurrency_limit=self._studio.limits.max_rows,
            trigger_mode="once",
            api_visibility="private",
        )
        plumbing: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        self.stop.click(self.stop_generating, None, None, **plumbing)
        # What stood in the document before is remembered in the browser, where the text is: see page.js.
        changed = [document, self.status, self.hypotheses]
        here: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        generated.then(None, [document], None, js="(text) => { window.textgenRemember(text); }", **here)
        self.undo.click(None, [document], changed, js="(text) => [window.textgenUndo(text), '', '']", **here)
        self.redo.click(None, [document], changed, js="(text) => [window.textgenRedo(text), '', '']", **here)
        self.clear.click(None, [document], changed, js="(text) => [window.textgenReplace(text, ''), '', '']", **here)
        self.examples.click(
            None,
            [document, self.examples],
            changed,
            js=f"(text, index) => [window.textgenReplace(text, {json.dumps(_EXAMPLES)}[index]), '', '']",
            **here,
        )

    def stop_generating(self, request: gr.Request) -> None:
        """Stops what this page is generating; the text stays."""
        self._running.stop(str(request.session_hash))

    def generate(
        self, request: gr.Request, language_name: str, model: str | None, text: str | None, *values: Any
    ) -> Iterator[Updates]:
        """Continues `text`; yields updates of the page."""
        language = known_language(language_name)
        text = text or ""
        page = _Page(text, language)
        stream: TextStream | None = None
        session = str(request.session_hash)
        self._running.expect(session)
        try:
            yield page.show(status_html(say("status_reading", language), busy=True))
            settings = settings_of(*values)
            # A long text is read from where the model's memory of it begins to matter.
            prompt = text[-self._studio.limits.max_prompt_chars :]
            stream = self._studio.generate(model or "", prompt, settings)
            self._running.start(session, stream)
            yield from self._follow(stream, page)
        except TextgenError as error:
            yield page.finish(error_html(say_error(error, language)))
        except Exception as error:
            _LOGGER.exception("generation failed")
            yield page.finish(error_html(say_error(error, language)))
        finally:
            # Also when the browser has gone: Gradio then closes this generator.
            if stream is not None:
                stream.cancel()
            self._running.end(session, stream)

    def _follow(self, stream: TextStream, page: _Page) -> Iterator[Updates]:
        shown = 0.0
        for event in stream:
            if isinstance(event, TextEnd):
                yield page.end(event)
                return
            page.take(event, stream.seed)
            if self._clock() - shown >= _FLUSH_SECONDS:
                shown = self._clock()
                yield page.running()


class _Page:
    """What one generation shows, event by event."""

    def __init__(self, text: str, language: Language) -> None:
        self._prompt = text
        self._text = text
        self._language = language
        self._status = ""
        self._beams = ""

    def take(self, event: TextDelta | BeamsUpdate, seed: int) -> None:
        numbers = {"tokens": f"{event.tokens:,}", "rate": f"{event.tokens_per_second:,.0f}"}
        if isinstance(event, BeamsUpdate):
            best = event.hypotheses[0].text if event.hypotheses else ""
            self._text = self._prompt + best
            self._status = say("status_searching", self._language, **numbers)
            self._beams = hypotheses_html(say("hypotheses", self._language), event.hypotheses, self._language)
        elif not self._beams:
            # After a search the whole text comes once more, as one delta; here it is shown already.
            self._text += event.text
            self._status = say("status_writing", self._language, seed=seed, **numbers)

    def running(self) -> Updates:
        return self.show(status_html(self._status, busy=True))

    def show(self, status: str) -> Updates:
        return self._text, status, self._beams, gr.Button(interactive=False), gr.Button(interactive=True)

    def finish(self, status: str) -> Updates:
        return self._text, status, self._beams, gr.Button(interactive=True), gr.Button(interactive=False)

    def end(self, event: TextEnd) -> Updates:
        self._text = self._prompt + event.text
        numbers = {"tokens": f"{event.tokens:,}", "rate": f"{event.tokens_per_second:,.0f}"}
        searched = bool(self._beams)
        key = "status_beams" if searched else "status_writing"
        status = say(key, self._language, seed=event.seed, **numbers)
        reason = say(f"reason_{event.reason}", self._language)
        if searched:
            shown = event.hypotheses if len(event.hypotheses) > 1 else ()
            title = say("results", self._language)
            self._beams = hypotheses_html(title, shown, self._language, prompt=self._prompt, limit=len(shown))
        return self.finish(status_html(f"{status} · {reason}"))


def settings_of(
    temperature: float,
    length: float,
    beams: float,
    top_k: float,
    top_p: float,
    min_tokens: float,
    length_penalty: float,
    num_return: float,
    seed: str,
    stop_texts: str,
) -> GenerationSettings:
    """The page's controls as settings; raises `InvalidSetting`."""
    seed = (seed or "").strip()
    if seed and not (seed.isascii() and seed.isdigit()):
        raise InvalidSetting("seed", seed, "a whole number from 0, or nothing")
    return parse_settings(
        GenerationSettings,
        {
            "temperature": temperature,
            "max_new_tokens": length,
            "num_beams": beams,
            "top_k": top_k,
            "top_p": top_p,
            "min_new_tokens": min_tokens,
            "length_penalty": length_penalty,
            # One slider must not make another invalid: there cannot be more results than beams.
            "num_return": min(num_return, beams),
            "seed": seed or None,
            "stop": tuple(line for line in (stop_texts or "").split("\n") if line),
        },
    )
