"""Runs that torchrun trains in two processes: real ones, and so a few seconds to start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.conftest import DEADLINE_SECONDS, wait_for_state
from textgen.config import RunSettings, TrainingBudget, update_settings
from textgen.jobs.manager import JobManager
from textgen.jobs.rank import Rank
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.supervision import Supervised
from textgen.jobs.training_run import TrainingRun, start_run
from textgen.limits import Limits
from textgen.progress import ignore_progress
from textgen.training.distributed import Ranks

pytestmark = pytest.mark.slow


def evaluations(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return {line["step"]: line["evaluation"]["nats_per_char"] for line in lines if line["kind"] == "evaluation"}


def wait_for(condition: Callable[[], Any], alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        assert alive(), "it ended before it was to"
        time.sleep(0.01)


def ranks_of(pid: int) -> list[psutil.Process]:
    """The processes that torchrun has started for the process `pid`."""
    (torchrun,) = psutil.Process(pid).children()
    return torchrun.children()


def test_a_run_of_the_page_goes_on_from_the_last_save_when_one_of_its_processes_is_killed(
    quick: RunSettings, tmp_path: Path
) -> None:
    settings = update_settings(
        quick,
        sample_prompts=(),
        training={**quick.training.model_dump(), "steps": 240, "save_seconds": 0.2, "evaluations": 5},
    )
    whole = start_run(tmp_path / "whole", settings, device="cpu")
    for _ in whole.events():
        pass
    limits = Limits(training_processes=3)  # of which four streams keep two busy
    manager = JobManager(tmp_path / "runs", device="cpu", threads=1, niceness=0, limits=limits)
    run_id = manager.submit(settings)
    try:
        folder = manager.view(run_id).folder
        saved = folder.last / "training.json"
        wait_for(saved.exists, lambda: manager.view(run_id).is_active)
        status = folder.read_status()
        assert status is not None
        assert status.identity is not None
        before = ranks_of(status.identity.pid)
        assert len(before) == 2
        before[1].kill()
        view = wait_for_state(manager, run_id, "finished")
        log = folder.log.read_text(encoding="utf-8")
        assert log.count("training 3") == 2, log
        assert "2 processes from step 0" in log
        assert view.status.step == 240
        assert view.status.identity == status.identity
        assert evaluations(folder.path) == pytest.approx(evaluations(whole.folder.path), abs=5e-3)
        assert folder.read_about()["estimate"]["training"]["tokens_per_second"] > 0
    finally:
        manager.discard(run_id)


def test_a_run_is_trained_longer_once_however_often_torchrun_starts_again(quick: RunSettings, tmp_path: Path) -> None:
    settings = update_settings(quick, training={**quick.training.model_dump(), "steps": 8})
    run = start_run(tmp_path / "run", settings, device="cpu")
    for _ in run.events():
        pass
    longer = TrainingBudget(steps=4)

    def steps(rank: Rank) -> int:
        taken_up = rank.resume(tmp_path / "run", longer=longer, progress=ignore_progress)
        assert isinstance(taken_up, TrainingRun)
        for _ in taken_up.events():
            pass
        return taken_up.trainer.step

    # Its processes were started again before it had been extended: it still is to be.
    again = Rank(Ranks(), "cpu", Supervised({}), restarted=True)
    assert steps(again) == 12
    assert steps(again) == 12
    # A system may round a start time differently.
    extended_by = run.folder.read_about()["extended_by"]
    run.folder.write_about(extended_by={**extended_by, "started": extended_by["started"] + 0.5})
    assert steps(again) == 12
    # Another torchrun is told anew.
    run.folder.write_about(extended_by={**extended_by, "pid": 1})
    assert steps(again) == 16
    run.folder.write_about(extended_by=None)
    assert steps(again) == 20
    assert steps(Rank(Ranks(), "cpu", Supervised({}), restarted=False)) == 24


def test_the_command_line_trains_in_two_processes_and_stops_at_ctrl_c(quick: RunSettings, tmp_path: Path) -> None:
    config, run = tmp_path / "config.json", tmp_path / "run"
    endless = {**quick.training.model_dump(), "steps": 10_000_000, "evaluations": 10_000}
    config.write_text(update_settings(quick, training=endless).model_dump_json())
    command = [sys.executable, "-m", "textgen", "train", "--config", str(config), "--device", "cpu", "--json"]
    command += ["--nproc-per-node", "2", "--quiet", "--out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(run)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for((run / "metrics.jsonl").exists, lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert b"2 processes" in err
    assert b"Traceback" not in err
    status = RunFolder(run).read_status()
    assert status is not None
    assert (status.state, status.identity and status.identity.pid) == ("stopped", process.pid)
    assert out.count(b"\n") == 1, (out, err.decode())
    result = json.loads(out)
    assert result["step"] == status.step > 0
