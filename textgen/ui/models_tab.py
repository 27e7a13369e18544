"""The Models tab: the models there are, and for the chosen one its card and what can be done with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from textgen.errors import NotFound, TextgenError
from textgen.shelf import Shelf, ShelfModel
from textgen.ui.hub_push import HubPush
from textgen.ui.i18n import Language, known_language, say, say_error, say_in_all
from textgen.ui.model_download import ModelDownload
from textgen.ui.model_sources import HubFetch, ZipImport
from textgen.ui.models_html import CHOOSE_JS, MARK_JS, card_html, head_html, list_html
from textgen.ui.people import People
from textgen.ui.render import error_html, failure_html, status_html
from textgen.workshop import Person, Workshop

# A run that ends is seen so soon, where somebody waits for one.
_LOOK_SECONDS = 5.0


class ModelsTab:
    """Builds the tab inside the current `gr.Tab`. Without a workshop models are only looked at, tried and downloaded.

    `shown` holds the name of the chosen model, and `try_it` is the button that takes it to the Generate tab.
    """

    def __init__(
        self, shelf: Shelf, workshop: Workshop | None, people: People, i18n: gr.I18n, language: gr.Textbox
    ) -> None:
        self._shelf = shelf
        self._workshop = workshop
        self._people = people
        self._language = language
        # What the page shows already: it is told nothing twice.
        self._seen = gr.Textbox("", visible=False)
        self.shown = gr.Textbox("", visible=False)
        self._timer = gr.Timer(_LOOK_SECONDS, active=False)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=4, min_width=320, elem_classes="models-side"):
                self._list = gr.HTML("", elem_id="models-list", js_on_load=CHOOSE_JS)
                self._deleted = gr.HTML("", elem_id="models-status")
                self._sources = self._build_sources(workshop, i18n) if workshop is not None else []
            with gr.Column(scale=5, min_width=320, elem_classes="models-one"):
                self._build_one(i18n)
        self._wire()

    def _build_sources(self, workshop: Workshop, i18n: gr.I18n) -> list[gr.Textbox]:
        """What gets the names of models that have come."""
        with gr.Accordion(i18n("fold_zip"), open=False, elem_classes="fold", elem_id="fold-zip"):
            imported = ZipImport(workshop, self._people, i18n, self._language).brought
        fetched = HubFetch(workshop, self._people, i18n, self._language, suffix="-models").brought
        return [imported, fetched]

    def _build_one(self, i18n: gr.I18n) -> None:
        self._head = gr.HTML("", elem_id="model-head")
        with gr.Row(elem_classes="go-row"):
            self.try_it = gr.Button(i18n("try_it"), variant="primary", elem_id="model-try", visible=False)
            self._downloads = [
                ModelDownload(self._shelf.archive, self._people, i18n, elem_id="model-download"),
                ModelDownload(
                    self._shelf.archive_onnx, self._people, i18n, elem_id="model-onnx", label="download_onnx"
                ),
            ]
        self._status = gr.HTML("", elem_id="model-status")
        # What answers of the chosen model are told in.
        self._told = [self._status]
        self._folds: list[gr.Accordion] = []
        self._changed: list[Callable[..., Any]] = []
        if self._workshop is not None:
            push = HubPush(self._shelf, self._people, i18n, self._language, self.shown, suffix="-model")
            self._folds = [push.fold, self._build_change(i18n)]
            self._told.append(push.task.status)
        self._card = gr.HTML("", elem_id="model-card")

    def _build_change(self, i18n: gr.I18n) -> gr.Accordion:
        fold = gr.Accordion(i18n("fold_change"), open=False, elem_classes="fold", elem_id="fold-change", visible=False)
        with fold:
            self._title = gr.Textbox(
                label=i18n("title"), info=i18n("model_title_info"), max_lines=1, elem_id="model-title"
            )
            with gr.Row(elem_classes="go-row"):
                rename = gr.Button(i18n("rename"), elem_id="model-rename")
                delete = gr.Button(i18n("model_delete"), variant="stop", elem_id="model-delete")
            told = gr.HTML("", elem_id="change-status")
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        named = [self._language, self.shown, self._title]
        renamed = gr.on([rename.click, self._title.submit], self.rename, named, [self._deleted, told], **quiet)
        asked = [self._language, self.shown]
        # A click right after one that was thought better of, while that is still on its way, is meant too.
        deleted = delete.click(self.delete, asked, [self._deleted, told], js=_sure(), trigger_mode="multiple", **quiet)
        self._changed = [renamed.then, deleted.then]
        self.shown.change(self.title_of, [self.shown], [self._title], **quiet)
        self._told.append(told)
        return fold

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        outputs = [
            self._list,
            self._head,
            self._card,
            self.try_it,
            *(download.button for download in self._downloads),
            *self._folds,
            self.shown,
            self._timer,
            self._seen,
        ]
        self._outputs = len(outputs)
        held = [self._language, self._seen]
        self._refreshing = {"fn": self.look, "inputs": [*held, self.shown], "outputs": outputs, **quiet}
        self._timer.tick(self.follow, [*held, self.shown], [self._list, self._timer, self._seen], **quiet)
        self._list.select(self.choose, held, [self._deleted, *outputs], **quiet)
        for brought in self._sources:
            # Not `show`: a list that another look has drawn since may hold the model, and marks another one.
            brought.change(self.look, [*held, brought], outputs, **quiet)
        for changed in (self._list.change, self.shown.change):
            changed(None, [self.shown], None, js=MARK_JS, **quiet)
        self.refresh_on(*self._changed)
        self.shown.change(lambda: [""] * len(self._told), None, self._told, **quiet)
        for download in self._downloads:
            download.wire(self._language, self.shown, self._status)

    def refresh_on(self, *events: Any) -> None:
        """Shows the models as they are now whenever one of these events comes."""
        for event in events:
            event(**self._refreshing)

    def choose(self, request: gr.Request, language_name: str, seen: str, event: gr.EventData) -> list[Any]:
        """Shows the model that was chosen in the list; that another was deleted has been read."""
        chosen = event._data.get("value") if isinstance(event._data, dict) else None
        return ["", *self.show(request, language_name, seen, str(chosen or ""))]

    def show(self, request: gr.Request, language_name: str, seen: str, name: str) -> list[Any]:
        """Shows the model `name`, or the first where it is gone."""
        return self._updates(request, language_name, seen, name, marked=True)

    def look(self, request: gr.Request, language_name: str, seen: str, name: str | None) -> list[Any]:
        """Updates of whatever has changed since the page saw it, for the model `name` that it shows, or the first."""
        return self._updates(request, language_name, seen, name, marked=False)

    def follow(self, request: gr.Request, language_name: str, seen: str, name: str) -> tuple[Any, Any, Any]:
        """Updates of the list alone: whoever chooses a model meanwhile is not taken back to another."""
        language, person = known_language(language_name), self._people.of(request)
        try:
            before, runs = seen.split(), self._runs(person)
            mark = _mark(runs, language)
            # Many pages look so often: what costs more than a glance at the runs waits until one of them has changed.
            if before[2:] == [mark]:
                return gr.skip(), gr.skip(), gr.skip()
            models = self._shelf.models(person)
        except (TextgenError, OSError) as error:
            return failure_html(error, language), gr.skip(), ""
        marks = [_mark(models, language), *(before[1:2] or ["-"]), mark]
        return self._list_of(models, name, language), _timer(runs), " ".join(marks)

    def _updates(
        self, request: gr.Request, language_name: str, seen: str, name: str | None, *, marked: bool
    ) -> list[Any]:
        """`marked`: the list that the page has marks the chosen model already."""
        language, person = known_language(language_name), self._people.of(request)
        try:
            models, runs = self._shelf.models(person), self._runs(person)
        except (TextgenError, OSError) as error:
            return [gr.skip(), failure_html(error, language), *[gr.skip()] * (self._outputs - 3), ""]
        before = seen.split()
        model = next((model for model in models if model.name == name), models[0] if models else None)
        chosen = model.name if model else ""
        marks = [_mark(models, language), _mark(model, language), _mark(runs, language)]
        if marks == before:
            return [gr.skip()] * self._outputs
        # A list that is drawn anew without need would lose its place.
        as_before = marked and marks[:1] == before[:1] and chosen == name
        listed = gr.skip() if as_before else self._list_of(models, chosen, language)
        drawn = self._drawn(model, language, person)
        return [listed, *drawn, chosen, _timer(runs), " ".join(marks)]

    def _runs(self, person: Person) -> list[tuple[str, str, str, bool]]:
        """What tells whether their models may have changed."""
        views = self._workshop.runs(person) if self._workshop is not None else []
        return [(view.run_id, view.title, view.state, view.is_active) for view in views]

    def _list_of(self, models: Sequence[ShelfModel], chosen: str, language: Language) -> str:
        return list_html(models, chosen, language, can_add=self._workshop is not None)

    def _drawn(self, model: ShelfModel | None, language: Language, person: Person) -> list[Any]:
        seen = [gr.Button(visible=model is not None)] * (1 + len(self._downloads))
        folds = [gr.Accordion(visible=model is not None), gr.Accordion(visible=model is not None and model.own)]
        if model is None:
            return ["", "", *seen, *folds[: len(self._folds)]]
        try:
            card = card_html(self._shelf.card(model.name, person), language)
        except TextgenError as error:
            card = error_html(say_error(error, language))
        return [head_html(model, language), card, *seen, *folds[: len(self._folds)]]

    def title_of(self, request: gr.Request, name: str) -> str:
        """The title that can be changed."""
        try:
            return self._shelf.model(name, self._people.of(request)).title
        except TextgenError:
            return ""

    def rename(self, request: gr.Request, language_name: str, name: str, title: str | None) -> tuple[str, str]:
        """Gives the chosen model another title; what became of it is told as by `delete`."""
        language, title = known_language(language_name), (title or "").strip()
        try:
            self._shelf.rename(name, title, self._people.of(request))
        except Exception as error:
            return _problem(error, language)
        return "", status_html(say("model_renamed", language, title=title))

    def delete(self, request: gr.Request, language_name: str, name: str) -> tuple[Any, Any]:
        """Deletes the chosen model; says below the list that it is gone, or beside the button why it is not."""
        if not name:  # thought better of it
            return gr.skip(), gr.skip()
        language, person = known_language(language_name), self._people.of(request)
        try:
            title = self._shelf.model(name, person).title
            self._shelf.remove(name, person)
        except Exception as error:
            return _problem(error, language)
        return status_html(say("model_deleted", language, title=title)), ""


def _problem(error: Exception, language: Language) -> tuple[str, str]:
    """Beside the buttons, but for a model that is gone: what was told of it goes when another one is shown."""
    told = failure_html(error, language)
    return (told, "") if isinstance(error, NotFound) else ("", told)


def _timer(runs: Sequence[tuple[str, str, str, bool]]) -> gr.Timer:
    """Looks on while a run changes by itself."""
    return gr.Timer(active=any(is_active for *_, is_active in runs))


def _mark(shown: object, language: Language) -> str:
    return hashlib.blake2b(repr((shown, language)).encode(), digest_size=8).hexdigest()


def _sure() -> str:
    """JavaScript that asks before a model is deleted; without a name in the answer nothing happens."""
    whole, alone = (say_in_all(key, title="TITLE") for key in ("model_delete_run_sure", "model_delete_sure"))
    question = f"(document.querySelector('#model-head [data-origin=run]') ? {whole} : {alone})[language]"
    title = "(document.querySelector('#model-head h3') || {}).textContent || ''"
    return f"(language, name) => [language, confirm({question}.replace('TITLE', () => {title})) ? name : '']"
