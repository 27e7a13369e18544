"""Small pieces of HTML, escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from textgen.studio import TextHypothesis
from textgen.ui.i18n import Language, say


def status_html(text: str, *, busy: bool = False) -> str:
    """The line under the text; screen readers hear it when it settles."""
    live = "off" if busy else "polite"
    dot = '<span class="dot" aria-hidden="true"></span>' if busy else ""
    return f'<div class="status" role="status" aria-live="{live}">{dot}{escape(text)}</div>'


def error_html(text: str) -> str:
    """The same line for a sentence about what went wrong; screen readers say it at once."""
    return f'<div class="status problem" role="alert">{escape(text)}</div>'


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
        f"{_take_button(prompt, item.text, language)}</span></li>"
        for item in hypotheses[:limit]
    )
    return f'<section class="beams" aria-label="{escape(title)}"><h3>{escape(title)}</h3><ol>{rows}</ol></section>'


def _take_button(prompt: str | None, text: str, language: Language) -> str:
    if prompt is None:
        return ""
    label = escape(say("take", language))
    return f'<button type="button" class="take" data-text="{escape(prompt + text)}">{label}</button>'
