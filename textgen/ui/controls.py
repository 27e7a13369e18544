"""The controls of the Generate tab: which there are, how their values become settings and settings their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal

from textgen.config import GenerationSettings, parse_settings
from textgen.errors import InvalidSetting
from textgen.limits import Limits

Fold = Literal["main", "sampling", "repetition", "beams", "several", "words"]
Kind = Literal["slider", "switch", "choice", "line", "lines", "bias"]
TokensReading = Callable[[str], Sequence[int]]

# The page asks for alternatives, which the command line does without.
PAGE_DEFAULTS = GenerationSettings(top_logprobs=5)


@dataclass(frozen=True)
class Control:
    """One control: the setting that it makes, and the key of its texts, which also names it in the page."""

    field: str
    key: str
    fold: Fold
    kind: Kind = "slider"
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01

    @property
    def elem_id(self) -> str:
        return self.key.replace("_", "-")

    @property
    def default(self) -> Any:
        return shown_value(self, PAGE_DEFAULTS)


def controls(limits: Limits) -> tuple[Control, ...]:
    """Every control in the order of the page, bounded by what the host allows; other settings' come with sampling."""
    placed = _placed(limits)
    return (*placed, *_others({control.field for control in placed}))


def _placed(limits: Limits) -> tuple[Control, ...]:
    beams, tokens = min(16, limits.max_beams), min(1000, limits.max_new_tokens)
    return (
        Control("temperature", "temperature", "main", high=2.0, step=0.05),
        Control("max_new_tokens", "length", "main", low=1, high=tokens, step=1),
        Control("num_beams", "beams", "main", low=1, high=beams, step=1),
        Control("top_k", "top_k", "sampling", high=200, step=1),
        Control("top_p", "top_p", "sampling", low=0.05),
        Control("min_p", "min_p", "sampling"),
        Control("typical_p", "typical_p", "sampling", low=0.05),
        Control("epsilon_cutoff", "epsilon_cutoff", "sampling", high=0.1, step=0.0005),
        Control("eta_cutoff", "eta_cutoff", "sampling", high=0.1, step=0.0005),
        Control("repetition_penalty", "repetition_penalty", "repetition", low=0.5, high=2.0),
        Control("frequency_penalty", "frequency_penalty", "repetition", low=-2.0, high=2.0, step=0.05),
        Control("presence_penalty", "presence_penalty", "repetition", low=-2.0, high=2.0, step=0.05),
        Control("no_repeat_ngram_size", "no_repeat_ngram", "repetition", high=20, step=1),
        Control("dry_multiplier", "dry_multiplier", "repetition", high=5.0, step=0.05),
        Control("dry_base", "dry_base", "repetition", low=1.0, high=4.0, step=0.05),
        Control("dry_allowed_length", "dry_allowed_length", "repetition", low=1, high=20, step=1),
        Control("num_return", "num_return", "beams", low=1, high=beams, step=1),
        Control("length_penalty", "length_penalty", "beams", low=-2.0, high=3.0, step=0.1),
        Control("early_stopping", "early_stopping", "beams", "choice"),
        Control("num_beam_groups", "beam_groups", "beams", low=1, high=beams, step=1),
        Control("diversity_penalty", "diversity_penalty", "beams", high=5.0, step=0.1),
        Control("beam_sampling", "beam_sampling", "beams", "switch"),
        Control("num_samples", "samples", "several", low=1, high=beams, step=1),
        Control("seed", "seed", "several", "line"),
        Control("min_new_tokens", "min_tokens", "words", high=tokens, step=1),
        Control("stop", "stop_texts", "words", "lines"),
        Control("banned", "banned", "words", "lines"),
        Control("avoid_copying", "avoid_copying", "words", "switch"),
        Control("logit_bias", "logit_bias", "words", "bias"),
        Control("top_logprobs", "alternatives", "words", high=20, step=1),
        Control("ignore_eos", "ignore_eos", "words", "switch"),
        Control("adapt", "adapt", "words", "switch"),
    )


