"""Training that goes on only while somebody stays, slice by slice, without a GPU and without who lends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from textgen.config import RunSettings
from textgen.errors import GpuRefused
from textgen.jobs.attended import AttendedTraining
from textgen.jobs.manager import JobManager
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_view import RunView
from textgen.jobs.training_run import start_run
from textgen.jobs.worker import train_slice
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

# The first report ends a slice: several of them a second.
LIMITS = Limits(training_slice_seconds=1e-9)


@pytest.fixture
def manager(tmp_path: Path) -> JobManager:
    return JobManager(tmp_path / "runs", device="cpu", limits=LIMITS, threads=1, niceness=0, attended=True)


@pytest.fixture
def training(manager: JobManager) -> AttendedTraining:
    return AttendedTraining(manager, train_slice)


def follow(training: AttendedTraining, run_id: str) -> list[RunView]:
    return list(training.follow(run_id, EVERYBODY))


def test_slices_make_the_run_that_was_never_interrupted(
    manager: JobManager, training: AttendedTraining, quick: RunSettings, tmp_path: Path
) -> None:
    run_id = manager.submit(quick)
    views = follow(training, run_id)
    assert [view.state for view in views if view.state == "preparing"]
    assert [view.state for view in views].count("queued") > 2
    assert views[-1].state == "finished"
    steps = [view.status.step for view in views if view.state == "queued"]
    assert steps == sorted(set(steps))
    for _ in start_run(tmp_path / "whole", quick, device="cpu").events():
        pass
    sliced, whole = (
        load_checkpoint(path).model.state_dict()
        for path in (views[-1].folder.last, tmp_path / "whole" / "checkpoints" / "last")
    )
    assert all(torch.equal(tensor, whole[name]) for name, tensor in sliced.items())
    lines = [json.loads(line) for line in views[-1].folder.metrics.read_bytes().splitlines()]
    assert sum(line["kind"] == "evaluation" for line in lines) == quick.training.evaluations
    assert not manager.is_busy


def test_whoever_leaves_leaves_it_saved_and_paused(
    manager: JobManager, training: AttendedTraining, quick: RunSettings
) -> None:
    run_id = manager.submit(quick)
    following = training.follow(run_id, EVERYBODY)
    view = next(view for view in following if view.status.step > 0)
    following.close()
    assert manager.view(run_id).state == "paused"
    assert json.loads((view.folder.last / "training.json").read_bytes())["step"] == view.status.step
    assert not manager.is_busy
    assert follow(training, run_id) == []
    manager.resume(run_id)
    assert follow(training, run_id)[-1].state == "finished"
    # Each slice but the first would begin anew what `longer` asks for, were it still in the queue.
    manager.resume(run_id, longer={"steps": 30})
    assert follow(training, run_id)[-1].status.step == 90


def test_what_is_refused_is_told_and_nothing_is_lost(manager: JobManager, quick: RunSettings) -> None:
    left = [True, True, False]

    def lend(runs: Path, run_id: str, limits: Limits) -> None:
        if not left.pop(0):
            raise GpuRefused("The quota is used up.")
        train_slice(runs, run_id, limits)

    run_id = manager.submit(quick)
    with pytest.raises(GpuRefused, match=r"^No GPU is lent: The quota is used up\.$"):
        follow(AttendedTraining(manager, lend), run_id)
    view = manager.view(run_id)
    assert view.state == "paused"
    assert view.status.step > 0


def test_nobody_is_told_of_a_run_that_was_discarded(manager: JobManager, quick: RunSettings) -> None:
    run_id = manager.submit(quick)

    def lend(runs: Path, run_id: str, limits: Limits) -> None:
        manager.discard(run_id)
        raise GpuRefused("GPU task aborted")

    assert [view.state for view in follow(AttendedTraining(manager, lend), run_id)][-1] == "queued"


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_what_is_asked_between_two_slices_is_done(
    manager: JobManager, training: AttendedTraining, quick: RunSettings, verb: str, state: str
) -> None:
    run_id = manager.submit(quick)
    steps = 0
    for view in training.follow(run_id, EVERYBODY):
        if view.state == "queued" and view.status.step > 0:
            steps = view.status.step
            getattr(manager, verb)(run_id)
    assert (manager.view(run_id).state, manager.view(run_id).status.step) == (state, steps)


def test_a_run_that_cannot_begin_says_why(
    manager: JobManager, training: AttendedTraining, quick: RunSettings, tmp_path: Path
) -> None:
    run_id = manager.submit(quick.model_copy(update={"files": (str(tmp_path / "missing.txt"),)}))
    last = follow(training, run_id)[-1]
    assert last.state == "failed"
    assert "missing.txt" in last.status.details["error"]


def test_a_run_that_nobody_can_take_is_not_asked_for_again_and_again(manager: JobManager, quick: RunSettings) -> None:
    run_id = manager.submit(quick)
    asked: list[str] = []
    training = AttendedTraining(manager, lambda runs, run_id, limits: asked.append(run_id))
    assert [view.state for view in follow(training, run_id)][-1] == "queued"
    assert asked == [run_id]
    assert manager.view(run_id).state == "paused"


def test_another_persons_is_not_to_be_had(manager: JobManager, training: AttendedTraining, quick: RunSettings) -> None:
    run_id = manager.submit(quick, person=Person("ann"))
    with pytest.raises(LookupError):
        next(training.follow(run_id, Person("ben")))
    assert manager.view(run_id).state == "queued"


def test_after_a_restart_nothing_waits_for_who_is_gone(manager: JobManager, quick: RunSettings) -> None:
    run_id = manager.submit(quick)
    manager.recover()
    assert manager.view(run_id).state == "interrupted"
    assert not manager.is_busy
