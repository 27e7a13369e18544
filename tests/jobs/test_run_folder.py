from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from textgen.config import RunSettings, TextSettings, TrainingSettings
from textgen.errors import CannotWrite, InvalidSetting
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.jobs.run_status import RunState

SETTINGS = RunSettings(
    files=("/texts/月.txt",), text=TextSettings(split="blank-line"), training=TrainingSettings(minutes=1.5)
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", wall_clock=lambda: 1234.5)


def step_event(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_settings_are_read_as_they_were_written(folder: RunFolder) -> None:
    folder.create(SETTINGS)
    assert folder.settings() == SETTINGS
    assert "月" in folder.config.read_text(encoding="utf-8")


def test_an_empty_folder_may_become_a_run(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.create(SETTINGS)
    assert folder.settings() == SETTINGS


@pytest.mark.parametrize("state", ["running", "finished", "stopped"])
def test_a_run_is_not_overwritten(folder: RunFolder, state: RunState) -> None:
    folder.create(SETTINGS)
    folder.write_status(state)
    with pytest.raises(InvalidSetting, match="--resume"):
        folder.create(RunSettings())
    assert folder.settings() == SETTINGS


@pytest.mark.parametrize("state", ["failed", "preparing"])
def test_a_run_that_ended_before_it_trained_makes_room(folder: RunFolder, state: RunState) -> None:
    folder.create(SETTINGS)
    folder.write_status(state)
    for name in ("corpus", ".corpus.old", ".corpus.123.new"):
        (folder.path / name).mkdir()
    for name in (".lock", ".status.json.123.tmp"):
        (folder.path / name).touch()
    folder.create(RunSettings(files=("b.txt",)))
    assert folder.settings().files == ("b.txt",)
    assert not list(folder.path.glob("*corpus*"))
    folder.last.mkdir(parents=True)
    with pytest.raises(InvalidSetting, match="out"):
        folder.create(SETTINGS)


def test_a_run_killed_before_it_was_written_makes_room(folder: RunFolder) -> None:
    folder.path.mkdir()
    (folder.path / ".config.json.123.tmp").touch()
    folder.lock("out").release()
    folder.create(SETTINGS)
    assert folder.settings() == SETTINGS


def test_a_folder_is_locked_once(folder: RunFolder) -> None:
    lock = folder.lock("out")
    with pytest.raises(InvalidSetting, match=r"^resume: .* a run that no other process is training"):
        RunFolder(folder.path).lock("resume")
    lock.release()
    RunFolder(folder.path).lock("resume").release()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"\.lock"):
        RunFolder(tmp_path / "file" / "run").lock("out")


@pytest.mark.parametrize("status", [b"[]", b"{", b'{"state": 1}', b"\xff"])
def test_a_damaged_status_keeps_its_folder(folder: RunFolder, status: bytes) -> None:
    folder.create(SETTINGS)
    folder.status.write_bytes(status)
    with pytest.raises(InvalidSetting, match="out"):
        folder.create(SETTINGS)


def test_other_things_are_not_overwritten(folder: RunFolder) -> None:
    folder.path.mkdir()
    (folder.path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InvalidSetting, match="a new or empty folder"):
        folder.create(SETTINGS)
    file = RunFolder(folder.path / "holiday.jpg")
    with pytest.raises(InvalidSetting, match="not a file"):
        file.create(SETTINGS)


def test_what_is_no_run_has_no_settings(folder: RunFolder) -> None:
    with pytest.raises(InvalidSetting, match="the folder of a training run"):
        folder.settings()
    folder.create(SETTINGS)
    folder.config.write_text('{"nonsense": 1}')
    with pytest.raises(InvalidSetting, match="nonsense"):
        folder.settings()
    folder.config.write_text('{"training": ')
    with pytest.raises(InvalidSetting, match="config"):
        folder.settings()


def test_the_status_names_process_and_time(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.write_status("running", step=3)
    assert json.loads(folder.status.read_bytes()) == {
        "state": "running",
        "host": platform.node(),
        "pid": os.getpid(),
        "pid_started": psutil.Process().create_time(),
        "heartbeat": 1234.5,
        "step": 3,
    }


def test_events_become_lines(folder: RunFolder) -> None:
    folder.create(SETTINGS)
    folder.append_metrics("step", step_event(10))
    folder.append_metrics("evaluation", {"step": 10, "best": True})
    folder.append_samples({"step": 10, "samples": ["一\r\n\u2028\x1b"]})
    step, evaluation = lines(folder.metrics)
    assert (step["kind"], step["step"], step["loss"]) == ("step", 10, 3.0)
    assert evaluation == {"kind": "evaluation", "step": 10, "best": True}
    assert lines(folder.samples) == [{"step": 10, "samples": ["一\r\n\u2028\x1b"]}]


def test_cutting_back_drops_what_will_be_told_again_and_what_a_crash_cut_short(folder: RunFolder) -> None:
    folder.create(SETTINGS)
    for step in (10, 20, 30):
        folder.append_metrics("step", step_event(step))
        folder.append_samples({"step": step, "samples": ["一\u2028\x85二"]})
    with folder.metrics.open("ab") as stream:
        stream.write(b'{"kind": "step", "step": 4')
    folder.cut_back(20)
    assert [line["step"] for line in lines(folder.metrics)] == [10, 20]
    assert [line["step"] for line in lines(folder.samples)] == [10, 20]
    with folder.metrics.open("ab") as stream:
        stream.write(b'{"step": 5}')  # whole, but the next line would be glued to it
    folder.cut_back(20)
    assert folder.metrics.read_bytes().endswith(b"\n")
    folder.cut_back(0)
    assert folder.metrics.read_bytes() == b""


@pytest.mark.parametrize("evaluated", [True, False])
def test_what_comes_before_the_first_step_is_told_once(folder: RunFolder, evaluated: bool) -> None:
    folder.create(SETTINGS)
    folder.append_metrics("evaluation", {"step": 0, "best": True})
    folder.append_samples({"step": 0, "samples": ["一"]})
    folder.cut_back(0, evaluated=evaluated)
    assert folder.samples.read_bytes() == b""
    assert (folder.metrics.read_bytes() == b"") == (not evaluated)


def test_a_folder_that_is_gone_is_told(folder: RunFolder) -> None:
    with pytest.raises(CannotWrite, match=r"metrics\.jsonl"):
        folder.append_metrics("step", step_event(1))


def test_a_run_means_its_best_checkpoint_else_its_last(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    best, last = run / "checkpoints" / "best", run / "checkpoints" / "last"
    assert resolve_checkpoint(run) == best
    assert resolve_checkpoint(last) == last
    best.rename(run / "checkpoints" / ".best.old")  # as a crash may leave it
    assert resolve_checkpoint(run) == best
    shutil.rmtree(best)
    assert resolve_checkpoint(run) == last
    shutil.rmtree(last)
    assert resolve_checkpoint(run) == run
    assert resolve_checkpoint(tmp_path / "missing") == tmp_path / "missing"


def test_what_is_written_to_a_run_that_was_discarded_makes_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for write in (
        lambda: folder.write_about(title="Tales"),
        lambda: folder.write_prompts(["Once"]),
        lambda: folder.write_control("pause"),
        lambda: folder.write_status("paused"),
    ):
        with pytest.raises(CannotWrite):
            write()
    folder.write_failure(RuntimeError("nobody is there to read it"))
    assert not folder.path.exists()
