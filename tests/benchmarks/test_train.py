from __future__ import annotations

import json
from typing import Any

import pytest

from textgen.benchmarks import train
from textgen.config import ModelSettings
from textgen.model.language_model import LanguageModel
from textgen.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that are trained, in their order; of one small width."""
    monkeypatch.setattr(train, "_SHAPES", {8: {"embedding_size": 4, "vocab_size": 20, "batch_size": 2, "window": 3}})
    monkeypatch.setattr(train, "_PRODUCT", 16)
    cells: list[str] = []

    def noted(model: LanguageModel, *arguments: Any) -> Trainer:
        cells.append(model.settings.cell)
        return Trainer(model, *arguments)

    monkeypatch.setattr(train, "Trainer", noted)
    return cells


@pytest.mark.parametrize("mogrifies", [False, True])
def test_every_figure_is_measured(
    trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mogrifies: bool
) -> None:
    monkeypatch.setattr(train, "can_multiply", lambda: mogrifies)
    assert train.main(["--rounds", "1", "--seconds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["benchmark"] == "train"
    assert trained == ["lstm", "mogrifier-lstm"][: 1 + mogrifies]
    for cell in trained:
        found = figures[cell]
        assert found["precision_8"] in ("float32", "bfloat16")
        assert found["tokens_per_second_8"] > 0
        # Products so small are hardly more than a call, and what the trainer does beside them takes most of its time.
        assert 0 <= found["share_of_peak_8"] < 1
        gain = found["tokens_per_second_8"] / found["plain_tokens_per_second_8"]
        assert found["gain_over_plain_8"] == pytest.approx(gain, abs=0.02)
        assert found["batch_size_8"] == 2


def test_one_cell_and_another_batch_may_be_asked_for(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--rounds", "1", "--seconds", "1", "--batch-size", "3", "--cell", "mogrifier-lstm"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert trained == ["mogrifier-lstm"]
    assert figures["mogrifier-lstm"]["batch_size_8"] == 3
    assert "lstm" not in figures


def test_the_weights_of_a_mogrifier_are_counted_with_its_rounds() -> None:
    settings = ModelSettings(cell="mogrifier-lstm", vocab_size=20, embedding_size=4, hidden_size=8)
    rounds = 2 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8)
    assert train.weights_multiplied(LanguageModel(settings)) == 32 * (4 + 8) + rounds + 8 * 4 + 4 * 20


def test_the_weights_of_a_stack_are_counted() -> None:
    settings = ModelSettings(cell="lstm", vocab_size=20, embedding_size=4, hidden_size=8, num_layers=2)
    assert train.weights_multiplied(LanguageModel(settings)) == 32 * (4 + 8) + 32 * (8 + 8) + 8 * 4 + 4 * 20
