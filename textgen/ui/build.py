"""The page as a whole: header, tabs, and how they hang together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any

import gradio as gr

from textgen.config import GenerationSettings, ModelSettings, parse_settings
from textgen.errors import TextgenError
from textgen.shelf import Shelf
from textgen.studio import EVERYBODY, ModelInfo, Person, Studio
from textgen.ui.controls import PAGE_DEFAULTS, changed_defaults
from textgen.ui.endpoints import Endpoints
from textgen.ui.generate import GenerateTab
from textgen.ui.i18n import Language, build_i18n, known_language, say, say_error, say_shape
from textgen.ui.login import Login, offers_login
from textgen.ui.models_tab import ModelsTab
from textgen.ui.people import NOBODY_ELSE, People
from textgen.ui.render import CHANGING_CHOICES, error_html, markdown_html, model_choices, status_html, titled
from textgen.ui.train import TrainTab
from textgen.ui.training_endpoints import TrainingEndpoints
from textgen.workshop import Workshop

# Old pages' files are looked for every hour and deleted after a day.
_DELETE_CACHE_SECONDS = (3600, 86_400)


def build_page(
    studio: Studio,
    i18n: gr.I18n | None = None,
    *,
    workshop: Workshop | None = None,
    runs_last: bool = True,
    people: People | None = None,
) -> gr.Blocks:
    """The Gradio page for a studio; `textgen.ui.server` launches it. Without a workshop nobody can train.

    It tells people where their runs do not outlive a restart of the host.
    """
    i18n, people = i18n or build_i18n(), people or NOBODY_ELSE
    page: gr.Blocks
    with gr.Blocks(title="Textgen Studio", delete_cache=_DELETE_CACHE_SECONDS, analytics_enabled=False) as page:
        # On a Space the browser would ask huggingface.co for a heading, and Google for its fonts.
        page.space_id = None
        # First, for what the page's own handlers are called is private, but taken.
        Endpoints(studio, people).publish()
        shelf = Shelf(studio, workshop)
        if workshop is not None:
            TrainingEndpoints(studio, workshop, people).publish()
        # What everybody may see; who opens the page gets the list of what is theirs beside.
        models = [info for info in studio.models() if info.owner is None]
        language_name = gr.Textbox("en", visible=False)
        # Whose defaults the controls were last given.
        defaults_of = gr.Textbox("", visible=False)
        query = gr.Textbox("", visible=False)
        with gr.Row(elem_id="header", equal_height=True):
            gr.HTML('<h1><span class="mark" aria-hidden="true">✎</span> Textgen Studio</h1>', elem_id="brand")
            backend = gr.HTML("", elem_id="backend")
            model = gr.Dropdown(
                titled(models),
                value=models[0].name if models else None,
                label=i18n("model"),
                show_label=False,
                container=False,
                interactive=True,
                elem_id="model",
                **CHANGING_CHOICES,
                scale=2,
                min_width=180,
            )
            # Where nobody owns anything there is nothing to log in for.
            login = Login(people, i18n) if people.keeps_keys and offers_login(os.environ) else None
            language = gr.Button(i18n("language"), size="sm", elem_id="language", scale=0, min_width=90)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(i18n("tab_generate"), id="generate", elem_id="tab-generate") as generate_tab:
                tab = GenerateTab(studio, i18n, model, language_name, people)
                with gr.Accordion(i18n("about"), open=False, elem_id="about"):
                    about = gr.HTML(elem_id="about-text")
            with gr.Tab(i18n("tab_train"), id="train", elem_id="tab-train") as train_tab:
                told = notices(workshop, runs_last=runs_last)
                notice = gr.HTML("", elem_id="train-notice", visible=bool(told))
                train = None
                if workshop is not None:
                    train = TrainTab(studio, shelf, workshop, people, i18n, language_name)
            with gr.Tab(i18n("tab_models"), id="models", elem_id="tab-models") as models_tab:
                told_of_models = [key for key in told if key == "runs_lost"]
                models_notice = gr.HTML("", elem_id="models-notice", visible=bool(told_of_models))
                models_view = ModelsTab(shelf, workshop, people, i18n, language_name)

        def tell(language: str) -> list[str]:
            return [notices_html(keys, known_language(language)) for keys in (told, told_of_models)]

        def name_tabs() -> list[gr.Tab]:
            """Of tabs that are not shown Gradio translates the names when they are sent, and not again."""
            return [gr.Tab(label=i18n(key)) for key in ("tab_generate", "tab_train", "tab_models")]

        def describe(request: gr.Request, name: str | None, language: str) -> tuple[str, str]:
            person = people.of(request)
            return about_model(studio, name, known_language(language), person), backend_of(studio, name, person)

        def choose(request: gr.Request, name: str | None, before: str, *values: Any) -> list[Any]:
            person = people.of(request)
            shown = changed_defaults(
                tab.panel.controls, defaults_for(studio, before, person), defaults_for(studio, name, person), values
            )
            return [name or "", *only_changes(values, shown)]

        def list_models(request: gr.Request, name: str | None) -> Any:
            return model_choices(studio.models(people.of(request)), name)

        def try_model(request: gr.Request, name: str | None) -> list[Any]:
            return [gr.Tabs(selected="generate"), gr.Dropdown(titled(studio.models(people.of(request))), value=name)]

        def open_page(request: gr.Request, name: str | None, language: str, query: str) -> list[Any]:
            person = people.of(request)
            infos = studio.models(person)
            names = [info.name for info in infos]
            link, document, status = tab.open_link(query, known_language(language), person)
            # The value is touched only where it must be: someone may choose a model while the page still loads.
            kept: dict[str, Any] = {} if name in names else {"value": names[0] if names else None}
            if link and link.model:
                kept = {"value": link.model}
            chosen = kept.get("value", name)
            settings = link.settings if link else defaults_for(studio, chosen, person)
            shown = only_changes(tab.panel.shown(PAGE_DEFAULTS), tab.panel.shown(settings))
            return [gr.Dropdown(titled(infos), **kept), language, chosen or "", document, status, *shown]

        quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        components = tab.panel.components
        chosen = model.input(choose, [model, defaults_of, *components], [defaults_of, *components], **quiet)
        chosen.then(describe, [model, language_name], [about, backend], **quiet)
        opened = page.load(
            open_page,
            [model, language_name, query],
            [model, language_name, defaults_of, tab.document, tab.status, *components],
            js="(model) => [model, window.textgenLanguage(), window.location.search]",
            **quiet,
        )
        opened.then(None, None, None, js="() => window.textgenRestore()", api_visibility="private")
        opened.then(**tab.panel.mark_preset)
        described = [opened.then(describe, [model, language_name], [about, backend], **quiet)]
        switched = language.click(
            None, None, [language_name], js="() => window.textgenSwitchLanguage()", api_visibility="private"
        )
        described.append(switched.then(describe, [model, language_name], [about, backend], **quiet))
        for event in described:
            event.then(name_tabs, None, [generate_tab, train_tab, models_tab], **quiet)
        if login is not None:
            login.refresh_on(opened.then)
        generate_tab.select(list_models, [model], [model], **quiet)
        models_view.refresh_on(models_tab.select, opened.then, switched.then)
        for event in (opened.then, switched.then) if told else ():
            event(tell, [language_name], [notice, models_notice], **quiet)
        if train is not None:
            train.refresh_on(train_tab.select, opened.then, switched.then)
        trying = [(models_view.try_it, models_view.shown), *([(train.panel.try_it, train.panel.run)] if train else [])]
        for button, name in trying:
            tried = button.click(try_model, [name], [tabs, model], **quiet)
            tried = tried.then(choose, [model, defaults_of, *components], [defaults_of, *components], **quiet)
            tried.then(describe, [model, language_name], [about, backend], **quiet)
    return page


def notices(workshop: Workshop | None, *, runs_last: bool) -> list[str]:
    """What is to be known of training before anything else, by the keys of its texts."""
    if workshop is None:
        return ["train_off"]
    return [*(["train_attended"] if workshop.attended else []), *([] if runs_last else ["runs_lost"])]


def notices_html(keys: Sequence[str], language: Language) -> str:
    """Each in a line of its own."""
    return "".join(f'<p class="notice">{escape(say(key, language))}</p>' for key in keys)


def only_changes(before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    """Updates for those values that change; the others' controls may be in use already, while the model still loads."""
    return [gr.skip() if new == old else new for old, new in zip(before, after, strict=True)]


