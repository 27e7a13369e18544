"""What the page says, in English and simplified Chinese.

Labels are translated in the browser (`gr.I18n`); what a handler writes is translated here, in the language that the
page names with every request. (Not in a cookie: inside the frame of a Space it would be one of a third party.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

import gradio as gr
from gradio.i18n import I18nData

from textgen.errors import TextgenError
from textgen.limits import Limits
from textgen.ui.control_texts import control_texts
from textgen.ui.controls import controls
from textgen.ui.hub_texts import hub_texts
from textgen.ui.models_texts import models_texts
from textgen.ui.phrases import in_chinese, script_in_chinese
from textgen.ui.texts import page_texts
from textgen.ui.train_texts import EXPERT_FIELDS, train_texts

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@cache
def texts() -> dict[str, tuple[str, str]]:
    """Every text of the page by its key: English, Chinese."""
    return {**page_texts(), **control_texts(), **train_texts(), **hub_texts(), **models_texts()}


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
    """The labels for the browser. Both zh and zh-CN are needed: browsers name either."""
    english = {key: pair[0] for key, pair in texts().items()}
    chinese = {key: pair[1] for key, pair in texts().items()}
    return PageI18n({"en": english, "zh": chinese, "zh-CN": chinese})


def known_language(name: object) -> Language:
    """The language a page says it is in; English for anything unknown."""
    return "zh" if name == "zh" else "en"


def say(key: str, language: Language, **values: object) -> str:
    """The text of `key` with its values filled in."""
    return texts()[key][0 if language == "en" else 1].format(**values)


def say_cell(cell: str, language: Language) -> str:
    """The name of a kind of cell; one that is new goes by its own until it has another here."""
    key = f"cell_{cell}"
    return say(key, language) if key in texts() else cell


def say_script(name: str, language: Language) -> str:
    """The name of a script."""
    return name if language == "en" else script_in_chinese(name)


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
    if key not in texts():
        return str(error)
    params = dict(error.params)
    if error.code == "not_found" and params["what"] == "model":
        key = "error_no_model"  # the page calls models by their titles, and of this one only the name is known
    if error.code == "invalid_setting" and params["field"] == "token":
        key = "error_no_token" if params["given"] == "none" else "error_bad_token"
    elif error.code == "invalid_setting":
        params["field"] = say_setting(str(params["field"]), language)
        params["allowed"] = _with_labels(str(params["allowed"]), language)
    if language == "zh":
        params |= {name: in_chinese(str(params[name])) for name in _PHRASES.get(error.code, ()) if name in params}
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
