"""Settings in the page's address, so that a link reproduces a text: same model, prompt, settings and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from textgen.config import GenerationSettings, parse_settings
from textgen.errors import InvalidSetting
from textgen.ui.controls import PAGE_DEFAULTS, Control, fits

# Longer addresses are refused by some servers and cut by some programs that pass them on.
_LONGEST_QUERY = 6_000
_LONGEST_READ = 100_000
_MOST_IGNORED = 8


@dataclass(frozen=True)
class Link:
    """What an address asks for. `ignored` names what in it is not understood or not allowed."""

    model: str | None
    prompt: str | None
    settings: GenerationSettings
    ignored: tuple[str, ...]


def query_of(model: str, prompt: str, settings: GenerationSettings) -> str:
    """The query of an address: model, prompt, and the settings that differ from the page's defaults.

    A prompt too long for an address is left out.
    """
    fields = {
        name: _written(getattr(settings, name))
        for name in type(settings).model_fields
        if getattr(settings, name) != getattr(PAGE_DEFAULTS, name)
    }
    query = _encoded({"model": model, "prompt": prompt, **fields})
    return query if len(query) <= _LONGEST_QUERY else _encoded({"model": model, **fields})


def with_seed(settings: GenerationSettings, seed: int | None) -> GenerationSettings:
    """The settings with the seed that was used, where chance had a part in the text."""
    by_chance = settings.num_beams == 1 or settings.beam_sampling
    return settings.model_copy(update={"seed": seed}) if by_chance else settings


def read_query(query: str, controls: Iterable[Control], is_model: Callable[[str], bool]) -> Link | None:
    """What the query of an address asks for, without its "?"; None when it says nothing about settings."""
    pairs, ignored = _pairs(query)
    known = {control.field: control for control in controls}
    values: dict[str, Any] = {}
    for name, texts in pairs.items():
        if name in ("model", "prompt"):
            values[name] = texts[-1]
        elif name not in known or not _is_allowed(known[name], texts):
            ignored.append(name)
        else:
            values[name] = _read(name, texts)
    if not values and not ignored:
        return None
    model, prompt = values.pop("model", None), values.pop("prompt", None)
    if model is not None and not is_model(model):
        ignored.append("model")
        model = None
    settings = _consistent(values, ignored)
    return Link(model, prompt, settings, tuple(name[:40] for name in ignored[:_MOST_IGNORED]))


def _pairs(query: str) -> tuple[dict[str, list[str]], list[str]]:
    """The texts of each name, and the names of what is too much. Names that begin with "__" are Gradio's."""
    found: dict[str, list[str]] = {}
    if len(query) > _LONGEST_READ:
        return found, ["…"]
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=500)
    except ValueError:
        return found, ["…"]
    for name, text in pairs:
        if not name.startswith("__"):
            found.setdefault(name, []).append(text)
    return found, []


def _is_allowed(control: Control, texts: list[str]) -> bool:
    try:
        value = _read(control.field, texts)
        settings = parse_settings(GenerationSettings, {**_beside(control.field, value), control.field: value})
    except (InvalidSetting, ValueError):
        return False
    return fits(control, settings)


def _beside(field: str, value: Any) -> dict[str, Any]:
    """Values of the settings that limit this one, so that it is looked at by itself."""
    if field == "min_new_tokens":
        return {"max_new_tokens": 10**9}
    return {"num_beams": value} if field in ("num_return", "num_beam_groups") else {}


def _consistent(values: dict[str, Any], ignored: list[str]) -> GenerationSettings:
    """Settings of values that are each allowed; what contradicts others is left out and named in `ignored`."""
    try:
        return parse_settings(GenerationSettings, {**PAGE_DEFAULTS.model_dump(), **values})
    except InvalidSetting as error:
        field = str(error.params["field"])
        left_out = [field] if field in values else list(values)
        ignored += left_out
        return _consistent({name: value for name, value in values.items() if name not in left_out}, ignored)


def _read(field: str, texts: list[str]) -> Any:
    default = getattr(PAGE_DEFAULTS, field)
    if isinstance(default, tuple):
        return tuple(texts)
    if isinstance(default, dict):
        pairs = (part.partition(":") for part in texts[-1].split(","))
        return {int(name): float(number) for name, _, number in pairs}
    return texts[-1]


def _written(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict):
        return ",".join(f"{name}:{number:g}" for name, number in value.items())
    return list(value) if isinstance(value, tuple) else value


def _encoded(values: dict[str, Any]) -> str:
    return urlencode(values, doseq=True, quote_via=quote, errors="replace")