def defaults_for(studio: Studio, name: str | None, person: Person = EVERYBODY) -> GenerationSettings:
    """The settings that suit a model; the page's own for one that is not there or cannot be read."""
    if not name:
        return PAGE_DEFAULTS
    try:
        suited = studio.load(name, person).defaults
    except TextgenError:
        return PAGE_DEFAULTS
    return suited.model_copy(update={"top_logprobs": suited.top_logprobs or PAGE_DEFAULTS.top_logprobs})


def backend_of(studio: Studio, name: str | None, person: Person = EVERYBODY) -> str:
    """What runs a model, for the header; empty where nothing does."""
    try:
        with studio.borrow(name or "", person) as loaded:
            return f"<span>{escape(studio.writer_name(loaded))}</span>"
    except TextgenError:
        return ""


def about_model(studio: Studio, name: str | None, language: Language, person: Person = EVERYBODY) -> str:
    """HTML on a model: shape, figures, and its card, which may come from anyone and is shown as the text it is."""
    info = next((info for info in studio.models(person) if info.name == name), None)
    if info is None:
        return status_html(say("no_models", language))
    try:
        loaded = studio.load(info.name, person)
    except TextgenError as error:
        return error_html(say_error(error, language))
    device = say("about_device", language, device=str(studio.device), backend=loaded.engine.backend_name)
    lines = "".join(f"<p>{escape(line)}</p>" for line in [*_figures(info, language), device])
    return f'{lines}<article class="card">{markdown_html(loaded.card)}</article>'


def _figures(info: ModelInfo, language: Language) -> list[str]:
    figures = info.config["figures"]
    shape = say_shape(parse_settings(ModelSettings, info.config["model"]), language, "about_shape")
    nats, accuracy = figures.get("nats_per_char"), figures.get("accuracy")
    # Checkpoints may come from anywhere, and their figures are only read here.
    if not isinstance(nats, float) or not isinstance(accuracy, float) or not isfinite(nats + accuracy):
        return [shape]
    return [shape, say("about_figures", language, nats=f"{nats:.3f}", accuracy=f"{accuracy:.1%}")]
