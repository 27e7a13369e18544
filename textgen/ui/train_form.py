"""The form of the Train tab: text, what to start from, how long."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from textgen.errors import InvalidSetting, NotFound, TextgenError
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.studio import Studio
from textgen.ui.expert_fields import ExpertFields, expert_changes, fixed_fields
from textgen.ui.hub_fetch import HubFetch
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
        # What was read last and from what: the form may hold another text by now.
        self._upload_id = gr.Textbox("", visible=False)
        self._read_from = gr.Textbox("", visible=False)
        # Changes with every reading.
        self._reading = gr.Textbox("", visible=False)
        self.started = gr.Textbox("", visible=False)
        with gr.Group(elem_id="train-text"):
            self._files = gr.File(
                label=i18n("files"),
                file_count="multiple",
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
        self._hub = HubFetch(self._workshop, self._people, i18n, self._language, self._base, self.bases)
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
            self._expert = ExpertFields(i18n)
        with gr.Row():
            self._title = gr.Textbox(label=i18n("title"), info=i18n("title_info"), elem_id="train-title", max_lines=1)
            self._prompts = gr.Textbox(
                label=i18n("prompts"), info=i18n("prompts_info"), lines=2, max_lines=6, elem_id="train-prompts"
            )
        with gr.Row(elem_classes="go-row"):
            self._start = gr.Button(i18n("start"), variant="primary", elem_id="train-start", scale=2)
            self._estimate = gr.Button(i18n("estimate"), elem_id="train-estimate", scale=1)
        self._status = gr.HTML(status_html(""), elem_id="train-status")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        imported = [
            self._upload_id,
            self._read_from,
            self._reading,
            self._report,
            self._status,
            self._again_file,
            self._again_column,
            self._start,
            self._title,
        ]
        brought = [self._upload_id, self._read_from, self._files, self._pasted]
        gr.on(
            [self._read.click, self._files.upload],
            self.read,
            [self._language, self._upload_id, self._files, self._pasted],
            imported,
            concurrency_limit=4,
            **quiet,
        )
        again = [self._again_file, self._again_encoding, self._again_column]
        self._again.click(
            self.read_again,
            [self._language, *brought, *again],
            imported,
            concurrency_limit=4,
            **quiet,
        )
        choice = [self._base, self._vocabulary, self._preset]
        minutes = self._expert.minutes
        # One event for all of them, so that the last answer is that to the last question.
        gr.on(
            [
                self._reading.change,
                self._base.input,
                self._hub.chosen.change,
                self._vocabulary.input,
                self._preset.input,
                minutes.blur,
                minutes.submit,
                self._language.change,
            ],
            self.suit,
            [self._language, self._upload_id, *choice, minutes],
            [*self._expert.components, self._vocabulary, self._fit],
            trigger_mode="always_last",
            queue=False,
            **quiet,
        )
        asked = [self._language, *brought, *choice, self._prompts, *self._expert.components]
        self._estimate.click(self.estimate, asked, [self._status], concurrency_limit=1, **quiet)
        self._start.click(
            self.start,
            [self.started, self._title, *asked],
            [
                self._status,
                self.started,
                self._upload_id,
                self._read_from,
                self._report,
                self._files,
                self._pasted,
                self._title,
            ],
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
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        files: Sequence[str] | None,
        pasted: str | None,
    ) -> Iterator[dict[Any, Any]]:
        """Imports what was dropped and pasted; yields how far it is, then the report."""
        language, person = known_language(language_name), self._people.of(request)

        def work(progress: ProgressCallback) -> Upload:
            return self._receive(upload_id, files, pasted, person, progress)

        yield from self._importing(work, language, _mark_of(files, pasted), keep=())

    def read_again(
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        read_from: str,
        files: Sequence[str] | None,
        pasted: str | None,
        file: str | None,
        encoding: str | None,
        column: str | None,
    ) -> Iterator[dict[Any, Any]]:
        """The same once more, with another encoding or column for one file."""
        language, person = known_language(language_name), self._people.of(request)
        mark = _mark_of(files, pasted)

        def work(progress: ProgressCallback) -> Upload:
            self._check_read(upload_id, read_from, mark, person)
            return self._workshop.uploads.read_again(
                upload_id, person, file or "", encoding=encoding or None, column=column or None, progress=progress
            )

        yield from self._importing(work, language, mark, keep=(self._again_file, self._again_column))

    def _receive(
        self,
        upload_id: str,
        files: Sequence[str] | None,
        pasted: str | None,
        person: Person,
        progress: ProgressCallback = ignore_progress,
    ) -> Upload:
        """Imports the text of the form in place of what this page has brought before."""
        named = [(Path(file), Path(file).name) for file in files or []]
        upload = self._workshop.uploads.receive(named, pasted or "", person, progress)
        self._workshop.uploads.replaced(upload_id, person)
        return upload

    def _importing(
        self, work: Callable[[ProgressCallback], Upload], language: Language, mark: str, keep: Sequence[Any]
    ) -> Iterator[dict[Any, Any]]:
        """Updates of what shows an import; of the fields in `keep` only the choices change."""
        # Nobody starts a run on a text that is being read; a click would read it twice.
        busy = {self._start: gr.Button(interactive=False)}
        yield {self._status: status_html(say("importing", language, name=""), busy=True), **busy}
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
                yield {self._status: status_html(say("importing", language, name=share), busy=True)}
        ready = {self._start: gr.Button(interactive=True)}
        if isinstance(item, Exception):
            yield {self._status: self._start_problem(item, language), **ready}
            return
        names = list(dict.fromkeys(text.name for text in item.texts))
        columns = ["", *dict.fromkeys(name for text in item.texts for name in text.columns)]
        choices = {self._again_file: names, self._again_column: columns}
        yield {
            self._upload_id: item.upload_id,
            self._read_from: mark,
            self._reading: secrets.token_hex(4),
            self._report: report_html(item, language),
            self._status: status_html(""),
            self._title: gr.Textbox(placeholder=item.title),
            **{
                field: gr.Dropdown(some) if field in keep else gr.Dropdown(some, value=next(iter(some), None))
                for field, some in choices.items()
            },
            **ready,
        }

    def suit(
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        base: str | None,
        vocabulary: str,
        preset: str,
        minutes: str | None,
    ) -> list[Any]:
        """What a choice means, as placeholders and labels, and how well the base's vocabulary fits.

        No value is set: this answer may come after somebody has begun to fill in the form.
        """
        language, person = known_language(language_name), self._people.of(request)
        fixed = fixed_fields(base, vocabulary)
        fit = ""
        values: dict[str, Any] = {}
        try:
            upload = self._workshop.uploads.get(upload_id, person)
            settings = self._workshop.settings(
                upload, self._request(person, base, vocabulary, preset, "", {"minutes": minutes})
            )
            values = {**settings.text.model_dump(), **settings.model.model_dump(), **settings.training.model_dump()}
            if base:
                fit = fit_html(self._workshop.fit(upload, self._base_path(person, base)), language)
        except NotFound:
            pass
        except TextgenError as error:
            fit = error_html(say_error(error, language))
        if (minutes or "").strip():
            values.pop("minutes", None)
        return [*self._expert.suited(values, fixed, language), gr.Radio(visible=bool(base)), fit]

    def estimate(
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        read_from: str,
        files: Sequence[str] | None,
        pasted: str | None,
        *values: Any,
    ) -> Iterator[str]:
        """Times some real steps."""
        language, person = known_language(language_name), self._people.of(request)
        yield status_html(say("estimating", language), busy=True)
        try:
            self._check_read(upload_id, read_from, _mark_of(files, pasted), person)
            figures = self._workshop.estimate(upload_id, self._asked(person, *values), person)
            yield status_html(estimate_text(figures, language))
        except Exception as error:
            yield self._start_problem(error, language)

    def start(
        self,
        request: gr.Request,
        started: str,
        title: str | None,
        language_name: str,
        upload_id: str,
        read_from: str,
        files: Sequence[str] | None,
        pasted: str | None,
        *values: Any,
    ) -> dict[Any, Any]:
        """Queues the run; text that was not read yet is read first."""
        language, person = known_language(language_name), self._people.of(request)
        mark = _mark_of(files, pasted)
        if started and not mark:
            return {self._status: status_html(say("started_before", language))}
        try:
            if not mark:
                raise NotFound("upload", "", "")
            if not self._is_read(upload_id, read_from, mark, person):
                upload_id, read_from = self._receive(upload_id, files, pasted, person).upload_id, mark
            run_id = self._workshop.start(upload_id, self._asked(person, *values), person, title=title or "")
        except Exception as error:
            # What was received stays to be tried again with other settings.
            problem = self._start_problem(error, language)
            return {self._status: problem, self._upload_id: upload_id, self._read_from: read_from}
        return {
            self._status: status_html(say("started", language)),
            self.started: run_id,
            self._upload_id: "",
            self._read_from: "",
            self._report: "",
            self._files: None,
            self._pasted: "",
            self._title: gr.Textbox(value="", placeholder=""),
        }

    def _is_read(self, upload_id: str, read_from: str, mark: str, person: Person) -> bool:
        """Whether the text that is in the form now has been imported, and is still there."""
        if read_from != mark:
            return False
        with suppress(NotFound):
            self._workshop.uploads.get(upload_id, person)
            return True
        return False

    def _check_read(self, upload_id: str, read_from: str, mark: str, person: Person) -> None:
        if not mark:
            raise NotFound("upload", "", "")
        if not self._is_read(upload_id, read_from, mark, person):
            raise _NotRead

    def _asked(
        self, person: Person, base: str | None, vocabulary: str, preset: str, prompts: str | None, *expert: Any
    ) -> RunRequest:
        return self._request(person, base, vocabulary, preset, prompts, dict(zip(EXPERT_FIELDS, expert, strict=True)))

    def _request(
        self,
        person: Person,
        base: str | None,
        vocabulary: str,
        preset: str,
        prompts: str | None,
        expert: Mapping[str, str | None],
    ) -> RunRequest:
        """What the form asks for; an empty field is as the preset says. Raises `InvalidSetting` and `NotFound`."""
        lines = tuple(line for line in (prompts or "").split("\n") if line.strip()) or ("",)
        if preset not in _PRESETS:
            raise InvalidSetting("preset", preset, ", ".join(_PRESETS))
        return RunRequest(
            preset=preset,
            base=self._base_path(person, base) if base else None,
            base_vocabulary=vocabulary,
            sample_prompts=lines,
            changes=expert_changes(expert, fixed_fields(base, vocabulary)),
        )

    def _base_path(self, person: Person, name: str) -> Path:
        known = {info.name: info.folder for info in self._studio.models(person)}
        if name not in known:
            raise NotFound("model", name, ", ".join(known))
        return known[name]

    def _start_problem(self, error: Exception, language: Language) -> str:
        if isinstance(error, NotFound) and error.params.get("what") == "upload":
            return error_html(say("no_text_yet", language))
        if isinstance(error, _NotRead):
            return error_html(say("read_first", language))
        return self._problem(error, language)

    @staticmethod
    def _problem(error: Exception, language: Language) -> str:
        if not isinstance(error, TextgenError):
            _LOGGER.error("the Train tab failed", exc_info=error)
        return error_html(say_error(error, language))


class _NotRead(Exception):
    """The text in the form is another one than what was read last."""


def _mark_of(files: Sequence[str] | None, pasted: str | None) -> str:
    """Differs for another text in the form; empty where there is none."""
    pasted = (pasted or "").strip()
    if not files and not pasted:
        return ""
    content = json.dumps([list(files or []), pasted])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()
