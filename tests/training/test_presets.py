from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from tests.grammar import make_text
from textgen import imports
from textgen.config import RunSettings, TrainingBudget, parse_settings, read_settings_file
from textgen.errors import InvalidSetting
from textgen.text.readers import open_text
from textgen.training.presets import (
    PresetName,
    TextSurvey,
    can_mogrify,
    preset_for,
    preset_settings,
    survey_text,
)

ROOT = Path(__file__).parents[2]
SMALL, MIDDLE, LARGE = (TextSurvey(size, 60) for size in (50_000, 1_000_000, 10_000_000))
CHINESE = TextSurvey(2_000_000, 3_500)


def settings(name: str, survey: TextSurvey, *, base: bool = False) -> RunSettings:
    return parse_settings(RunSettings, preset_settings(name, survey, base=base))


@pytest.mark.parametrize("name", get_args(PresetName))
@pytest.mark.parametrize("survey", [TextSurvey(0, 0), SMALL, MIDDLE, LARGE, CHINESE])
@pytest.mark.parametrize("base", [False, True])
def test_every_preset_is_valid_for_every_text(name: str, survey: TextSurvey, base: bool) -> None:
    chosen = settings(name, survey, base=base)
    chosen.training.check_budget()
    assert chosen.training.minutes is not None


def test_patience_buys_time_and_size() -> None:
    runs = [settings(name, MIDDLE) for name in get_args(PresetName)]
    minutes = [run.training.minutes or 0.0 for run in runs]
    assert minutes == [3.0, 15.0, 60.0]
    sizes = [run.model.hidden_size * run.model.members for run in runs]
    assert sizes == sorted(sizes)
    assert [run.model.members for run in runs] == [1, 2, 2]


@pytest.mark.parametrize(
    ("minutes", "name"),
    [(None, "quick"), (0.5, "quick"), (5, "quick"), (12, "balanced"), (20, "balanced"), (45, "thorough")],
)
def test_a_budget_of_minutes_has_a_preset(minutes: float | None, name: str) -> None:
    assert preset_for(minutes) == name


def test_two_networks_share_the_time_where_it_suffices_for_both() -> None:
    def members(survey: TextSurvey, **budget: Any) -> int:
        chosen = preset_settings("balanced", survey, budget=TrainingBudget(**budget))
        return parse_settings(RunSettings, chosen).model.members

    assert [members(MIDDLE, minutes=minutes) for minutes in (3, 15, 60)] == [1, 2, 2]
    assert [members(MIDDLE, epochs=epochs) for epochs in (1, 20)] == [1, 2]
    assert members(TextSurvey(3_000_000, 60)) == 1
    assert members(SMALL, minutes=1) == members(SMALL) == 3
    assert all(settings(name, LARGE).model.members == 1 for name in get_args(PresetName))
    assert members(LARGE, minutes=600) == 1


@pytest.mark.parametrize("name", get_args(PresetName))
@pytest.mark.parametrize("survey", [SMALL, MIDDLE, LARGE])
def test_where_it_costs_little_a_mogrifier_learns(name: str, survey: TextSurvey) -> None:
    chosen = {mogrifies: preset_settings(name, survey, mogrifies=mogrifies) for mogrifies in (False, True)}
    cells = [parse_settings(RunSettings, chosen[mogrifies]).model.cell for mogrifies in (False, True)]
    assert cells == ["lstm", "mogrifier-lstm"]


def test_only_processors_with_dot_products_are_asked_for_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> str:
        raise AssertionError

    monkeypatch.setattr(imports, "has_dot_products", lambda: False)
    assert not can_mogrify({}, never)
    monkeypatch.setattr(imports, "has_dot_products", lambda: True)
    monkeypatch.setattr(imports, "has_bf16_tiles", lambda: True)
    assert not can_mogrify({}, never)
    monkeypatch.setattr(imports, "has_bf16_tiles", lambda: False)
    assert can_mogrify({"precision": "auto"}, lambda: "cpu")
    assert not can_mogrify({}, lambda: "cuda")
    assert not can_mogrify({"precision": "fp32"}, never)


