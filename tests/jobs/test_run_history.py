from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_history import HistoryReader, RunHistory

TOKENS_PER_CHAR = 0.25


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose corpus is made and which has told nothing yet."""
    folder = RunFolder(tmp_path / "run")
    write_corpus(folder)
    return folder


def write_corpus(folder: RunFolder) -> None:
    folder.corpus.mkdir(parents=True, exist_ok=True)
    parts = {"train": {"tokens": 100, "characters": 400}}
    (folder.corpus / "corpus.json").write_text(json.dumps({"parts": parts}))


def step(step: int, loss: float = 2.0) -> dict[str, Any]:
    figures = {"epoch": 0.5, "progress": 0.1, "tokens_per_second": 10.0, "seconds_left": 3.0}
    return {"kind": "step", "step": step, "loss": loss, **figures, "elapsed_seconds": step / 2}


def evaluation(step: int, nats: float, kept: float | None = None) -> dict[str, Any]:
    old = None if kept is None else {"nats_per_char": kept}
    return {"kind": "evaluation", "step": step, "evaluation": {"nats_per_char": nats}, "kept": old}


def append(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("ab") as stream:
        stream.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def told(history: RunHistory) -> tuple[Any, ...]:
    return (history.losses, history.seconds, history.held_out, history.kept, history.samples, dict(history.latest))


def test_losses_are_told_in_nats_per_character(folder: RunFolder) -> None:
    append(folder.metrics, step(10, loss=4.0), evaluation(10, 1.5, kept=0.9), step(20, loss=2.0))
    history = HistoryReader(folder).read()
    assert history.losses == [(10.0, 1.0), (20.0, 0.5)]
    assert history.seconds == [5.0, 10.0]
    assert history.held_out == [(10.0, 1.5)]
    assert history.kept == [(10.0, 0.9)]
    assert history.latest["step"] == 20
    assert history.tokens_per_char == TOKENS_PER_CHAR


def test_a_finished_run_is_read_as_it_was_told(trained_run: Path) -> None:
    history = HistoryReader(RunFolder(trained_run)).read()
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_bytes().splitlines()]
    assert len(history.losses) == sum(line["kind"] == "step" for line in lines) > 0
    assert len(history.held_out) == sum(line["kind"] == "evaluation" for line in lines) > 0
    assert len(history.samples) == len((trained_run / "samples.jsonl").read_bytes().splitlines()) > 0
    assert history.latest["step"] == 150
    # Training and held-out text are of one kind here, so both losses must be of one size.
    assert history.losses[-1][1] == pytest.approx(history.held_out[-1][1], rel=0.5)


def test_what_is_told_later_is_added(folder: RunFolder) -> None:
    reader = HistoryReader(folder)
    assert told(reader.read()) == told(RunHistory())
    append(folder.metrics, step(10))
    append(folder.samples, {"step": 10, "samples": ["a"]})
    assert len(reader.read().losses) == 1
    append(folder.metrics, step(20), evaluation(20, 2.0))
    append(folder.samples, {"step": 20, "samples": ["b"]})
    history = reader.read()
    assert [at for at, _ in history.losses] == [10.0, 20.0]
    assert [line["samples"] for line in history.samples] == [["a"], ["b"]]
    assert told(reader.read()) == told(HistoryReader(folder).read())


def test_half_a_line_is_left_for_later(folder: RunFolder) -> None:
    reader = HistoryReader(folder)
    line = json.dumps(step(30)).encode() + b"\n"
    for end in range(len(line)):
        folder.metrics.write_bytes(line[:end]) if end == 0 else append_bytes(folder.metrics, line[end - 1 : end])
        assert reader.read().losses == []
    append_bytes(folder.metrics, b"\n")
    assert [at for at, _ in reader.read().losses] == [30.0]


def append_bytes(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def test_nothing_is_lost_that_was_told_before_the_corpus_could_be_read(folder: RunFolder) -> None:
    append(folder.metrics, step(10))
    shutil.rmtree(folder.corpus)
    reader = HistoryReader(folder)
    assert reader.read().losses == []
    write_corpus(folder)
    assert [at for at, _ in reader.read().losses] == [10.0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"parts": {}}', '{"parts": {"train": {"tokens": 5, "characters": 0}}}', '{"parts": 3}'],
)
def test_a_damaged_corpus_tells_nothing(folder: RunFolder, content: str) -> None:
    (folder.corpus / "corpus.json").write_text(content)
    append(folder.metrics, step(10))
    assert told(HistoryReader(folder).read()) == told(RunHistory())


def test_a_resumed_run_that_cuts_back_is_read_anew(folder: RunFolder) -> None:
    reader = HistoryReader(folder)
    append(folder.metrics, step(10), evaluation(10, 3.0), step(20), step(30), evaluation(30, 1.0))
    append(folder.samples, {"step": 10, "samples": ["a"]}, {"step": 30, "samples": ["c"]})
    before = reader.read()
    assert before.best == (30.0, 1.0)
    folder.cut_back(20)
    after = reader.read()
    assert [at for at, _ in after.losses] == [10.0, 20.0]
    assert after.best == (10.0, 3.0)
    assert [line["step"] for line in after.samples] == [10]
    # Whoever still draws the old one sees it whole.
    assert len(before.losses) == 3


def test_a_resumed_run_is_read_anew_even_when_it_has_told_more_by_then(folder: RunFolder) -> None:
    reader = HistoryReader(folder)
    append(folder.metrics, step(10, loss=9.0), step(20, loss=9.0))
    reader.read()
    folder.cut_back(10)
    append(folder.metrics, *(step(at, loss=1.0) for at in range(20, 90, 10)))
    history = reader.read()
    assert [at for at, _ in history.losses] == [float(at) for at in range(10, 90, 10)]
    assert history.losses[1][1] == TOKENS_PER_CHAR


def test_a_run_that_loses_its_files_tells_nothing(folder: RunFolder) -> None:
    reader = HistoryReader(folder)
    append(folder.metrics, step(10))
    reader.read()
    shutil.rmtree(folder.path)
    assert told(reader.read()) == told(RunHistory())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"{}",
        b'{"kind": "step"}',
        b'{"kind": "step", "step": "x", "loss": 1.0, "elapsed_seconds": 1.0}',
        b'{"kind": "step", "step": 5, "loss": null, "elapsed_seconds": 1.0}',
        b'{"kind": "step", "step": 5, "loss": 1.0, "elapsed_seconds": 1.0}',
        b'{"kind": "evaluation", "step": 5, "evaluation": 3}',
        b'{"kind": "evaluation", "step": 5, "evaluation": {"nats_per_char": 1.0}, "kept": {"nats": 3}}',
        b'{"kind": "split", "step": 5, "parts": 2, "rows": 4}',
    ],
)
def test_a_damaged_line_tells_nothing_and_hides_nothing(folder: RunFolder, line: bytes) -> None:
    append(folder.metrics, step(10), evaluation(10, 2.0, kept=1.0))
    append_bytes(folder.metrics, line + b"\n")
    append(folder.metrics, step(20))
    history = HistoryReader(folder).read()
    assert [at for at, _ in history.losses] == [10.0, 20.0]
    assert (history.held_out, history.kept, len(history.evaluations)) == ([(10.0, 2.0)], [(10.0, 1.0)], 1)


@pytest.mark.parametrize("line", [{"step": 5}, {"samples": ["a"]}, {"step": 5, "samples": "abc"}, {"step": "5"}])
def test_a_damaged_sample_is_left_out(folder: RunFolder, line: dict[str, Any]) -> None:
    append(folder.samples, line, {"step": 7, "samples": ["good"]})
    assert [sample["step"] for sample in HistoryReader(folder).read().samples] == [7]


def test_the_best_of_equals_is_the_first() -> None:
    assert RunHistory().best is None
    assert RunHistory(held_out=[(5.0, 2.0), (10.0, 1.0), (20.0, 1.0)]).best == (10.0, 1.0)
