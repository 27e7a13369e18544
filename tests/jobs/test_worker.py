"""What befalls the process that trains: kill -9 at any moment, a full disk, somebody's wishes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forking import start_process
from tests.jobs.conftest import DEADLINE_SECONDS, wait_for_state
from textgen.config import RunSettings, update_settings
from textgen.jobs import worker
from textgen.jobs.manager import JobManager, open_queue
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

KILLS = 20
Start = Callable[[str], BaseProcess]


@pytest.fixture
def manager(tmp_path: Path) -> JobManager:
    """One that starts nothing itself."""
    return JobManager(tmp_path / "runs", device="cpu", limits=Limits(max_runs_training_per_device=0))


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Starts the worker of the next run in the queue."""
    started: list[BaseProcess] = []

    def start_(manager: JobManager, target: Callable[[list[str]], None] = _run_worker) -> BaseProcess:
        entry = open_queue(manager.root, Limits()).claim("cpu", max_running=1)
        assert entry is not None
        arguments = ["--runs", str(manager.root), "--run", entry.run_id, "--claim", str(entry.claim)]
        process = start_process(target, arguments)
        started.append(process)
        return process

    yield start_
    for process in started:
        process.kill()
        process.join()


def _run_worker(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    os._exit(worker.main(arguments))


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        process.join(0.005)
        assert process.is_alive(), "it ended before it was to"


def finish(process: BaseProcess) -> int | None:
    process.join(DEADLINE_SECONDS)
    return process.exitcode


def saved_step(folder: RunFolder) -> int:
    try:
        return int(json.loads((folder.last / "training.json").read_bytes())["step"])
    except (OSError, ValueError):
        return 0


def newest_sample(folder: RunFolder) -> str:
    lines = folder.samples.read_bytes().splitlines()
    return str(json.loads(lines[-1])["samples"][0]) if lines else ""


def evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.metrics.read_bytes().splitlines()]
    return [line["evaluation"] for line in lines if line["kind"] == "evaluation"]


def assert_same_run(run: RunFolder, other: RunFolder) -> None:
    for one, two in ((run.last, other.last), (run.best, other.best)):
        weights = load_checkpoint(two).model.state_dict()
        assert all(
            torch.equal(tensor, weights[name]) for name, tensor in load_checkpoint(one).model.state_dict().items()
        )
    assert evaluations(run) == evaluations(other)
    assert run.samples.exists() == other.samples.exists()
    assert not run.samples.exists() or run.samples.read_bytes() == other.samples.read_bytes()


def submit(manager: JobManager, settings: RunSettings, **training: object) -> RunFolder:
    settings = update_settings(settings, training={**settings.training.model_dump(), **training})
    return manager.view(manager.submit(settings)).folder


def state(folder: RunFolder) -> RunState:
    status = folder.read_status()
    assert status is not None
    return status.state