def test_more_passes_over_a_text_need_more_dropout() -> None:
    def dropped(name: str, survey: TextSurvey) -> float:
        training = settings(name, survey).training
        return training.output_dropout + training.weight_dropout

    for name in get_args(PresetName):
        assert min(dropped(name, SMALL), dropped(name, MIDDLE)) > dropped(name, LARGE)
    # In longer trainings the model for a text of middle size is much larger than the one for a small text.
    assert dropped("quick", SMALL) > dropped("quick", MIDDLE)
    assert dropped("quick", MIDDLE) < dropped("balanced", MIDDLE) < dropped("thorough", MIDDLE)
    # What is read hardly once is not known by heart.
    for name in ("balanced", "thorough"):
        assert settings(name, MIDDLE).training.dropout_passes > 1
    assert settings("balanced", LARGE).training.dropout_passes == 0


def test_an_hour_takes_the_recipes_of_the_first_runs_of_what_ships() -> None:
    for survey, name in ((MIDDLE, "shakespeare/teacher-1"), (LARGE, "fairy-tales/first")):
        shipped = parse_settings(RunSettings, read_settings_file(ROOT / "checkpoints" / f"{name}.yaml"))
        chosen = parse_settings(RunSettings, preset_settings("thorough", survey, mogrifies=True))
        assert chosen.model.model_dump() == shipped.model.model_dump()
        assert chosen.text.vocab_size == shipped.text.vocab_size
        budget = {"steps", "minutes", "evaluations", "patience", "seed"}
        assert chosen.training.model_dump(exclude=budget) == shipped.training.model_dump(exclude=budget)


def test_a_vocabulary_has_room_for_its_script() -> None:
    assert settings("quick", CHINESE).text.vocab_size > 256 + CHINESE.common_characters
    sizes = [settings("quick", survey).text.vocab_size for survey in (SMALL, MIDDLE, LARGE)]
    assert sizes == sorted(sizes)


def test_a_base_is_tuned_gently() -> None:
    tuned, fresh = (settings("quick", MIDDLE, base=base).training for base in (True, False))
    assert tuned.learning_rate < fresh.learning_rate
    assert tuned.embedding_rate < 1.0
    assert tuned.layer_decay < 1.0
    assert (fresh.embedding_rate, fresh.layer_decay, fresh.base_share) == (1.0, 1.0, 0.0)


def test_a_text_that_is_read_often_is_learned_more_gently_from_a_base() -> None:
    def tuning(**budget: Any) -> tuple[float, float]:
        chosen = preset_settings("quick", MIDDLE, base=True, budget=TrainingBudget(**budget))
        training = parse_settings(RunSettings, chosen).training
        return training.learning_rate, -training.output_dropout - training.weight_dropout

    for budgets in ([{"epochs": 1}, {"epochs": 4}, {"epochs": 30}], [{"minutes": 1}, {"minutes": 10}, {"minutes": 90}]):
        chosen = [tuning(**budget) for budget in budgets]
        assert chosen == sorted(chosen, reverse=True)
        assert chosen[0] > chosen[-1]
    runs = [settings("balanced", survey, base=True).training for survey in (LARGE, MIDDLE, SMALL)]
    assert runs[0].learning_rate > runs[-1].learning_rate
    assert [run.output_dropout for run in runs] == sorted(run.output_dropout for run in runs)


def test_an_unknown_preset_is_told_what_there_is() -> None:
    with pytest.raises(InvalidSetting, match="preset: slow was given; allowed: quick, balanced, thorough"):
        preset_settings("slow", SMALL)


def test_a_survey_counts_a_text_that_is_read_whole() -> None:
    text = "aab月\n" * 100
    assert survey_text([text[:250], text[250:]], total_bytes=len(text.encode())) == TextSurvey(500, 4)


def test_a_survey_estimates_a_text_from_its_beginning() -> None:
    text = make_text(characters=20_000)
    blocks = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    survey = survey_text(blocks, total_bytes=len(text.encode()), max_texts=10)
    assert survey.characters == pytest.approx(len(text), rel=0.05)
    whole = survey_text(blocks, total_bytes=len(text.encode()))
    assert whole.characters == len(text)
    assert survey.common_characters == pytest.approx(whole.common_characters, abs=3)


def test_rare_characters_do_not_count() -> None:
    assert survey_text(["ab" * 5000 + "☃"], total_bytes=10_003) == TextSurvey(10_001, 2)


@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_text_is_surveyed_too(texts: list[str]) -> None:
    assert survey_text(texts, total_bytes=0) == TextSurvey(0, 0)


def test_only_so_much_of_a_text_is_looked_at(small_text: Path) -> None:
    seen = []

    def endless() -> object:
        while True:
            seen.append(1)
            yield from open_text(small_text).blocks()

    survey_text(endless(), total_bytes=10**12, max_texts=3)  # type: ignore[arg-type]
    assert len(seen) <= 4
