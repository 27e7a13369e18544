"""The form of the Train tab: text, what to start from, how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr

from textgen.errors import BadCheckpoint, BadTokenizer, InvalidSetting, MissingFile, NotFound
from textgen.studio import Studio
from textgen.ui.attending import attending
from textgen.ui.expert_fields import ExpertFields, expert_changes, fixed_fields
from textgen.ui.i18n import EXPERT_FIELDS, Language, known_language, say
from textgen.ui.long_work import Updates
from textgen.ui.model_sources import HubFetch
from textgen.ui.people import People
from textgen.ui.render import CHANGING_CHOICES, failure_html, status_html
from textgen.ui.run_html import estimate_text, fit_html, hint_html
from textgen.ui.text_intake import TextIntake, mark_of, problem_html
from textgen.workshop import Person, RunRequest, Upload, Workshop

_NONE = ""
# A text of this size teaches a new model as well, and of so many models it is found out soon which fits.
_SUGGESTED_BELOW_CHARACTERS = 5_000_000
_MOST_SUGGESTED = 4
_PRESETS = ("quick", "balanced", "thorough")
_VOCABULARIES = ("keep", "extend", "new")


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
        self.started = gr.Textbox("", visible=False)
        self.text = TextIntake(self._workshop, self._people, i18n, self._language)
        self._base = gr.Dropdown(
            self.bases(None),
            value=_NONE,
            label=i18n("base"),
            info=i18n("base_info"),
            elem_id="train-base",
            **CHANGING_CHOICES,
        )
        self._hub = HubFetch(self._workshop, self._people, i18n, self._language)
        # Changes when a fetched base has been chosen.
        self._based = gr.Textbox("", visible=False)
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
            # What trains is not there before somebody starts.
            timed = not self._workshop.attended
            self._estimate = gr.Button(i18n("estimate"), elem_id="train-estimate", scale=1, visible=timed)
        self._status = gr.HTML(status_html(""), elem_id="train-status")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.text.wire(self._status, self._start, self._title)
        brought = self.text.brought
        choice = [self._base, self._vocabulary, self._preset]
        minutes = self._expert.minutes
        # One event for all of them, so that the last answer is that to the last question.
        gr.on(
            [
                self.text.reading.change,
                self._base.input,
                self._based.change,
                self._vocabulary.input,
                self._preset.input,
                minutes.blur,
                minutes.submit,
                self._language.change,
            ],
            self.suit,
            [self._language, self.text.upload_id, *choice, minutes],
            [*self._expert.components, self._vocabulary, self._fit],
            trigger_mode="always_last",
            queue=False,
            **quiet,
        )
        chosen = self._hub.brought.change(
            self.choose_fetched, [self._language, self._hub.brought], [self._base], queue=False, **quiet
        )
        # A step of its own: what changes together with the base may be asked about while the old one still stands.
        chosen.then(lambda name: name, [self._hub.brought], [self._based], queue=False, **quiet)
        asked = [self._language, *brought, *choice, self._prompts, *self._expert.components]
        self._estimate.click(self.estimate, asked, [self._status], concurrency_limit=1, **quiet)
        self._start.click(
            self.start,
            [self.started, self._title, *asked],
            list(dict.fromkeys([*self.text.shown, *self.text.held, self.started, self._fit])),
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

    def choose_fetched(self, request: gr.Request, language_name: str, name: str) -> Any:
        """Lets a run start from a model that has just been fetched."""
        return gr.Dropdown(self.bases(self._people.of(request), known_language(language_name)), value=name)

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
            if not base:
                fit = self._suggestion(upload, language)
            elif vocabulary == "keep":
                fit = fit_html(self._workshop.fit(upload, self._studio.info(base, person).folder), language)
        except NotFound:
            pass
        except Exception as error:
            fit = failure_html(error, language)
        if (minutes or "").strip():
            values.pop("minutes", None)
        return [*self._expert.suited(values, fixed, language), gr.Radio(visible=bool(base)), fit]

    def _suggestion(self, upload: Upload, language: Language) -> str:
        """Which of everybody's models to start from; nothing for a large text, or one that none of them can read.

        A model that cannot be read itself is none of them.
        """
        if upload.characters > _SUGGESTED_BELOW_CHARACTERS:
            return ""
        infos = [info for info in self._studio.models() if info.owner is None][:_MOST_SUGGESTED]
        known = []
        for info in infos:
            with suppress(BadCheckpoint, BadTokenizer, MissingFile):
                fit = self._workshop.fit(upload, info.folder)
                known += [(fit.tokens_per_character, info.title)] if fit.suits else []
        return hint_html(say("fit_suggested", language, title=min(known)[1])) if known else ""

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
            self.text.check_read(upload_id, read_from, mark_of(files, pasted), person)
            figures = self._workshop.estimate(upload_id, self._asked(person, *values), person)
            yield status_html(estimate_text(figures, language))
        except Exception as error:
            yield problem_html(error, language)

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
    ) -> Iterator[Updates]:
        """Queues the run; text that was not read yet is read first, and yields how far that is."""
        language, person = known_language(language_name), self._people.of(request)
        if started and not mark_of(files, pasted):
            yield {self._status: status_html(say("started_before", language))}
            return
        try:
            # What was received stays to be tried again with other settings.
            upload_id = yield from self.text.ensure_read(person, language, upload_id, read_from, files, pasted)
            run_id = self._workshop.start(upload_id, self._asked(person, *values), person, title=title or "")
        except Exception as error:
            yield {self._status: problem_html(error, language), self._start: gr.Button(interactive=True)}
            return
        attended = self._workshop.attended
        yield {
            self._status: status_html(say("started_attended" if attended else "started", language), busy=attended),
            self.started: run_id,
            self._start: gr.Button(interactive=not attended),
            **self.text.emptied(),
            self._fit: "",
            self._title: gr.Textbox(value="", placeholder=""),
        }
        for told in attending(self._workshop, run_id, person, language):
            yield {self._status: told}
        if attended:
            yield {self._start: gr.Button(interactive=True)}

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
            base=self._studio.info(base, person).folder if base else None,
            base_vocabulary=vocabulary,
            sample_prompts=lines,
            changes=expert_changes(expert, fixed_fields(base, vocabulary)),
        )