def test_killed_twenty_times_it_ends_with_the_weights_of_a_run_that_never_was(
    manager: JobManager, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    work = {"steps": 480, "evaluations": 24}
    quick = update_settings(quick, sample_prompts=())
    whole = submit(manager, quick, **work)
    assert finish(start(manager)) == 0
    killed = submit(manager, quick, **work)
    moments = random.Random(7)
    for _ in range(KILLS):
        before = saved_step(killed)
        process = start(manager)
        wait_for(lambda before=before: saved_step(killed) > before, process)  # type: ignore[misc]
        process.join(moments.uniform(0.0, 0.05))
        process.kill()
        assert finish(process) == -signal.SIGKILL
        assert manager.view(killed.path.name).state == "interrupted"
        manager.dispatch()
        manager.resume(killed.path.name)
    assert finish(start(manager)) == 0
    assert state(killed) == "finished"
    assert_same_run(killed, whole)


def test_a_stop_by_the_system_loses_nothing(
    manager: JobManager, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    whole = submit(manager, quick, steps=200)
    assert finish(start(manager)) == 0
    run = submit(manager, quick, steps=200)
    process = start(manager)
    wait_for(run.metrics.exists, process)
    process.terminate()
    assert finish(process) == 0
    assert state(run) == "interrupted"
    assert 0 < saved_step(run) < 200
    manager.resume(run.path.name)
    assert finish(start(manager)) == 0
    assert_same_run(run, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 4 MB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run([str(shutil.which("umount")), str(folder)], check=True)


def test_a_full_disk_ends_a_run_with_a_sentence_and_the_last_checkpoint_stays(
    small_disk: Path, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    limits = Limits(max_runs_training_per_device=0, min_free_disk_bytes=0)
    manager = JobManager(small_disk / "runs", device="cpu", limits=limits)
    run = submit(manager, quick, steps=10_000_000, evaluations=10_000, save_seconds=0.05)
    process = start(manager)
    wait_for(lambda: saved_step(run) > 0, process)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    assert finish(process) == 1
    status = run.read_status()
    assert status is not None
    assert status.state == "failed"
    assert status.details["error_code"] == "cannot_write"
    assert "No space left" in str(status.details["error"])
    kept = saved_step(run)
    assert kept > 0
    load_checkpoint(run.last)
    filler.unlink()
    manager.dispatch()
    manager.resume(run.path.name)
    process = start(manager)
    wait_for(lambda: saved_step(run) > kept, process)


def test_prompts_may_change_while_it_trains(
    manager: JobManager, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    settings = update_settings(quick, sample_prompts=("Mira ",))
    run = submit(manager, settings, steps=10_000_000, evaluations=10_000)
    process = start(manager)
    wait_for(run.samples.exists, process)
    run.write_prompts(["小猫", "Old "])
    wait_for(lambda: newest_sample(run).startswith("小猫"), process)
    run.prompts.write_text("[1")  # half a file: what was asked at the start
    wait_for(lambda: newest_sample(run).startswith("Mira"), process)


def test_a_run_ends_when_its_time_is_up(
    tmp_path: Path, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    limits = Limits(max_runs_training_per_device=0, max_run_minutes=0.005)
    manager = JobManager(tmp_path / "runs", device="cpu", limits=limits)
    run = submit(manager, quick, steps=10_000_000)
    assert finish(start(manager)) == 0
    assert state(run) == "stopped"
    assert saved_step(run) > 0
    status = run.read_status()
    assert status is not None
    assert status.details["most_minutes"] == 0.005


def test_a_run_of_just_as_long_as_it_may_take_makes_its_last_evaluation(
    tmp_path: Path, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    limits = Limits(max_runs_training_per_device=0, max_run_minutes=0.02)
    manager = JobManager(tmp_path / "runs", device="cpu", limits=limits)
    run = submit(manager, quick, minutes=0.02, steps=None, evaluations=2)
    assert finish(start(manager)) == 0
    assert state(run) == "finished"
    lines = [json.loads(line) for line in run.metrics.read_bytes().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"][-1] == saved_step(run)


def test_a_claim_that_has_gone_starts_nothing(
    manager: JobManager, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    run = submit(manager, quick)
    process = start(manager)
    process.kill()
    finish(process)
    arguments = ["--runs", str(manager.root), "--run", run.path.name, "--claim", "another"]
    assert worker.main(arguments) == worker.NOT_CLAIMED
    assert state(run) == "queued"


def test_a_run_taken_up_before_its_worker_has_left_is_not_lost(
    manager: JobManager, quick: RunSettings, start: Callable[..., BaseProcess]
) -> None:
    run = submit(manager, quick)
    assert finish(start(manager, _run_worker_and_go_on)) == 0
    assert quick.training.steps is not None
    assert wait_for_state(manager, run.path.name, "finished").status.step == quick.training.steps + 5


def _run_worker_and_go_on(arguments: list[str]) -> None:
    """As `_run_worker`, but the run is resumed for five steps more as soon as it is at its end."""
    work = worker._work

    def and_again(*given: Any) -> int:
        status = work(*given)
        _, runs, _, run_id, *_ = arguments
        manager = JobManager(Path(runs), device="cpu", limits=Limits(max_runs_training_per_device=0))
        manager.resume(run_id, longer={"steps": 5})
        return status

    pytest.MonkeyPatch().setattr(worker, "_work", and_again)
    _run_worker(arguments)


def test_a_bug_is_told_as_one(
    manager: JobManager, quick: RunSettings, start: Callable[[JobManager], BaseProcess]
) -> None:
    run = submit(manager, quick)
    run.config.write_text('{"nonsense": 1}')
    assert finish(start(manager)) == 1
    status = run.read_status()
    assert status is not None
    assert (status.state, status.details["error_code"]) == ("failed", "invalid_setting")
