"""A finished text, coloured by how sure the model was of each token. page.js and tokens.js make it answer to clicks."""

from __future__ import annotations

import json
from bisect import bisect_right
from html import escape
from math import exp

from textgen.studio import TextSample, TextToken
from textgen.ui.i18n import Language, say
from textgen.ui.render import percent

# A token's class is "s" and the number of these probabilities that it reaches.
_LEVELS = (0.05, 0.2, 0.5, 0.8)
_LEVEL_NAMES = ("<5 %", "5–20 %", "20–50 %", "50–80 %", "≥80 %")


def tokens_panel(prompt: str, sample: TextSample, language: Language) -> str:
    """The panel under the document; empty for a text without tokens."""
    if not sample.tokens:
        return ""
    title = escape(say("tokens_title", language))
    hint = escape(say("tokens_hint", language))
    return (
        f'<section class="sure" aria-label="{title}"><header><h3>{title}</h3>{legend(sample, language)}</header>'
        f'{tokens_html(prompt, sample, language)}<p class="hint">{hint}</p></section>'
    )


def legend(sample: TextSample, language: Language) -> str:
    """The colours with what they mean, from sure to unsure; the line under copies, if the sample's model knows them."""
    steps = "".join(
        f'<span class="s{level}">{escape(_LEVEL_NAMES[level])}</span>' for level in reversed(range(len(_LEVEL_NAMES)))
    )
    if sample.copied is not None:
        title = escape(say("legend_copied_title", language))
        steps += f'<span class="copied" title="{title}">{escape(say("legend_copied", language))}</span>'
    return f'<span class="legend">{steps}</span>'


def tokens_html(prompt: str, sample: TextSample, language: Language) -> str:
    """The tokens of one text, each a button with its percentage, those of copied passages underlined.

    In `data-tokens` stands for each token its text, its percentage when drawn, and its alternatives; one of them can be
    put in its place after `prompt` and the tokens before it.
    """
    spans = "".join(
        _span(number, token, language, copied=_is_copied(token, sample)) for number, token in enumerate(sample.tokens)
    )
    data = json.dumps([_data(token) for token in sample.tokens], ensure_ascii=False, separators=(",", ":"))
    labels = json.dumps({key: say(key, language, percent="{percent}") for key in _LABELS}, ensure_ascii=False)
    name = escape(say("tokens_title", language))
    return (
        f'<div class="tokens" role="group" aria-label="{name}" data-prompt="{escape(prompt)}" '
        f'data-tokens="{escape(data)}" data-labels="{escape(labels)}">{spans}</div>'
    )


_LABELS = ("token_drawn", "alternatives_title", "no_alternatives", "rewind", "rewind_before", "close", "end_of_text")


def _data(token: TextToken) -> list[object]:
    alternatives = [[item.text, percent(item.logprob)] for item in token.alternatives]
    return [token.text, percent(token.warped_logprob), alternatives]


def _is_copied(token: TextToken, sample: TextSample) -> bool:
    return sample.copied is not None and sample.copied.holds(token.start, token.start + len(token.text))


def _span(number: int, token: TextToken, language: Language, *, copied: bool) -> str:
    level = bisect_right(_LEVELS, exp(min(0.0, token.logprob)))
    share = percent(token.logprob)
    shown = token.text.replace("\n", " ↵ ") if token.text else say("end_of_text", language)
    label = say("token_label_copied" if copied else "token_label", language, text=shown, percent=share)
    # One stop of the Tab key for the whole text; the arrow keys go from token to token.
    tabindex = 0 if number == 0 else -1
    classes = f"s{level} copied" if copied else f"s{level}"
    return (
        f'<span class="{classes}" role="button" tabindex="{tabindex}" aria-haspopup="dialog" '
        f'aria-label="{escape(label)}" title="{escape(share)}">{_visible(token.text)}</span>'
    )


def _visible(text: str) -> str:
    """The text with its line ends, which would else be nothing to click on, marked; the end of a text is a mark too."""
    mark = '<i aria-hidden="true">{}</i>'
    if not text:
        return mark.format("⏹")
    return escape(text).replace("\n", mark.format("↵") + "\n")
