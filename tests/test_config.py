from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.config import (
    GenerationSettings,
    ModelSettings,
    RunSettings,
    Settings,
    TextSettings,
    TrainingSettings,
    parse_settings,
    read_settings_file,
    update_settings,
)
from textgen.errors import InvalidSetting


@pytest.mark.parametrize("kind", [TextSettings, ModelSettings, TrainingSettings, GenerationSettings])
def test_every_setting_has_help_and_defaults_are_valid(kind: type[Settings]) -> None:
    assert parse_settings(kind, {}) == kind()
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("kind", "values", "field", "allowed"),
    [
        (GenerationSettings, {"temperature": -0.1}, "temperature", "at least 0.0"),
        (GenerationSettings, {"temperature": 5.1}, "temperature", "at most 5.0"),
        (GenerationSettings, {"temperature": float("nan")}, "temperature", "a number"),
        (GenerationSettings, {"temperature": "hot"}, "temperature", "number"),
        (GenerationSettings, {"top_p": 0}, "top_p", "above 0.0"),
        (GenerationSettings, {"max_new_tokens": 0}, "max_new_tokens", "at least 1"),
        (GenerationSettings, {"max_new_tokens": 2.5}, "max_new_tokens", "a whole number"),
        (GenerationSettings, {"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens", "max_new_tokens (5)"),
        (GenerationSettings, {"num_return": 2}, "num_return", "num_beams (1)"),
        (GenerationSettings, {"stop": ("a", "")}, "stop", "one character"),
        (GenerationSettings, {"stop": ("a",) * 17}, "stop", "16"),
        (GenerationSettings, {"seed": 2**63}, "seed", "below"),
        (TrainingSettings, {"steps": 3, "minutes": 1}, "budget", "one of steps, epochs and minutes"),
        (TrainingSettings, {"steps": 3, "epochs": 2, "minutes": 1}, "budget", "one of"),
        (TrainingSettings, {"weight_dropout": 1.0}, "weight_dropout", "at most 0.95"),
        (TrainingSettings, {"precision": "fp8"}, "precision", "one of"),
        (ModelSettings, {"cell": "transformer"}, "cell", "'lstm'"),
        (TextSettings, {"split": ""}, "split", "character"),
        (TextSettings, {"heldout": 1.0}, "heldout", "below 1.0"),
        (RunSettings, {"model": {"hidden_size": 0}}, "model.hidden_size", "at least 1"),
        (RunSettings, {"training": {"hidden": 1}}, "training.hidden", "the settings of the documentation"),
        (RunSettings, {"files": "a.txt"}, "files", "tuple"),
        (RunSettings, {"training": {"steps": 1, "epochs": 1}}, "budget", "one of steps, epochs and minutes"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(
    kind: type[Settings], values: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_settings(kind, values)
    assert caught.value.params["field"] == field
    assert allowed in str(caught.value.params["allowed"])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from([*GenerationSettings.model_fields, "nonsense"]),
        st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.text()), st.binary()),
    )
)
def test_any_values_are_settings_or_a_sentence(values: dict[str, Any]) -> None:
    with suppress(InvalidSetting):
        settings = parse_settings(GenerationSettings, values)
        assert parse_settings(GenerationSettings, settings.model_dump()) == settings


def test_an_update_is_checked_and_leaves_the_original() -> None:
    settings = TrainingSettings(steps=5)
    assert update_settings(settings, window=7) == TrainingSettings(steps=5, window=7)
    assert settings.window == TrainingSettings().window
    with pytest.raises(InvalidSetting, match="window"):
        update_settings(settings, window=0)


def test_a_budget_is_missed_only_where_there_is_none() -> None:
    with pytest.raises(InvalidSetting, match="budget"):
        TrainingSettings().check_budget()
    for budget in ("steps", "epochs", "minutes"):
        parse_settings(TrainingSettings, {budget: 1}).check_budget()


def test_a_config_file_is_yaml_or_json(tmp_path: Path) -> None:
    yaml, json, empty = tmp_path / "a.yaml", tmp_path / "a.json", tmp_path / "empty.yaml"
    yaml.write_text("files: [月.txt]\nmodel:\n  cell: gru  # a comment\n", encoding="utf-8")
    json.write_text('{"files": ["月.txt"], "model": {"cell": "gru"}}', encoding="utf-8")
    empty.write_text("# nothing yet\n", encoding="utf-8")
    assert read_settings_file(yaml) == read_settings_file(json) == {"files": ["月.txt"], "model": {"cell": "gru"}}
    assert read_settings_file(empty) == {}


@pytest.mark.parametrize(
    ("content", "allowed"),
    [
        (b"- a\n- b\n", "a mapping"),
        (b"1: a\n", "a mapping"),
        (b"just words", "a mapping"),
        (b"files: [a", "a YAML file"),
        (b"a: \xff\xfe\n", "a YAML file"),
        (b"a: !!python/object/apply:os.getpid []\n", "a YAML file"),
        (None, "a readable file"),
    ],
)
def test_anything_else_is_no_config_file(tmp_path: Path, content: bytes | None, allowed: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSetting) as caught:
        read_settings_file(path)
    assert allowed in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
