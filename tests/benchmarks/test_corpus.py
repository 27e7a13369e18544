from __future__ import annotations

import json
from pathlib import Path

import pytest

from textgen.benchmarks.corpus import StageTimes, main, write_text
from textgen.progress import Progress


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--one-line", "--split", "line"]])
def test_benchmark_prints_figures_and_removes_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    asked = ["--megabytes", "1", "--tokenizer", "bpe", "--vocab-size", "400", "--folder", str(tmp_path), *extra]
    assert main(asked) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["megabytes"] == 1.0
    assert figures["megabytes_per_second"] > 0
    assert 20 < figures["peak_memory_megabytes"] < 500
    assert 100_000 < figures["tokens"] < 1_000_000
    stages = [figures[f"seconds_{stage}"] for stage in ("reading", "sampling", "tokenizer", "encoding")]
    assert 0 < sum(stages) <= figures["seconds"] + 0.05
    assert figures["cores_encoding"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("one_line", [False, True])
def test_generated_text_has_the_asked_size(tmp_path: Path, one_line: bool) -> None:
    path = tmp_path / "text.txt"
    assert write_text(path, 2_000_000, one_line=one_line) == path.stat().st_size == 2_000_000
    assert ("\n" in path.read_text(encoding="utf-8")) is not one_line


def test_time_belongs_to_the_stage_that_is_reported_next() -> None:
    seconds, processor_seconds = iter([0.0, 2.0, 3.0, 7.0]), iter([0.0, 1.0, 2.0, 9.5])
    stages = StageTimes(lambda: next(seconds), lambda: next(processor_seconds))
    for stage in ("reading", "reading", "encoding"):
        stages(Progress(stage, 1.0))
    assert stages.figures() == {
        "seconds_reading": 3.0,
        "cores_reading": 0.67,
        "seconds_encoding": 4.0,
        "cores_encoding": 1.88,
    }
