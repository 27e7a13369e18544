"""Small runs for the queue."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.jobs.manager import JobManager
from textgen.jobs.run_view import RunView

DEADLINE_SECONDS = 240.0
LookFor = Callable[[str, str], RunView]


@pytest.fixture
def quick(small_text: Path) -> RunSettings:
    """A run of a second."""
    return RunSettings(
        files=(str(small_text),),
        text=TextSettings(vocab_size=300, tokenizer="char"),
        model=ModelSettings(embedding_size=8, hidden_size=12),
        training=TrainingSettings(
            steps=60, batch_size=4, window=10, evaluations=3, precision="fp32", input_dropout=0.1, weight_dropout=0.1
        ),
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[JobManager]:
    """A manager whose runs end with the test."""
    manager = JobManager(tmp_path / "runs", device="cpu", threads=1, niceness=0)
    yield manager
    for view in manager.runs():
        manager.discard(view.run_id)


@pytest.fixture
def look_for(manager: JobManager) -> LookFor:
    """Waits until a run is in a state; nobody dispatches meanwhile, so that workers must do it."""

    def look(run_id: str, state: str) -> RunView:
        return wait_for_state(manager, run_id, state)

    return look


def wait_for_state(manager: JobManager, run_id: str, *states: str) -> RunView:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        view = manager.view(run_id)
        if view.state in states:
            return view
        log = view.folder.log
        told = log.read_text(encoding="utf-8") if log.exists() else ""
        assert time.monotonic() < deadline, f"{view.state} instead of {states}: {view.status} {told}"
        assert view.is_active, f"{view.state} instead of {states}: {view.status} {told}"
        time.sleep(0.05)


@contextmanager
def full_disk() -> Iterator[Callable[[], None]]:
    """No file of this process can grow, until the function is called that this gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield make_room
    finally:
        make_room()
