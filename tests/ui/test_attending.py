"""The Train tab on a host where a run trains only while its page is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ui.test_build import component
from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.errors import GpuRefused
from textgen.limits import Limits
from textgen.studio import Studio
from textgen.ui.attending import attending
from textgen.ui.build import build_page, notices, notices_html
from textgen.workshop import EVERYBODY, TrainSlice, Workshop, train_slice


def workshop(folder: Path, lend: TrainSlice | None) -> Workshop:
    limits = Limits(training_slice_seconds=1e-9, max_runs_training_per_device=0)
    return Workshop(folder / "runs", device="cpu", limits=limits, threads=1, train_slice=lend)


@pytest.fixture
def quick(small_text: Path) -> RunSettings:
    return RunSettings(
        files=(str(small_text),),
        text=TextSettings(vocab_size=300, tokenizer="char"),
        model=ModelSettings(embedding_size=8, hidden_size=12),
        training=TrainingSettings(steps=20, batch_size=4, window=10, evaluations=2, precision="fp32"),
    )


def test_the_page_says_so_beforehand(studio: Studio, tmp_path: Path) -> None:
    host = workshop(tmp_path, train_slice)
    assert notices(host, runs_last=False) == ["train_attended", "runs_lost"]
    assert notices(workshop(tmp_path, None), runs_last=True) == []
    assert notices(None, runs_last=False) == ["train_off"]
    assert "only while this page stays open" in notices_html(["train_attended"], "en")
    config = dict(build_page(studio, workshop=host).get_config_file())
    assert component(config, "train-notice")["visible"]
    # It would time the processor.
    assert not component(config, "train-estimate")["visible"]
    assert component(config, "train-start")["visible"]


@pytest.mark.slow
def test_it_tells_that_it_trains_and_clears_that_at_the_end(quick: RunSettings, tmp_path: Path) -> None:
    host = workshop(tmp_path, train_slice)
    run_id = host.jobs.submit(quick)
    told = list(attending(host, run_id, EVERYBODY, "en"))
    assert host.jobs.view(run_id).state == "finished"
    assert all("while this page stays open" in html for html in told[:-1])
    assert "open" not in told[-1]
    assert list(attending(host, run_id, EVERYBODY, "en")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "words"),
    [("en", ["No GPU is lent: no quota.", "Resume"]), ("zh", ["没有借到 GPU：no quota。", "继续"])],
)
def test_a_refusal_is_told_with_what_to_do(quick: RunSettings, tmp_path: Path, language: Any, words: list[str]) -> None:
    def refuse(*_: Any) -> None:
        raise GpuRefused("no quota")

    host = workshop(tmp_path, refuse)
    run_id = host.jobs.submit(quick)
    *_, last = attending(host, run_id, EVERYBODY, language)
    assert all(word in last for word in words)
    assert host.jobs.view(run_id).state == "paused"


def test_elsewhere_nobody_has_to_stay(quick: RunSettings, tmp_path: Path) -> None:
    host = workshop(tmp_path, None)
    run_id = host.jobs.submit(quick)
    assert list(attending(host, run_id, EVERYBODY, "en")) == []
    assert host.jobs.view(run_id).state == "queued"
