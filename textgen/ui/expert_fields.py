"""The values behind a preset, a field each. An empty one means what the preset says, which it shows in grey."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr

from textgen.config import CELLS
from textgen.ui.i18n import EXPERT_FIELDS, Language, say, say_cell

_AS_PRESET = ""
_SECTIONS = {
    "text": ("split", "vocab_size", "tokenizer"),
    "model": ("cell", "hidden_size", "num_layers", "members", "embedding_size"),
    "training": ("minutes", "learning_rate", "batch_size", "window", "patience", "evaluations"),
}
_CHOICES = {"cell": CELLS, "tokenizer": ("unigram", "bpe", "char")}


class ExpertFields:
    """Builds the fields inside the current row."""

    def __init__(self, i18n: gr.I18n) -> None:
        self._components = {name: _field(name, i18n) for name in EXPERT_FIELDS}
        self.components: list[Any] = list(self._components.values())

    @property
    def minutes(self) -> gr.Textbox:
        """The field on which what suits in the others depends."""
        minutes = self._components["minutes"]
        assert isinstance(minutes, gr.Textbox)
        return minutes

    def suited(self, values: Mapping[str, Any], fixed: Collection[str], language: Language) -> list[Any]:
        """Updates that show the preset's `values`, and hide the `fixed` fields; what somebody typed stays."""
        updates = []
        for name, component in self._components.items():
            changes: dict[str, Any] = {"visible": "hidden" if name in fixed else True}
            if name in _CHOICES:
                known = name in values
                value = _shown(str(values[name]), language) if known else ""
                label = say("as_preset_value", language, value=value) if known else say("as_preset", language)
                changes["choices"] = [(label, _AS_PRESET), *((_shown(own, language), own) for own in _CHOICES[name])]
            elif name in values:
                value = values[name]
                changes["placeholder"] = f"{value:g}" if isinstance(value, float) else str(value)
            updates.append(type(component)(**changes))
        return updates


def _shown(choice: str, language: Language) -> str:
    return say_cell(choice, language) if choice in CELLS else choice


def expert_changes(given: Mapping[str, str | None], fixed: Collection[str]) -> dict[str, dict[str, Any]]:
    """What is to differ from the preset, by section; what a base fixes is left out."""
    changed = {
        name: _number(value)
        for name, value in given.items()
        if value and (value.strip() or name == "split") and name not in fixed
    }
    sections = {
        section: {name: changed[name] for name in names if name in changed} for section, names in _SECTIONS.items()
    }
    return {section: values for section, values in sections.items() if values}


def _number(value: str) -> str:
    """Figures as people write them: full-width, or with a comma before the decimals."""
    plain = unicodedata.normalize("NFKC", value).strip()
    if re.fullmatch(r"\d+,(\d{1,2}|\d{4,})", plain):
        return plain.replace(",", ".")
    return plain if re.fullmatch(r"[\d.eE+-]+", plain) else value


def fixed_fields(base: str | None, vocabulary: str) -> set[str]:
    """A base brings its own shape, and its vocabulary unless another is wanted."""
    if not base:
        return set()
    return {*_SECTIONS["model"], *(("vocab_size", "tokenizer") if vocabulary == "keep" else ())}


def _field(name: str, i18n: gr.I18n) -> Any:
    common: dict[str, Any] = {
        "label": i18n(name),
        "info": i18n(f"{name}_info"),
        "elem_id": f"train-{name.replace('_', '-')}",
        "min_width": 150,
    }
    if name in _CHOICES:
        common["min_width"] = 220  # "as the preset: …" is to be read
        return gr.Dropdown([(i18n("as_preset"), _AS_PRESET), *_CHOICES[name]], value=_AS_PRESET, **common)
    # In Gradio 6 a `gr.Number` cannot be empty: whenever the browser mounts it, nothing becomes 0.
    return gr.Textbox("", max_lines=1, **common)
