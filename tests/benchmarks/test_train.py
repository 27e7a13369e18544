from __future__ import annotations

import json

import pytest

from textgen.benchmarks import train
from textgen.config import ModelSettings
from textgen.model.language_model import LanguageModel

pytestmark = pytest.mark.slow


def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {"embedding_size": 4, "vocab_size": 20, "batch_size": 2, "window": 3}
    monkeypatch.setattr(train, "_SHAPES", {8: shape})
    monkeypatch.setattr(train, "_PRODUCT", 16)
    assert train.main(["--rounds", "1", "--seconds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["benchmark"] == "train"
    assert figures["precision_8"] in ("float32", "bfloat16")
    assert figures["tokens_per_second_8"] > 0
    assert figures["share_of_peak_8"] >= 0
    assert figures["gain_over_plain_8"] > 0
    assert figures["batch_size_8"] == 2
    assert train.main(["--rounds", "1", "--seconds", "1", "--batch-size", "3"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["batch_size_8"] == 3


def test_the_figures_of_a_mogrifier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {"embedding_size": 4, "vocab_size": 20, "batch_size": 2, "window": 3}
    monkeypatch.setattr(train, "_SHAPES", {8: shape})
    monkeypatch.setattr(train, "_PRODUCT", 16)
    assert train.main(["--rounds", "1", "--seconds", "1", "--cell", "mogrifier-lstm"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["cell"] == "mogrifier-lstm"
    assert figures["tokens_per_second_8"] > 0


def test_the_weights_of_a_mogrifier_are_counted_with_its_rounds() -> None:
    settings = ModelSettings(cell="mogrifier-lstm", vocab_size=20, embedding_size=4, hidden_size=8)
    rounds = 2 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8)
    assert train.weights_multiplied(LanguageModel(settings)) == 32 * (4 + 8) + rounds + 8 * 4 + 4 * 20


def test_the_weights_of_a_stack_are_counted() -> None:
    settings = ModelSettings(cell="lstm", vocab_size=20, embedding_size=4, hidden_size=8, num_layers=2)
    assert train.weights_multiplied(LanguageModel(settings)) == 32 * (4 + 8) + 32 * (8 + 8) + 8 * 4 + 4 * 20
