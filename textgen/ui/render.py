"""Small pieces of HTML, escaped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from html import escape
from math import exp
from typing import Any

import gradio as gr
from markdown_it import MarkdownIt

from textgen.errors import TextgenError
from textgen.studio import ModelInfo, TextHypothesis
from textgen.ui.i18n import Language, say, say_error

_LOGGER = logging.getLogger(__name__)
# For dropdowns whose choices change while pages are open. Gradio would refuse what is not among those that it remembers
# with an error of its own, after a restart for instance; handlers look anyway whether a name means something.
CHANGING_CHOICES: dict[str, Any] = {"allow_custom_value": True}


def titled(infos: Sequence[ModelInfo]) -> list[tuple[str, str]]:
    """Models as the choices of a dropdown."""
    return [(info.title, info.name) for info in infos]


def model_choices(infos: Sequence[ModelInfo], chosen: str | None) -> Any:
    """An update of a dropdown of models, whose value is touched only where the chosen one is gone."""
    known = chosen in [info.name for info in infos]
    kept: dict[str, Any] = {} if known else {"value": infos[0].name if infos else None}
    return gr.Dropdown(titled(infos), **kept)


def status_html(text: str, *, where: str = "", busy: bool = False, link: str = "") -> str:
    """The line under the text; screen readers hear it when it settles.

    `where`, what runs the model, has a line of its own; `link` is HTML after the figures.
    """
    live = "off" if busy else "polite"
    dot = '<span class="dot" aria-hidden="true"></span>' if busy else ""
    figures = f'<div class="figures">{dot}<span>{escape(text)}</span>{link}</div>'
    line = f'<div class="where"><span>{escape(where)}</span></div>' if where else ""
    return f'<div class="status" role="status" aria-live="{live}">{figures}{line}</div>'


def link_html(address: str) -> str:
    """A link that leaves the page where it is. A space before it is heard, and copied."""
    to = escape(address)
    return f' <a href="{to}" target="_blank" rel="noopener noreferrer">{to}</a>'


def error_html(text: str) -> str:
    """The same line for a sentence about what went wrong; screen readers say it at once."""
    return f'<div class="status problem" role="alert">{escape(text)}</div>'


def failure_html(error: Exception, language: Language) -> str:
    """The same line for what a handler has met; what is none of our errors is logged."""
    if not isinstance(error, TextgenError):
        _LOGGER.error("what the page was asked for failed", exc_info=error)
    return error_html(say_error(error, language))


def link_button(language: Language, *, complete: bool) -> str:
    """Copies the page's address (page.js does it); `complete`: the prompt is in it."""
    done = say("link_copied" if complete else "link_without_text", language)
    title = escape(say("link_info", language))
    label = escape(say("link", language))
    return f'<button type="button" class="link quiet" title="{title}" data-done="{escape(done)}">{label}</button>'


@cache
def _markdown() -> MarkdownIt:
    # A picture would be fetched from wherever its author likes.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    markdown.add_render_rule("link_open", _open_apart)
    return markdown


def _open_apart(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> Any:
    """A link that leaves the page, and what is written in it, where they are."""
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return renderer.renderToken(tokens, index, options, env)


def markdown_html(text: str) -> str:
    """Markdown that anybody may have written: its HTML stays text, and nothing in it is fetched."""
    return str(_markdown().render(text))


def hypotheses_html(
    title: str,
    hypotheses: Sequence[TextHypothesis],
    language: Language,
    *,
    prompt: str | None = None,
    limit: int = 8,
) -> str:
    """The beams, best first; empty when there is nothing to show.

    With the `prompt` that they continue, each can be taken into the document (page.js does it).
    """
    if not hypotheses:
        return ""
    score = say("score", language)
    rows = "".join(
        f'<li class="{"done" if item.finished else "open"}">'
        f'<span class="beam-text">{escape(item.text) or "&nbsp;"}</span>'
        f'<span class="beam-side"><span class="beam-score">{escape(score)} {item.score:.3f}</span>'
        f"{take_button(prompt, item.text, language)}</span></li>"
        for item in hypotheses[:limit]
    )
    return f'<section class="beams" aria-label="{escape(title)}"><h3>{escape(title)}</h3><ol>{rows}</ol></section>'


def take_button(prompt: str | None, text: str, language: Language) -> str:
    """A button that puts prompt and text into the document; nothing without a prompt."""
    if prompt is None:
        return ""
    label = escape(say("take", language))
    return f'<button type="button" class="take quiet" data-text="{escape(prompt + text)}">{label}</button>'


def percent(logprob: float) -> str:
    """A probability for people; neither 0 % nor 100 % unless it is just that."""
    return share_percent(exp(min(0.0, logprob)))


def share_percent(share: float) -> str:
    """A share, from 0 to 1, in the same way."""
    share *= 100.0
    if share == 0.0 or share == 100.0:
        return f"{share:.0f} %"
    if share < 0.1:
        return "<0.1 %"
    if share > 99.0:
        return ">99 %"
    return f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %"
