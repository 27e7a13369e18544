from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from textgen.benchmarks import startup


@pytest.mark.slow
def test_its_last_line_holds_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert startup.main(["--rounds", "1", "--requests", "2"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < figures["first_token_ms"] <= figures["first_token_ms_worst"]
    assert figures["import_torch_seconds"] > 0
    assert figures["first_page_seconds"] < figures["first_text_seconds"]
    assert 0 < figures["first_page_seconds"] == figures["first_page_seconds_of_rounds"][0]


def test_imports_are_timed_in_a_fresh_python() -> None:
    before = set(sys.modules)
    assert 0 < startup.import_seconds("wave") < 30
    assert set(sys.modules) == before


def test_what_python_compiles_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    packed = startup.packed_bytes(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_bytes(b"\0" * 10_000)
    assert startup.packed_bytes(tmp_path) == packed > 0
