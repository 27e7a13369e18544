"""The page as a whole: header, tabs, and how they hang together."""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import Any

import gradio as gr

from textgen.errors import TextgenError
from textgen.studio import ModelInfo, Studio
from textgen.ui.generate import GenerateTab
from textgen.ui.i18n import Language, build_i18n, known_language, say, say_error
from textgen.ui.render import error_html, status_html

# Old pages' files are looked for every hour and deleted after a day.
_DELETE_CACHE_SECONDS = (3600, 86_400)


def build_page(studio: Studio, i18n: gr.I18n | None = None) -> gr.Blocks:
    """The Gradio page for a studio; `textgen.ui.server` launches it."""
    i18n = i18n or build_i18n()
    page: gr.Blocks
    with gr.Blocks(title="Textgen Studio", delete_cache=_DELETE_CACHE_SECONDS, analytics_enabled=False) as page:
        models = studio.models()
        language_name = gr.Textbox("en", visible=False)
        with gr.Row(elem_id="header", equal_height=True):
            gr.HTML('<h1><span class="mark" aria-hidden="true">✎</span> Textgen Studio</h1>', elem_id="brand")
            model = gr.Dropdown(
                [info.name for info in models],
                value=models[0].name if models else None,
                label=i18n("model"),
                show_label=False,
                container=False,
                interactive=True,
                elem_id="model",
                scale=2,
                min_width=180,
            )
            language = gr.Button(i18n("language"), size="sm", elem_id="language", scale=0, min_width=90)
        with gr.Tabs(), gr.Tab(i18n("tab_generate"), elem_id="tab-generate"):
            GenerateTab(studio, i18n, model, language_name)
            with gr.Accordion(i18n("about"), open=False, elem_id="about"):
                about = gr.HTML(elem_id="about-text")

        def describe(name: str | None, language: str) -> str:
            return about_model(studio, name, known_language(language))

        def refresh(name: str | None, language: str) -> tuple[Any, str]:
            names = [info.name for info in studio.models()]
            # The value is touched only where it must be: someone may choose a model while the page still loads.
            kept: dict[str, Any] = {} if name in names else {"value": names[0] if names else None}
            return gr.Dropdown(names, **kept), language

        quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        model.input(describe, [model, language_name], [about], **quiet)
        loaded = page.load(
            refresh,
            [model, language_name],
            [model, language_name],
            js="(model, language) => [model, window.textgenLanguage()]",
            **quiet,
        )
        loaded.then(describe, [model, language_name], [about], **quiet)
        switched = language.click(
            None, None, [language_name], js="() => window.textgenSwitchLanguage()", api_visibility="private"
        )
        switched.then(describe, [model, language_name], [about], **quiet)
    return page


def about_model(studio: Studio, name: str | None, language: Language) -> str:
    """HTML on a model: shape, figures, and its card, which may come from anyone and is shown as the text it is."""
    info = next((info for info in studio.models() if info.name == name), None)
    if info is None:
        return status_html(say("no_models", language))
    try:
        loaded = studio.load(info.name)
    except TextgenError as error:
        return error_html(say_error(error, language))
    device = say("about_device", language, device=str(studio.device), backend=loaded.engine.backend_name)
    lines = "".join(f"<p>{escape(line)}</p>" for line in [*_figures(info, language), device])
    return f'{lines}<pre class="card">{escape(_without_front_matter(loaded.checkpoint.card))}</pre>'


def _figures(info: ModelInfo, language: Language) -> list[str]:
    model, figures = info.config["model"], info.config["figures"]
    shape = say(
        "about_shape",
        language,
        cell=model["cell"],
        layers=model["num_layers"],
        hidden=model["hidden_size"],
        embedding=model["embedding_size"],
        vocab=f"{model['vocab_size']:,}",
    )
    nats, accuracy = figures.get("nats_per_char"), figures.get("accuracy")
    # Checkpoints may come from anywhere, and their figures are only read here.
    if not isinstance(nats, float) or not isinstance(accuracy, float) or not isfinite(nats + accuracy):
        return [shape]
    return [shape, say("about_figures", language, nats=f"{nats:.3f}", accuracy=f"{accuracy:.1%}")]


def _without_front_matter(card: str) -> str:
    if card.startswith("---\n"):
        _, _, card = card.removeprefix("---\n").partition("\n---\n")
    return card.strip()
