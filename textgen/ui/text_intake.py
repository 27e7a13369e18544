"""The part of the form that brings text: files and pasted words, read at once, and what was found in them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from textgen.errors import NotFound
from textgen.ui.i18n import Language, known_language, say
from textgen.ui.long_work import LongWork, Updates
from textgen.ui.people import People
from textgen.ui.render import CHANGING_CHOICES, error_html, failure_html, status_html
from textgen.ui.run_html import report_html, text_name
from textgen.workshop import FORMATS, Person, Progress, Upload, Workshop

_ENCODINGS = ("utf-8", "gb18030", "big5", "shift_jis", "euc-kr", "koi8-r", "windows-1251", "windows-1252", "utf-16")


class TextIntake:
    """Builds the components in place. `reading` changes with every reading.

    `brought` is what names the text of the form: what was read last and from what (the form may hold another text by
    now), files, and what was pasted.
    """

    def __init__(self, workshop: Workshop, people: People, i18n: gr.I18n, language: gr.Textbox) -> None:
        self._workshop = workshop
        self._people = people
        self._language = language
        self.upload_id = gr.Textbox("", visible=False)
        self._read_from = gr.Textbox("", visible=False)
        self.reading = gr.Textbox("", visible=False)
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
        self.brought = [self.upload_id, self._read_from, self._files, self._pasted]

    def wire(self, status: gr.HTML, start: gr.Button, title: gr.Textbox) -> None:
        """Reads at the press of a button or when files come, and says so in `status`; `start` waits until then."""
        self._status, self._start, self._title = status, start, title
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 4}
        again = [self._again_file, self._again_encoding, self._again_column]
        gr.on(
            [self._read.click, self._files.upload, self._files.delete],
            self.read,
            [self._language, self.upload_id, self._files, self._pasted],
            self.shown,
            **quiet,
        )
        self._files.clear(self.forget, [self._pasted], [self._report, self._read_from], **quiet)
        self._again.click(self.read_again, [self._language, *self.brought, *again], self.shown, **quiet)

    @property
    def shown(self) -> list[Any]:
        """What an import changes."""
        return [
            self.upload_id,
            self._read_from,
            self.reading,
            self._report,
            self._again_file,
            self._again_column,
            self._status,
            self._start,
            self._title,
        ]

    @property
    def held(self) -> list[Any]:
        """What `emptied` changes."""
        return [self.upload_id, self._read_from, self._report, self._files, self._pasted]

    def emptied(self) -> Updates:
        """Updates for a form whose text has gone into a run."""
        return {self.upload_id: "", self._read_from: "", self._report: "", self._files: None, self._pasted: ""}

    def read(
        self,
        request: gr.Request,
        language_name: str,
        upload_id: str,
        files: Sequence[str] | None,
        pasted: str | None,
    ) -> Iterator[Updates]:
        """Imports what was dropped and pasted; yields how far it is, then the report."""
        language, person = known_language(language_name), self._people.of(request)

        def work(progress: Callable[[Progress], None]) -> Upload:
            return self._receive(upload_id, files, pasted, person, progress)

        yield from self._told(self._importing(work, language, mark_of(files, pasted), keep=()), language)

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
    ) -> Iterator[Updates]:
        """The same once more, with another encoding or column for one file."""
        language, person = known_language(language_name), self._people.of(request)
        mark = mark_of(files, pasted)

        def work(progress: Callable[[Progress], None]) -> Upload:
            self.check_read(upload_id, read_from, mark, person)
            return self._workshop.uploads.read_again(
                upload_id, person, file or "", encoding=encoding or None, column=column or None, progress=progress
            )

        importing = self._importing(work, language, mark, keep=(self._again_file, self._again_column))
        yield from self._told(importing, language)

    def forget(self, pasted: str | None) -> tuple[Any, Any]:
        """Nothing is told any more of files that were taken out of the form; what was pasted is read at Start."""
        return ("", "") if not (pasted or "").strip() else (gr.skip(), "")

    def ensure_read(
        self,
        person: Person,
        language: Language,
        upload_id: str,
        read_from: str,
        files: Sequence[str] | None,
        pasted: str | None,
    ) -> Generator[Updates, None, str]:
        """Yields updates while text that was not read yet is read; returns the id of the upload.

        Raises `NotFound` for a form without text, and what importing it raises.
        """
        mark = mark_of(files, pasted)
        if not mark:
            raise NotFound("upload", "", "")
        if self._is_read(upload_id, read_from, mark, person):
            return upload_id

        def work(progress: Callable[[Progress], None]) -> Upload:
            return self._receive(upload_id, files, pasted, person, progress)

        return (yield from self._importing(work, language, mark, keep=())).upload_id

    def check_read(self, upload_id: str, read_from: str, mark: str, person: Person) -> None:
        """Raises `NotFound` for a form without text, `NotRead` where it holds another than was read."""
        if not mark:
            raise NotFound("upload", "", "")
        if not self._is_read(upload_id, read_from, mark, person):
            raise NotRead

    def _is_read(self, upload_id: str, read_from: str, mark: str, person: Person) -> bool:
        if read_from != mark:
            return False
        with suppress(NotFound):
            self._workshop.uploads.get(upload_id, person)
            return True
        return False

    def _receive(
        self,
        upload_id: str,
        files: Sequence[str] | None,
        pasted: str | None,
        person: Person,
        progress: Callable[[Progress], None],
    ) -> Upload:
        """Imports the text of the form in place of what this page has brought before."""
        named = [(Path(file), Path(file).name) for file in files or []]
        upload = self._workshop.uploads.receive(named, pasted or "", person, progress, before=upload_id)
        self._workshop.uploads.replaced(upload_id, person)
        return upload

    def _told(self, importing: Iterator[Updates], language: Language) -> Iterator[Updates]:
        """`importing`, and in the end what became of it."""
        try:
            yield from importing
            problem = status_html("")
        except Exception as error:
            problem = problem_html(error, language)
        yield {self._status: problem, self._start: gr.Button(interactive=True)}

    def _importing(
        self,
        work: Callable[[Callable[[Progress], None]], Upload],
        language: Language,
        mark: str,
        keep: Sequence[Any],
    ) -> Generator[Updates, None, Upload]:
        """Updates of what shows an import; of the fields in `keep` only the choices change. Raises what `work` does."""

        def busy(name: str) -> Updates:
            return {self._status: status_html(say("importing", language, name=name), busy=True)}

        # Nobody starts a run on a text that is being read; a click would read it twice.
        yield {**busy(""), self._start: gr.Button(interactive=False)}
        importing = LongWork(work, name="textgen-import")
        for progress in importing:
            yield busy(f"{progress.done / progress.total:.0%}" if progress.total else "")
        upload = importing.result
        names = dict.fromkeys(text.name for text in upload.texts)
        columns = ["", *dict.fromkeys(name for text in upload.texts for name in text.columns)]
        choices = {
            self._again_file: [(text_name(name, language), name) for name in names],
            self._again_column: [(name, name) for name in columns],
        }
        yield {
            self.upload_id: upload.upload_id,
            self._read_from: mark,
            self.reading: secrets.token_hex(4),
            self._report: report_html(upload, language),
            self._title: gr.Textbox(placeholder=upload.title),
            **{
                field: gr.Dropdown(some) if field in keep else gr.Dropdown(some, value=some[0][1] if some else None)
                for field, some in choices.items()
            },
        }
        return upload


class NotRead(Exception):
    """The text in the form is another one than what was read last."""


def mark_of(files: Sequence[str] | None, pasted: str | None) -> str:
    """Differs for another text in the form; empty where there is none."""
    pasted = (pasted or "").strip()
    if not files and not pasted:
        return ""
    content = json.dumps([list(files or []), pasted])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def problem_html(error: Exception, language: Language) -> str:
    """A sentence for whoever fills in the form; what is none of our errors is logged."""
    if isinstance(error, NotFound) and error.params.get("what") == "upload":
        return error_html(say("no_text_yet", language))
    if isinstance(error, NotRead):
        return error_html(say("read_first", language))
    return failure_html(error, language)
