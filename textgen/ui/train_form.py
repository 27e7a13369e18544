"""The form of the Train tab: text, what to start from, how long."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from textgen.config import CELLS
from textgen.errors import InvalidSetting, NotFound, TextgenError
from textgen.progress import Progress
from textgen.studio import Studio
from textgen.ui.i18n import Language, known_language, say, say_error
from textgen.ui.people import People
from textgen.ui.render import CHANGING_CHOICES, error_html, status_html
from textgen.ui.run_html import estimate_text, fit_html, report_html
from textgen.ui.train_texts import EXPERT_FIELDS
from textgen.workshop import FORMATS, Person, RunRequest, Upload, Workshop

_LOGGER = logging.getLogger(__name__)
_NONE = ""
_PRESETS = ("quick", "balanced", "thorough")
_VOCABULARIES = ("keep", "extend", "new")
_ENCODINGS = ("utf-8", "gb18030", "big5", "shift_jis", "euc-kr", "koi8-r", "windows-1251", "windows-1252", "utf-16")
_SECTIONS = {
    "text": ("split", "vocab_size", "tokenizer"),
    "model": ("cell", "hidden_size", "num_layers", "embedding_size"),
    "training": ("minutes", "learning_rate", "batch_size", "window", "patience", "evaluations"),
}
# A base brings its own shape, and its vocabulary unless another is wanted.
_WHOLE = {
    "batch_size",
    "window",
    "patience",
    "evaluations",
    "vocab_size",
    "hidden_size",
    "num_layers",
    "embedding_size",
}


class TrainForm:
    """Builds the form inside the current column; `started` is the hidden box that gets the id of a new run."""

    def __init__(self, studio: Studio, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox) -> None:
        self._studio = studio
        self._workshop = workshop
        self._people = people
        self._language = language
        self._build(i18n)
        self._wire()

    def _build(self, i18n: gr.I18n) -> None:
        self._upload_id = gr.Textbox("", visible=False)
        self.started = gr.Textbox("", visible=False)
        with gr.Group(elem_id="train-text"):
            self._files = gr.File(
                label=i18n("files"),
                file_count="multiple",
                file_types=[f".{name}" for name in (*FORMATS, "htm", "markdown", "text")],
                height=150,
                elem_id="train-files",
            )
            gr.HTML(f'<p class="hint">{" · ".join(FORMATS)}</p>', elem_id="train-formats", padding=True)
            self._pasted = gr.Textbox(
                label=i18n("paste"), info=i18n("paste_info"), lines=2, max_lines=8, elem_id="train-paste"
            )
        self._read = gr.Button(i18n("read_text"), elem_id="read-text")
        self._report = gr.HTML("", elem_id="import-report")
        with gr.Accordion(i18n("fold_again"), open=False, elem_classes="fold", elem_id="fold-again"), gr.Row():
            self._again_file = gr.Dropdown(
                [], label=i18n("again_file"), elem_id="again-file", min_width=140, **CHANGING_CHOICES
            )
            self._again_encoding = gr.Dropdown(
                ["", *_ENCODINGS],
                value="",
                label=i18n("again_encoding"),
                info=i18n("again_encoding_info"),
                allow_custom_value=True,
                elem_id="again-encoding",
                min_width=140,
            )
            self._again_column = gr.Dropdown(
                [],
                label=i18n("again_column"),
                info=i18n("again_column_info"),
                allow_custom_value=True,
                elem_id="again-column",
                min_width=140,
            )
            self._again = gr.Button(i18n("again"), elem_id="again", min_width=120)
        self._base = gr.Dropdown(
            self.bases(None),
            value=_NONE,
            label=i18n("base"),
            info=i18n("base_info"),
            elem_id="train-base",
            **CHANGING_CHOICES,
        )
        self._vocabulary = gr.Radio(
            [(i18n(f"vocabulary_{name}"), name) for name in _VOCABULARIES],
            value="keep",
            label=i18n("vocabulary"),
            info=i18n("vocabulary_info"),
            visible=False,
            elem_id="train-vocabulary",
        )
        self._fit = gr.HTML("", elem_id="train-fit")
        self._preset = gr.Radio(
            [(i18n(f"preset_{name}"), name) for name in _PRESETS],
            value="quick",
            label=i18n("preset"),
            info=i18n("preset_info"),
            elem_id="train-preset",
        )
        with gr.Accordion(i18n("fold_expert"), open=False, elem_classes="fold", elem_id="fold-expert"), gr.Row():
            self._expert = {name: self._field(name, i18n) for name in EXPERT_FIELDS}
        with gr.Row():
            self._title = gr.Textbox(label=i18n("title"), info=i18n("title_info"), elem_id="train-title", max_lines=1)
            self._prompts = gr.Textbox(
                label=i18n("prompts"), info=i18n("prompts_info"), lines=2, max_lines=6, elem_id="train-prompts"
            )
        with gr.Row(elem_classes="go-row"):
            self._start = gr.Button(i18n("start"), variant="primary", elem_id="train-start", scale=2)
            self._estimate = gr.Button(i18n("estimate"), elem_id="train-estimate", scale=1)
        self._status = gr.HTML(status_html(""), elem_id="train-status")

    @staticmethod
    def _field(name: str, i18n: gr.I18n) -> Any:
        common: dict[str, Any] = {
            "label": i18n(name),
            "info": i18n(f"{name}_info"),
            "elem_id": f"train-{name.replace('_', '-')}",
            "min_width": 150,
        }
        if name in ("cell", "tokenizer"):
            choices = CELLS if name == "cell" else ("unigram", "bpe", "char")
            return gr.Dropdown(list(choices), value=None, **common)
        if name == "split":
            return gr.Textbox("", max_lines=1, **common)
        return gr.Number(None, precision=0 if name in _WHOLE else None, **common)

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        imported = [
            self._upload_id,
            self._report,
            self._status,
            self._again_file,
            self._again_column,
            self._start,
            self._title,
        ]
        choice = [self._upload_id, self._base, self._vocabulary, self._preset]
        suited = [*self._expert.values(), self._vocabulary, self._fit]
        reads = gr.on(
            [self._read.click, self._files.upload],
            self.read,
            [self._language, self._files, self._pasted, self._title],
            imported,
            concurrency_limit=4,
            **quiet,
        )
        again = self._again.click(
            self.read_again,
            [self._language, self._upload_id, self._again_file, self._again_encoding, self._again_column, self._title],
            imported,
            concurrency_limit=4,
            **quiet,
        )
        for event in (reads, again):
            event.then(self.suit, [self._language, *choice], suited, **quiet)
        gr.on(
            [self._base.input, self._preset.input, self._vocabulary.input],
            self.suit,
            [self._language, *choice],
            suited,
            **quiet,
        )
        # Text that came after the last reading is read when training starts.
        for changed in (self._pasted.input, self._files.change, self._files.clear):
            changed(None, None, [self._upload_id], js="() => ''", **quiet)
        asked = [self._language, *choice, self._prompts, *self._expert.values()]
        self._estimate.click(self.estimate, asked, [self._status], concurrency_limit=1, **quiet)
        self._start.click(
            self.start,
            [self._title, self._files, self._pasted, *asked],
            [self._status, self.started, self._upload_id, self._report, self._files, self._pasted, self._title],
            trigger_mode="once",
            **quiet,
        )

    @property
    def base(self) -> gr.Dropdown:
        """What to start from; its choices are to be kept true."""
        return self._base

    def bases(self, person: Person | None, language: Language = "en") -> list[tuple[str, str]]:
        """What a run may start from: title and name."""
        models = self._studio.models(person) if person is not None else []
        return [(say("base_none", language), _NONE), *((info.title, info.name) for info in models)]

    def read(
        self, request: gr.Request, language_name: str, files: Sequence[str] | None, pasted: str | None, title: str
    ) -> Iterator[tuple[Any, ...]]:
        """Imports what was dropped and pasted; yields how far it is, then the report."""
        language, person = known_language(language_name), self._people.of(request)
        named = [(Path(file), Path(file).name) for file in files or []]

        def work(progress: Any) -> Upload:
            return self._workshop.uploads.receive(named, pasted or "", person, progress)

        yield from self._importing(work, language, title)

    def read_again(
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        file: str | None,
        encoding: str | None,
        column: str | None,
        title: str,
    ) -> Iterator[tuple[Any, ...]]:
        """The same once more, with another encoding or column for one file."""
        language, person = known_language(language_name), self._people.of(request)

        def work(progress: Any) -> Upload:
            return self._workshop.uploads.read_again(
                upload_id, person, file or "", encoding=encoding or None, column=column or None, progress=progress
            )

        yield from self._importing(work, language, title)

    def _importing(self, work: Any, language: Language, title: str) -> Iterator[tuple[Any, ...]]:
        skipped: list[Any] = [gr.skip()] * 7

        def with_status(html: str) -> tuple[Any, ...]:
            return (*skipped[:2], html, *skipped[3:])

        yield with_status(status_html(say("importing", language, name=""), busy=True))
        told: queue.Queue[Progress | Upload | Exception] = queue.Queue()

        def run() -> None:
            try:
                told.put(work(told.put))
            except Exception as error:
                told.put(error)

        threading.Thread(target=run, name="textgen-import", daemon=True).start()
        while isinstance(item := told.get(), Progress):
            if told.empty():
                share = f"{item.done / item.total:.0%}" if item.total else ""
                yield with_status(status_html(say("importing", language, name=share), busy=True))
        if isinstance(item, Exception):
            yield with_status(self._start_problem(item, language))
            return
        names = list(dict.fromkeys(text.name for text in item.texts))
        columns = list(dict.fromkeys(name for text in item.texts for name in text.columns))
        usable = next((text for text in item.texts if text.usable), None)
        yield (
            item.upload_id,
            report_html(item, language),
            status_html(""),
            gr.Dropdown(names, value=names[0] if names else None),
            gr.Dropdown(["", *columns], value=""),
            gr.Button(interactive=usable is not None),
            title or (Path(usable.name).stem if usable is not None else ""),
        )

    def suit(
        self, request: gr.Request, language_name: str, upload_id: str, base: str | None, vocabulary: str, preset: str
    ) -> list[Any]:
        """The values behind a choice, whether a vocabulary is to be chosen, and how well the base's fits."""
        language, person = known_language(language_name), self._people.of(request)
        vocabulary_update = gr.Radio(visible=bool(base))
        try:
            upload = self._workshop.uploads.get(upload_id, person)
            settings = self._workshop.settings(upload, self._request(person, base, vocabulary, preset, ""))
            fit = ""
            if base:
                fit = fit_html(self._workshop.fit(upload, self._base_path(person, base)), language)
        except NotFound:
            return [*(gr.skip() for _ in EXPERT_FIELDS), vocabulary_update, ""]
        except TextgenError as error:
            return [*(gr.skip() for _ in EXPERT_FIELDS), vocabulary_update, error_html(say_error(error, language))]
        values = {**settings.text.model_dump(), **settings.model.model_dump(), **settings.training.model_dump()}
        if base:
            values |= next(info.config["model"] for info in self._studio.models(person) if info.name == base)
        fixed = set(_SECTIONS["model"]) | ({"vocab_size", "tokenizer"} if vocabulary == "keep" else set())
        updates = []
        for name in EXPERT_FIELDS:
            component = type(self._expert[name])
            updates.append(component(value=values[name], interactive=not (base and name in fixed)))
        return [*updates, vocabulary_update, fit]

    def estimate(self, request: gr.Request, language_name: str, upload_id: str, *values: Any) -> Iterator[str]:
        """Times some real steps."""
        language, person = known_language(language_name), self._people.of(request)
        yield status_html(say("estimating", language), busy=True)
        try:
            figures = self._workshop.estimate(upload_id, self._request(person, *values), person)
            yield status_html(estimate_text(figures, language))
        except Exception as error:
            yield self._start_problem(error, language)

    def start(
        self,
        request: gr.Request,
        title: str,
        files: Sequence[str] | None,
        pasted: str | None,
        language_name: str,
        upload_id: str,
        *values: Any,
    ) -> tuple[Any, ...]:
        """Queues the run; text that was not read yet is read first."""
        language, person = known_language(language_name), self._people.of(request)
        try:
            if not upload_id:
                named = [(Path(file), Path(file).name) for file in files or []]
                upload_id = self._workshop.uploads.receive(named, pasted or "", person).upload_id
            run_id = self._workshop.start(upload_id, self._request(person, *values), person, title=title or "")
        except Exception as error:
            # What was received stays to be tried again with other settings.
            return (self._start_problem(error, language), gr.skip(), upload_id, *[gr.skip()] * 4)
        return status_html(say("started", language)), run_id, "", "", None, "", ""

    def _request(
        self, person: Person, base: str | None, vocabulary: str, preset: str, prompts: str | None, *expert: Any
    ) -> RunRequest:
        """What the form asks for; raises `InvalidSetting`."""
        given = {name: value for name, value in zip(EXPERT_FIELDS, expert, strict=False) if value not in (None, "")}
        changes = {
            section: {name: given[name] for name in names if name in given} for section, names in _SECTIONS.items()
        }
        if base:
            changes["model"] = {}
            if vocabulary == "keep":
                changes["text"] = {name: value for name, value in changes["text"].items() if name == "split"}
        lines = tuple(line for line in (prompts or "").split("\n") if line.strip()) or ("",)
        if preset not in _PRESETS:
            raise InvalidSetting("preset", preset, ", ".join(_PRESETS))
        return RunRequest(
            preset=preset,
            base=self._base_path(person, base) if base else None,
            base_vocabulary=vocabulary,
            sample_prompts=lines,
            changes={section: values for section, values in changes.items() if values},
        )

    def _base_path(self, person: Person, name: str) -> Path:
        known = {info.name: info.folder for info in self._studio.models(person)}
        if name not in known:
            raise NotFound("model", name, ", ".join(known))
        return known[name]

    def _start_problem(self, error: Exception, language: Language) -> str:
        if isinstance(error, NotFound) and error.params.get("what") == "upload":
            return error_html(say("no_text_yet", language))
        return self._problem(error, language)

    @staticmethod
    def _problem(error: Exception, language: Language) -> str:
        if not isinstance(error, TextgenError):
            _LOGGER.error("the Train tab failed", exc_info=error)
        return error_html(say_error(error, language))
