"""What the page says, in the languages of `languages/`.

Labels are translated in the browser (`gr.I18n`); what a handler writes is translated here, in the language that the
page names with every request. (Not in a cookie: inside the frame of a Space it would be one of a third party.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
from gradio.i18n import I18nData

from textgen.config import GenerationSettings, ModelSettings
from textgen.errors import TextgenError
from textgen.limits import Limits
from textgen.ui.controls import controls
from textgen.ui.wording import ENGLISH, Wording, read_languages

# The code of a language of the page: the name of its file.
Language: TypeAlias = str
# The settings behind a preset, whose keys are their own names.
EXPERT_FIELDS = (
    "minutes",
    "learning_rate",
    "batch_size",
    "window",
    "patience",
    "evaluations",
    "split",
    "vocab_size",
    "tokenizer",
    "cell",
    "hidden_size",
    "num_layers",
    "members",
    "embedding_size",
)


@cache
def languages() -> Mapping[Language, Wording]:
    """Every language of the page by its code, in the order of the button that switches them.

    A control without words of its own has those of its setting.
    """
    spare = {}
    for control in controls(Limits()):
        name = control.field.replace("_", " ")
        help_text = GenerationSettings.model_fields[control.field].description or name
        spare[control.key] = f"{name[0].upper()}{name[1:]}"
        spare[f"{control.key}_info"] = f"{help_text[0].upper()}{help_text[1:]}."
    return read_languages(Path(__file__).with_name("languages"), spare)


class PageI18n(gr.I18n):
    """The labels for the browser, by keys that no name of a file, a column or a model is taken for.

    Gradio translates whatever equals a key, choices of dropdowns among it.
    """

    KEY_PREFIX = "textgen:"

    def __init__(self, translations: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(
            **{
                locale: {self.KEY_PREFIX + key: text for key, text in labels.items()}
                for locale, labels in translations.items()
            }
        )

    def __call__(self, key: str) -> I18nData:
        return super().__call__(self.KEY_PREFIX + key)


def build_i18n() -> gr.I18n:
    """The labels for the browser, by every tag that may be asked for; "language" is what the button leads to."""
    found = list(languages().values())
    translations: dict[str, Mapping[str, str]] = {}
    for wording, following in zip(found, [*found[1:], found[0]], strict=True):
        labels = {**wording.texts, "language": following.name}
        translations |= dict.fromkeys((*wording.browsers, wording.locale), labels)
    return PageI18n(translations)


def languages_for_browser() -> dict[str, Any]:
    """What `page.js` goes by.

    `locales` has the locale of each language by its code, in their order; `browsers` pairs of how a browser's tag
    begins and the language that serves it, the longest first.
    """
    served = [(tag.lower(), code) for code, wording in languages().items() for tag in wording.browsers]
    return {
        "locales": {code: wording.locale for code, wording in languages().items()},
        "browsers": sorted(served, key=lambda pair: -len(pair[0])),
    }


def known_language(name: object) -> Language:
    """The language a page says it is in; English for anything unknown."""
    return name if isinstance(name, str) and name in languages() else ENGLISH


def say(key: str, language: Language, **values: object) -> str:
    """The text of `key` with its values filled in."""
    return languages()[language].texts[key].format(**values)


def say_in_all(key: str, **values: object) -> str:
    """The same in every language, as a JavaScript object by their codes."""
    return json.dumps({language: say(key, language, **values) for language in languages()})


def say_cell(cell: str, language: Language) -> str:
    """The name of a kind of cell; one that is new goes by its own until it has another here."""
    return languages()[language].texts.get(f"cell_{cell}", cell)


def say_shape(shape: ModelSettings, language: Language, key: str) -> str:
    """The shape of a model in the words of `key`, how many networks it is made of included."""
    said = say(
        key,
        language,
        cell=say_cell(shape.cell, language),
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        embedding=shape.embedding_size,
        vocab=f"{shape.vocab_size:,}",
    )
    return said if shape.members == 1 else say("several_networks", language, count=shape.members, shape=said)


def say_script(name: str, language: Language) -> str:
    """The name of a script; one that the language has no name for goes by the English one."""
    return languages()[language].scripts.get(name, name)


def say_list(items: Iterable[str], language: Language) -> str:
    """Items one after the other."""
    return languages()[language].separator.join(items)


# Which params of an error are words of ours.
_PHRASES = {
    "invalid_setting": ("given", "allowed"),
    "no_text": ("given", "needed"),
    "not_found": ("known",),
    "cannot_start": ("reason",),
    "bad_checkpoint": ("problem",),
    "bad_tokenizer": ("problem",),
    "bad_corpus": ("problem",),
}


def say_error(error: Exception, language: Language) -> str:
    """A sentence for an error, never a stack trace."""
    if not isinstance(error, TextgenError):
        return say("error_unexpected", language)
    key = f"error_{error.code}"
    if key not in languages()[language].texts:
        return str(error)
    params = dict(error.params)
    if error.code == "not_found" and params["what"] == "model":
        key = "error_no_model"  # the page calls models by their titles, and of this one only the name is known
    if error.code == "invalid_setting" and params["field"] == "token":
        key = "error_no_token" if params["given"] == "none" else "error_bad_token"
    elif error.code == "invalid_setting":
        params["field"] = say_setting(str(params["field"]), language)
        params["allowed"] = _with_labels(str(params["allowed"]), language)
    phrases = languages()[language].phrases
    params |= {name: phrases.say(str(params[name])) for name in _PHRASES.get(error.code, ())}
    return say(key, language, **params)


_OTHER_LABELS = {
    "prompt": "document",
    "model": "model",
    "files": "files",
    "encoding": "again_encoding",
    "base": "base",
    "base_vocabulary": "vocabulary",
    "title": "title",
    "preset": "preset",
    "budget": "minutes",
    "sample_prompts": "prompts",
    "run": "runs",
    "runs": "runs",
    "resume": "runs",
    "parameters": "parameters",
    "repo_id": "hub_model",
    "token": "hub_token",
    "revision": "hub_revision",
}


def say_setting(field: str, language: Language) -> str:
    """What the page calls a setting; its own name where the page does not have it."""
    section, _, name = field.rpartition(".")
    if name in EXPERT_FIELDS and section in ("", "text", "model", "training"):
        return say(name, language)
    labels = {control.field: control.key for control in controls(Limits())} | _OTHER_LABELS
    label = labels.get(field.partition(".")[0]) or labels.get(name)
    return say(label, language) if label else field


def _with_labels(allowed: str, language: Language) -> str:
    """The names of settings as the page calls them."""
    for control in controls(Limits()):
        if "_" in control.field:  # other names are words that may mean themselves
            allowed = re.sub(rf"\b{control.field}\b", f"“{say(control.key, language)}”", allowed)
    return allowed
