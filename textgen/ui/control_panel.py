"""The column of controls: presets and what matters in sight, the rest folded away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from textgen.config import GenerationSettings
from textgen.limits import Limits
from textgen.ui.controls import PAGE_DEFAULTS, PRESET_FIELDS, PRESETS, Control, controls, preset_values, shown_value

_FOLDS = ("sampling", "repetition", "beams", "several", "words")
_EARLY_STOPPING = ("yes", "no", "never")


class ControlPanel:
    """Builds the controls inside the current column."""

    def __init__(self, i18n: gr.I18n, limits: Limits) -> None:
        self._i18n = i18n
        self.controls = controls(limits)
        self._by_field: dict[str, Any] = {}
        with gr.Group():
            names = [(i18n(name), name) for name in PRESETS]
            self.presets = self._radio(names, None, "presets")
            self._build("main")
        for fold in _FOLDS:
            with gr.Accordion(i18n(f"fold_{fold}"), open=False, elem_id=f"fold-{fold}", elem_classes="fold"):
                self._build(fold)
        self._wire_presets()

    @property
    def components(self) -> list[Any]:
        """The components in the order of `controls`."""
        return [self._by_field[control.field] for control in self.controls]

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """The components' values by the names of their settings."""
        return {control.field: value for control, value in zip(self.controls, values, strict=True)}

    def shown(self, settings: GenerationSettings) -> list[Any]:
        """The components' values for these settings."""
        return [shown_value(control, settings) for control in self.controls]

    def _build(self, fold: str) -> None:
        for control in self.controls:
            if control.fold == fold:
                self._by_field[control.field] = self._component(control)

    def _component(self, control: Control) -> Any:
        value = shown_value(control, PAGE_DEFAULTS)
        common: dict[str, Any] = {
            "label": self._i18n(control.key),
            "info": self._i18n(f"{control.key}_info"),
            "elem_id": control.elem_id,
        }
        if control.kind == "slider":
            return gr.Slider(control.low, control.high, value, step=control.step, buttons=[], **common)
        if control.kind == "switch":
            return gr.Checkbox(value, **common)
        if control.kind == "choice":
            names = [(self._i18n(f"{control.key}_{name}"), name) for name in _EARLY_STOPPING]
            return self._radio(names, value, control.key)
        # A seed too is a box of text, not of a number: a browser's numbers would round large ones.
        lines = 1 if control.kind == "line" else 2
        return gr.Textbox(value, lines=lines, max_lines=1 if lines == 1 else 6, **common)

    def _radio(self, choices: list[tuple[Any, str]], value: str | None, key: str) -> gr.Radio:
        """A choice whose names are translated, which Gradio does though its types do not say so."""
        label, info = self._i18n(key), self._i18n(f"{key}_info")
        return gr.Radio(choices, value=value, label=label, info=info, elem_id=key.replace("_", "-"))

    def _wire_presets(self) -> None:
        """All in the browser: a preset fills the sliders, and the one that they stand at is marked."""
        filled = [self._by_field[field] for field in PRESET_FIELDS]
        known = json.dumps({name: preset_values(name) for name in PRESETS})
        here: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.presets.input(None, [self.presets], filled, js=f"(name) => ({known})[name]", **here)
        mark = f"(...values) => window.textgenPreset({known}, values)"
        self.mark_preset = {"fn": None, "inputs": filled, "outputs": [self.presets], "js": mark, **here}
        gr.on([component.change for component in filled], **self.mark_preset)