def _others(placed: Collection[str]) -> Iterator[Control]:
    """Of settings that are not `placed`: switches for what is on or off, sliders for numbers between two bounds."""
    for name, field in GenerationSettings.model_fields.items():
        if name in placed:
            continue
        if field.annotation is bool:
            yield Control(name, name, "sampling", "switch")
            continue
        known = [(key, getattr(bound, key, None)) for bound in field.metadata for key in ("ge", "gt", "le", "lt")]
        bounds = {key: float(bound) for key, bound in known if bound is not None}
        step = 1.0 if field.annotation is int else 0.01
        low = bounds.get("ge", bounds.get("gt", -inf) + step)
        high = bounds.get("le", bounds.get("lt", inf) - step)
        if isfinite(low) and isfinite(high):
            yield Control(name, name, "sampling", low=low, high=high, step=step)


# What a preset sets; other controls keep their values. "balanced" is as everything stands at first.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "precise": {"temperature": 0.4, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "dry_multiplier": 0.8},
    "balanced": {},
    "wild": {"temperature": 1.2, "min_p": 0.02, "presence_penalty": 0.2},
}
PRESET_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
)


def preset_values(name: str) -> list[float]:
    """The values of PRESET_FIELDS in that preset."""
    return [PRESETS[name].get(field, getattr(PAGE_DEFAULTS, field)) for field in PRESET_FIELDS]


def settings_of(values: Mapping[str, Any], tokens_reading: TokensReading = lambda _: ()) -> GenerationSettings:
    """The values of all controls, by their settings' names, as settings; raises `InvalidSetting`.

    One control must not make another invalid where what is meant is clear: settings of beams do not count without
    beams, there are never more results than beams, and a search gives one text for each of its results.
    `tokens_reading` gives the token ids that a word may be.
    """
    given = dict(values)
    beams = given["num_beams"] or 1
    given["num_return"] = min(given["num_return"] or 1, beams)
    if beams > 1:
        given["num_samples"] = 1
    else:
        given |= {"num_beam_groups": 1, "beam_sampling": False}
    given["seed"] = _seed(given["seed"])
    given["stop"], given["banned"] = _lines(given["stop"]), _lines(given["banned"])
    given["logit_bias"] = _bias(given["logit_bias"], tokens_reading)
    return parse_settings(GenerationSettings, given)


def shown_value(control: Control, settings: GenerationSettings) -> Any:
    """The value of a control for these settings; a slider shows its nearest value."""
    value = getattr(settings, control.field)
    if control.kind == "slider":
        return min(max(value, control.low), control.high)
    if control.kind == "line":
        return "" if value is None else str(value)
    if control.kind == "lines":
        return "\n".join(_escaped(text) for text in value)
    if control.kind == "bias":
        return "\n".join(f"#{token_id} = {bias:g}" for token_id, bias in value.items())
    return value


def fits(control: Control, settings: GenerationSettings) -> bool:
    """Whether the control can show that setting as it is."""
    value = getattr(settings, control.field)
    return control.kind != "slider" or control.low <= value <= control.high


def changed_defaults(
    all_controls: Iterable[Control], before: GenerationSettings, after: GenerationSettings, values: Sequence[Any]
) -> list[Any]:
    """The controls' values when a model with other defaults is chosen: what a person has changed stays as it is."""
    return [
        shown_value(control, after) if value == shown_value(control, before) else value
        for control, value in zip(all_controls, values, strict=True)
    ]


def _seed(text: str | None) -> str | None:
    text = (text or "").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise InvalidSetting("seed", text, "a whole number from 0, or nothing")
    return text or None


_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def _lines(text: str | None) -> tuple[str, ...]:
    r"""The lines that are not empty; \n, \t and \\ stand for what they usually do, other backslashes for themselves."""
    lines = [line for line in (text or "").split("\n") if line]
    return tuple(re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], line) for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _bias(text: str | None, tokens_reading: TokensReading) -> dict[int, float]:
    found: dict[int, float] = {}
    for line in filter(str.strip, (text or "").split("\n")):
        word, _, number = line.rpartition("=")
        word = word.strip()
        try:
            bias = float(number)
        except ValueError:
            raise InvalidSetting("logit_bias", line, "lines such as love = 2 or #42 = -1") from None
        named = re.fullmatch(r"#([0-9]{1,9})", word)
        token_ids = [int(named[1])] if named else tokens_reading(word) if word else []
        if not token_ids:
            raise InvalidSetting("logit_bias", line, "words that are one piece of the model's vocabulary")
        found |= dict.fromkeys(token_ids, bias)
    return found
