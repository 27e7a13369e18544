from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.config import GenerationSettings
from textgen.errors import InvalidSetting
from textgen.limits import Limits
from textgen.ui.controls import (
    PAGE_DEFAULTS,
    PRESET_FIELDS,
    PRESETS,
    _others,
    changed_defaults,
    controls,
    fits,
    preset_values,
    settings_of,
    shown_value,
)

CONTROLS = controls(Limits())
VALUES: dict[str, Any] = {control.field: shown_value(control, PAGE_DEFAULTS) for control in CONTROLS}


def settings(**changes: Any) -> GenerationSettings:
    assert changes.keys() <= VALUES.keys()
    return settings_of({**VALUES, **changes}, lambda word: {"love": [5, 9], "x": [7]}.get(word, []))


def test_every_setting_has_its_control_and_each_control_a_setting() -> None:
    fields = [control.field for control in CONTROLS]
    assert sorted(fields) == sorted(GenerationSettings.model_fields)
    assert len({control.elem_id for control in CONTROLS}) == len(CONTROLS)


def test_settings_without_a_place_get_controls_by_their_kind() -> None:
    others = {control.field: control for control in _others({"min_p"})}
    assert others["adapt"].kind == "switch"
    assert (others["top_p"].kind, others["top_p"].low, others["top_p"].high) == ("slider", 0.01, 1.0)
    assert (others["eta_cutoff"].low, others["eta_cutoff"].high) == (0.0, 0.99)
    assert (others["no_repeat_ngram_size"].high, others["no_repeat_ngram_size"].step) == (100.0, 1.0)
    assert others.keys().isdisjoint({"min_p", "top_k", "stop"})


def test_controls_stay_within_what_the_host_allows() -> None:
    tight = {
        control.field: control for control in controls(dataclasses.replace(Limits(), max_beams=3, max_new_tokens=50))
    }
    assert (tight["num_beams"].high, tight["num_samples"].high, tight["max_new_tokens"].high) == (3, 3, 50)


def test_what_the_controls_show_at_first_makes_the_default_settings() -> None:
    assert settings() == PAGE_DEFAULTS
    assert all(fits(control, PAGE_DEFAULTS) for control in CONTROLS)


def test_controls_become_settings() -> None:
    made = settings(
        temperature=0.5,
        max_new_tokens=30,
        num_beams=4,
        num_beam_groups=2,
        beam_sampling=True,
        early_stopping="never",
        num_return=3,
        seed=" 42 ",
        stop="\nEND\n  \n\\n\\n\n结束",
        banned="a\\tb\\\\n\\x",
        logit_bias="love = 2\n\n #11 =-1.5",
        ignore_eos=True,
    )
    assert (made.temperature, made.max_new_tokens, made.num_beams, made.num_beam_groups) == (0.5, 30, 4, 2)
    assert (made.beam_sampling, made.early_stopping, made.num_return, made.ignore_eos) == (True, "never", 3, True)
    assert made.seed == 42
    assert made.stop == ("END", "  ", "\n\n", "结束")
    assert made.banned == ("a\tb\\n\\x",)
    assert made.logit_bias == {5: 2.0, 9: 2.0, 11: -1.5}


def test_one_control_does_not_make_another_invalid() -> None:
    assert settings(num_beams=2, num_return=5).num_return == 2
    assert settings(num_beams=4, num_samples=3).num_samples == 1
    alone = settings(num_beams=1, num_beam_groups=3, beam_sampling=True)
    assert (alone.num_beam_groups, alone.beam_sampling) == (1, False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": "-1"}, "seed"),
        ({"seed": "1.5"}, "seed"),
        ({"seed": "٣"}, "seed"),
        ({"seed": str(2**63)}, "seed"),
        ({"seed": "9" * 5000}, "seed"),
        ({"min_new_tokens": 201}, "min_new_tokens"),
        ({"temperature": None}, "temperature"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"stop": "a\n" * 17}, "stop"),
        ({"num_beams": 5, "num_beam_groups": 2}, "num_beam_groups"),
        ({"logit_bias": "love"}, "logit_bias"),
        ({"logit_bias": "love = much"}, "logit_bias"),
        ({"logit_bias": "hate = 1"}, "logit_bias"),
        ({"logit_bias": " = 1"}, "logit_bias"),
        ({"logit_bias": "#7 = nan"}, "logit_bias.7"),
    ],
)
def test_controls_that_make_no_settings_are_told(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings(**changes)
    assert caught.value.params["field"] == field


def test_large_seeds_are_kept_exactly() -> None:
    assert settings(seed=str(2**63 - 1)).seed == 2**63 - 1


texts = st.lists(st.text(min_size=1, max_size=8).filter(lambda text: "\r" not in text), max_size=4)


@given(
    stop=texts,
    banned=texts,
    bias=st.dictionaries(st.integers(0, 999), st.integers(-99, 99).map(lambda value: value / 4), max_size=5),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
def test_settings_are_shown_so_that_they_are_read_back(
    stop: list[str], banned: list[str], bias: dict[int, float], seed: int | None
) -> None:
    given_settings = PAGE_DEFAULTS.model_copy(
        update={"stop": tuple(stop), "banned": tuple(banned), "logit_bias": bias, "seed": seed}
    )
    shown = {control.field: shown_value(control, given_settings) for control in CONTROLS}
    assert settings_of(shown) == given_settings


def test_a_slider_shows_its_nearest_value() -> None:
    hot = PAGE_DEFAULTS.model_copy(update={"temperature": 4.0})
    temperature = next(control for control in CONTROLS if control.field == "temperature")
    assert shown_value(temperature, hot) == 2.0
    assert not fits(temperature, hot)


def test_presets_are_settings_that_the_sliders_can_show() -> None:
    assert preset_values("balanced") == [VALUES[field] for field in PRESET_FIELDS]
    by_field = {control.field: control for control in CONTROLS}
    made = {}
    for name, changes in PRESETS.items():
        assert changes.keys() <= set(PRESET_FIELDS)
        values = dict(zip(PRESET_FIELDS, preset_values(name), strict=True))
        made[name] = settings(**values)
        assert all(fits(by_field[field], made[name]) for field in PRESET_FIELDS)
    assert made["precise"].temperature < made["balanced"].temperature < made["wild"].temperature


def test_another_model_brings_its_defaults_but_takes_nothing_that_was_set() -> None:
    before = PAGE_DEFAULTS
    after = before.model_copy(update={"temperature": 1.1, "max_new_tokens": 50, "stop": ("\n",)})
    values = {**VALUES, "max_new_tokens": 77}
    shown = changed_defaults(CONTROLS, before, after, list(values.values()))
    changed = dict(zip(values, shown, strict=True))
    assert (changed["temperature"], changed["max_new_tokens"], changed["stop"]) == (1.1, 77, "\\n")
    assert changed_defaults(CONTROLS, after, before, shown) == [*values.values()]
