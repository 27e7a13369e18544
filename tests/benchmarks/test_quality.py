from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textgen.benchmarks import quality

pytestmark = pytest.mark.slow


def test_training_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. The dog lay by the door.\n" * 200, encoding="utf-8")
    assert quality.main([str(text), "--minutes", "0.02", "--rounds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(figures["nats_per_char_of_rounds"]) == 1
    assert 0 < figures["nats_per_char"] < 10
    assert figures["chars"] == pytest.approx(0.1 * text.stat().st_size, rel=0.05)


@pytest.mark.parametrize(
    ("given", "taken"), [((), "quick"), (("--minutes", "15"), "balanced"), (("--preset", "thorough"), "thorough")]
)
def test_the_preset_is_the_one_that_training_takes(
    given: tuple[str, ...],
    taken: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(_files: object, preset: str, _minutes: float, _seed: int) -> dict[str, Any]:
        return {"nats_per_char": float(len(preset)), "chars": 1}

    monkeypatch.setattr(quality, "train", train)
    assert quality.main(["text.txt", *given]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["preset"], figures["nats_per_char"]) == (taken, len(taken))


def test_a_training_that_fails_is_told(tmp_path: Path) -> None:
    assert quality.main([str(tmp_path / "nothing.txt")]) == 1
