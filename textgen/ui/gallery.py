"""Several texts at once, side by side as they are written and to be chosen from when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from textgen.studio import TextSample
from textgen.ui.i18n import Language, say
from textgen.ui.render import take_button
from textgen.ui.tokens import legend, tokens_html

# While they are written only the ends are shown: what is sent ten times a second must stay small.
_SHOWN_CHARACTERS = 400


def growing_gallery(texts: Sequence[str], language: Language) -> str:
    """The cards while the texts are being written."""
    cards = "".join(
        _card(number, f'<div class="growing"><div>{escape(_end(text)) or "&nbsp;"}</div></div>', "", language)
        for number, text in enumerate(texts, 1)
    )
    return _gallery(cards, len(texts), language)


def finished_gallery(prompt: str, samples: Sequence[TextSample], language: Language) -> str:
    """The cards of finished texts, coloured, each with a button that takes it into the document."""
    cards = "".join(
        _card(
            number,
            tokens_html(prompt, sample, language),
            f'<span class="reason">{escape(say(f"reason_{sample.reason}", language))}</span>'
            f"{take_button(prompt, sample.text, language)}",
            language,
        )
        for number, sample in enumerate(samples, 1)
    )
    hint = f'<p class="hint">{escape(say("tokens_hint", language))}</p>'
    return _gallery(cards, len(samples), language, side=legend(samples[0], language), hint=hint)


def _gallery(cards: str, count: int, language: Language, *, side: str = "", hint: str = "") -> str:
    title = escape(say("samples_title", language, count=count))
    header = f"<header><h3>{title}</h3>{side}</header>"
    return f'<section class="gallery" aria-label="{title}">{header}<ol>{cards}</ol>{hint}</section>'


def _card(number: int, body: str, side: str, language: Language) -> str:
    title = escape(say("sample", language, number=number))
    return f"<li><header><h4>{title}</h4>{side}</header>{body}</li>"


def _end(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"…{text[-_SHOWN_CHARACTERS:]}"
