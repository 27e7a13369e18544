from __future__ import annotations

import json
from pathlib import Path

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


def test_a_training_that_fails_is_told(tmp_path: Path) -> None:
    assert quality.main([str(tmp_path / "nothing.txt")]) == 1
