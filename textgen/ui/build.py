"""The page as a whole: header, tabs, and how they hang together."""

from __future__ import annotations

from typing import Any

import gradio as gr

from textgen.errors import TextgenError
from textgen.studio import ModelInfo, Studio
from textgen.ui.generate import GenerateTab
from textgen.ui.i18n import Language, build_i18n, request_language, say, say_error
from textgen.ui.render import error_html

# Old pages' files are looked for every hour and deleted after a day.
_DELETE_CACHE_SECONDS = (3600, 86_400)


def build_page(studio: Studio, i18n: gr.I18n | None = None) -> gr.Blocks:
    """The Gradio page for a studio; `textgen.ui.server` launches it."""
    i18n = i18n or build_i18n()
    with gr.Blocks(title="Textgen Studio", delete_cache=_DELETE_CACHE_SECONDS, analytics_enabled=False) as page:
        models = studio.models()
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
            GenerateTab(studio, i18n, model)
            with gr.Accordion(i18n("about"), open=False, elem_id="about"):
                about = gr.Markdown(elem_id="about-text")

        def describe(name: str | None, request: gr.Request) -> str:
            return about_model(studio, name, request_language(request))

        def refresh(name: str | None, request: gr.Request) -> tuple[Any, str]:
            names = [info.name for info in studio.models()]
            chosen = name if name in names else (names[0] if names else None)
            return gr.Dropdown(names, value=chosen), about_model(studio, chosen, request_language(request))

        quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        model.change(describe, [model], [about], **quiet)
        page.load(refresh, [model], [model, about], **quiet)
        language.click(None, None, None, js="() => window.textgenSwitchLanguage()", api_visibility="private")
    return page


def about_model(studio: Studio, name: str | None, language: Language) -> str:
    """Markdown on a model: shape, figures, and its card."""
    info = next((info for info in studio.models() if info.name == name), None)
    if info is None:
        return say("no_models", language)
    try:
        loaded = studio.load(info.name)
    except TextgenError as error:
        return error_html(say_error(error, language))
    device = say("about_device", language, device=str(studio.device), backend=loaded.engine.backend_name)
    return "\n\n".join([*_figures(info, language), device, _without_front_matter(loaded.checkpoint.card)])


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
    if not isinstance(figures.get("nats_per_char"), float):
        return [shape]
    nats, accuracy = f"{figures['nats_per_char']:.3f}", f"{figures.get('accuracy', 0.0):.1%}"
    return [shape, say("about_figures", language, nats=nats, accuracy=accuracy)]


def _without_front_matter(card: str) -> str:
    if card.startswith("---\n"):
        _, _, card = card.removeprefix("---\n").partition("\n---\n")
    # The card's own headings would outrank those of the page.
    return "\n".join("##" + line if line.startswith("#") else line for line in card.splitlines())
