"""What a run is to be, by the options of `textgen train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from textgen.config import RunSettings, TrainingBudget, parse_settings, read_settings_file
from textgen.errors import InvalidSetting
from textgen.options import given_settings

_BUDGETS = ("steps", "epochs", "minutes")
_SECTIONS = ("text", "model", "training")


def run_settings(options: argparse.Namespace) -> RunSettings:
    """Preset, then config file, then options: what comes later wins."""
    content = read_settings_file(options.config) if options.config else {}
    for name in _SECTIONS:
        content[name] = {} if content.get(name) is None else content[name]
        if not isinstance(content[name], dict):
            raise InvalidSetting(name, content[name], "a mapping of settings")
    asked: dict[str, Any] = {name: content[name] for name in content if name not in _SECTIONS}
    if options.files:
        asked["files"] = [str(Path(file).resolve()) for file in options.files]
    if options.heldout_files:
        asked["heldout_files"] = [str(Path(file).resolve()) for file in options.heldout_files]
    if options.base is not None:
        asked["base"] = str(Path(options.base).resolve())
    if options.teachers is not None:
        asked["teachers"] = [str(Path(teacher).resolve()) for teacher in options.teachers]
    if options.sample_prompts is not None:
        asked["sample_prompts"] = options.sample_prompts
    layers = [
        {name: content[name] for name in _SECTIONS},
        {name: given_settings(options, name) for name in _SECTIONS},
    ]
    checked = parse_settings(RunSettings, asked)
    if checked.teachers:
        _check_beside_teachers(layers[-1])
    if checked.base is not None:
        _check_beside_base(_merged([layer["text"] for layer in layers]), layers[-1])
    if options.preset is not None or options.config is None:
        layers.insert(0, _preset(options, checked, layers))
    for section in _SECTIONS:
        asked[section] = _merged([layer[section] for layer in layers])
    return parse_settings(RunSettings, asked)


def check_resume(options: argparse.Namespace) -> TrainingBudget | None:
    """How much longer the run is to be trained, if at all; nothing else may stand beside --resume."""
    others = ("out", "preset", "base", "teachers", "config", "heldout_files", "sample_prompts")
    given = [name for name in others if getattr(options, name) is not None]
    given += [name for section in _SECTIONS for name in given_settings(options, section) if name not in _BUDGETS]
    given += ["files"] if options.files else []
    given += ["estimate"] if options.estimate else []
    if given:
        allowed = "--resume DIR, and a budget to train longer; the run knows its text and settings"
        raise InvalidSetting("resume", f"{given[0]} beside it", allowed)
    budget = given_settings(options, "training")
    return parse_settings(TrainingBudget, budget) if budget else None


def _check_beside_base(text: dict[str, Any], given: dict[str, Any]) -> None:
    choice = text.get("base_vocabulary", "keep")
    fixed = [*given["model"]]
    if choice != "new":
        fixed += [name for name in ("tokenizer",) if name in given["text"]]
    if choice == "keep":
        fixed += [name for name in ("vocab_size",) if name in given["text"]]
    if fixed:
        allowed = "no shape, and no vocabulary without --base-vocabulary extend or new: a base brings its own"
        raise InvalidSetting("base", f"--{fixed[0].replace('_', '-')} beside it", allowed)


def _check_beside_teachers(given: dict[str, Any]) -> None:
    for name in ("tokenizer", "vocab_size"):
        if name in given["text"]:
            raise InvalidSetting("teachers", f"--{name.replace('_', '-')} beside them", "none: they bring theirs")


def _preset(options: argparse.Namespace, settings: RunSettings, layers: list[dict[str, Any]]) -> dict[str, Any]:
    from textgen.text.readers import open_text
    from textgen.training.device import choose_device
    from textgen.training.presets import can_mogrify, preset_for, preset_settings, survey_text

    if not settings.files:
        raise InvalidSetting("files", "none", "at least one text file")
    encoding = layers[-1]["text"].get("encoding") or layers[0]["text"].get("encoding")
    files = [open_text(Path(file), encoding=encoding) for file in settings.files]
    size = sum(Path(file).stat().st_size for file in settings.files)
    survey = survey_text((block for file in files for block in file.blocks()), total_bytes=size)
    asked = _merged([layer["training"] for layer in layers])
    # As a section of its run, so that what is wrong with it is told by its whole name.
    budget = parse_settings(
        RunSettings, {"training": {name: asked[name] for name in _BUDGETS if name in asked}}
    ).training
    return preset_settings(
        preset_for(budget.minutes) if options.preset is None else options.preset,
        survey,
        base=settings.base is not None,
        budget=budget,
        # What machine another host takes nobody knows here.
        mogrifies=options.on is None and can_mogrify(asked, lambda: choose_device(options.device).type),
    )


def _merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in _BUDGETS):
            # One budget replaces another: --steps wins over a preset's minutes.
            merged = {name: value for name, value in merged.items() if name not in _BUDGETS}
        merged |= layer
    return merged
