"""Runs in processes of their own, started, watched and killed for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import DEADLINE_SECONDS, LookFor, full_disk, wait_for_state
from textgen.config import RunSettings, update_settings
from textgen.errors import CannotWrite, InvalidSetting, NoRoom, NotFound
from textgen.jobs import manager as manager_module
from textgen.jobs.manager import JobManager, open_queue
from textgen.jobs.people import Person
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunStatus
from textgen.limits import Limits
from textgen.model.checkpoint import is_checkpoint

ANN, BOB, ADMIN = Person("ann"), Person("bob"), Person("", is_admin=True)


def with_training(settings: RunSettings, **changes: object) -> RunSettings:
    return update_settings(settings, training={**settings.training.model_dump(), **changes})


@pytest.fixture
def endless(quick: RunSettings) -> RunSettings:
    return with_training(quick, steps=10_000_000, evaluations=10_000, save_seconds=0.2)


def told(manager: JobManager, run_id: str) -> list[str]:
    return RunFolder(manager.root / run_id).log.read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_a_queue_of_five_goes_on_by_itself_past_one_that_fails(
    manager: JobManager, quick: RunSettings, look_for: LookFor, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    wrong = update_settings(quick, files=(str(empty),))
    ids = [manager.submit(wrong if number == 1 else quick, title=f"run {number}") for number in range(5)]
    positions = {view.title: view.position for view in manager.runs()}
    assert list(positions.items()) == [("run 4", 4), ("run 3", 3), ("run 2", 2), ("run 1", 1), ("run 0", None)]
    assert manager.move(ids[4], -1)
    look_for(ids[3], "finished")
    failed = manager.view(ids[1])
    assert failed.state == "failed"
    assert failed.status.details["error_code"] == "no_text"
    assert str(failed.status.details["error"]).endswith("needed.")
    assert [manager.view(ids[number]).state for number in (0, 2, 4)] == ["finished"] * 3
    begun = [manager.view(run_id).folder.corpus.stat().st_mtime for run_id in (ids[0], ids[2], ids[4], ids[3])]
    assert begun == sorted(begun)
    manager.dispatch()
    assert not manager.is_busy
    assert all("Traceback" not in line for run_id in ids for line in told(manager, run_id))


@pytest.mark.slow
def test_every_verb_does_its_one_thing(manager: JobManager, endless: RunSettings, look_for: LookFor) -> None:
    run, waiting = manager.submit(endless, title="first"), manager.submit(endless)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while look_for(run, "running").status.step == 0:
        assert time.monotonic() < deadline
    with pytest.raises(InvalidSetting, match="one that is running"):
        manager.resume(run)
    manager.pause(waiting)
    assert manager.view(waiting).state == "paused"
    manager.pause(run)
    paused = look_for(run, "paused")
    assert paused.status.step == json.loads((paused.folder.last / "training.json").read_bytes())["step"] > 0
    with pytest.raises(InvalidSetting, match="one that is paused"):
        manager.pause(run)
    manager.resume(run)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while manager.view(run).status.step <= paused.status.step:
        assert time.monotonic() < deadline
    manager.resume(waiting)
    assert manager.view(waiting).position == 1
    manager.stop(waiting)
    assert manager.view(waiting).state == "stopped"
    manager.stop(run)
    stopped = look_for(run, "stopped")
    assert is_checkpoint(stopped.folder.last)
    manager.rename(run, " Tales ")
    assert manager.view(run).title == "Tales"
    with pytest.raises(InvalidSetting, match="title"):
        manager.rename(run, " ")
    manager.resume(run)
    view = look_for(run, "running")
    assert view.status.identity is not None
    manager.discard(run)
    assert view.status.identity.process() is None
    assert not view.folder.path.exists()
    with pytest.raises(NotFound):
        manager.view(run)
    assert [view.run_id for view in manager.runs()] == [waiting]


@pytest.mark.slow
def test_a_run_that_is_still_being_prepared_can_be_paused(
    manager: JobManager, endless: RunSettings, look_for: LookFor
) -> None:
    run = manager.submit(endless)
    manager.pause(run)
    view = look_for(run, "paused")
    assert not view.folder.metrics.exists() or not is_checkpoint(view.folder.best)


_SERVER = """
import sys
from pathlib import Path
from textgen.config import RunSettings
from textgen.jobs.manager import JobManager
manager = JobManager(Path(sys.argv[1]), device="cpu", threads=1, niceness=0)
print(manager.submit(RunSettings.model_validate_json(sys.argv[2])), flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_run_survives_kill_9_of_its_server_and_is_interrupted_by_one_of_its_own(
    manager: JobManager, endless: RunSettings, look_for: LookFor
) -> None:
    command = [sys.executable, "-c", _SERVER, str(manager.root), endless.model_dump_json()]
    server = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    run = server.stdout.readline().strip()
    server.kill()
    server.communicate()
    step = look_for(run, "running").status.step
    deadline = time.monotonic() + DEADLINE_SECONDS
    while manager.view(run).status.step <= step:
        assert time.monotonic() < deadline
    identity = manager.view(run).status.identity
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    while manager.view(run).state == "running":
        assert time.monotonic() < deadline
    assert manager.view(run).state == "interrupted"
    manager.dispatch()
    assert not manager.is_busy
    manager.resume(run)
    look_for(run, "running")


def test_a_run_whose_worker_died_before_it_said_a_word_waits_again(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick)
    store = open_queue(manager.root, manager.limits)
    for attempt in range(1, manager.limits.max_start_attempts + 1):
        claimed = store.claim("cpu", max_running=1)
        assert claimed is not None
        assert claimed.attempts == attempt
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
            process = ProcessIdentity.of(worker.pid)
            assert process is not None
            assert store.confirm(run, str(claimed.claim), process) is not None
            manager.dispatch()
            assert manager.view(run).position is None
            worker.kill()
        manager.dispatch()
        assert manager.view(run).position == (1 if attempt < manager.limits.max_start_attempts else None)
    assert manager.view(run).state == "failed"
    assert "ended at once" in str(manager.view(run).status.details["error"])


def test_a_base_stays_while_a_run_waits_for_it(manager: JobManager, quick: RunSettings, trained_run: Path) -> None:
    manager = limited(manager)
    base = manager.submit(quick)
    manager.stop(base)
    last = manager.root / base / "checkpoints" / "last"
    shutil.copytree(trained_run / "checkpoints" / "last", last)
    waiting = manager.submit(update_settings(quick, base=str(last)), title="Tales anew")
    with pytest.raises(InvalidSetting, match="one that “Tales anew” is to start from"):
        manager.discard(base)
    assert manager.view(base).state == "stopped"
    manager.discard(waiting)
    manager.discard(base)
    assert manager.runs() == []


def test_what_is_asked_right_after_a_kill_counts(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick)
    store = open_queue(manager.root, manager.limits)
    claimed = store.claim("cpu", max_running=1)
    assert claimed is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        process = ProcessIdentity.of(worker.pid)
        assert process is not None
        store.confirm(run, str(claimed.claim), process)
        folder = manager.view(run).folder
        folder.replace_status(RunStatus("running", 0.0, process))
        worker.kill()
    manager.resume(run, longer={"minutes": 5.0})
    entry = store.entry(run)
    assert entry is not None
    assert (entry.state, entry.task["longer"]) == ("waiting", {"minutes": 5.0})


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_a_run_that_fell_out_of_the_queue_ends_and_nobody_is_interrupted(
    manager: JobManager, quick: RunSettings, verb: str
) -> None:
    manager = limited(manager)
    run = manager.submit(quick)
    assert open_queue(manager.root, manager.limits).cancel(run)
    # A SIGINT to this process, which wrote the status, would end the tests.
    getattr(manager, verb)(run)
    assert manager.view(run).state == {"pause": "paused", "stop": "stopped"}[verb]


@pytest.mark.slow
def test_a_worker_keeps_to_the_limits_of_the_host(tmp_path: Path, quick: RunSettings, endless: RunSettings) -> None:
    limits = Limits(max_runs_training_per_device=2)
    manager = JobManager(tmp_path / "runs", device="cpu", limits=limits, threads=1, niceness=0)
    try:
        _, other, next_ = (manager.submit(settings) for settings in (quick, endless, quick))
        # Nobody else dispatches: it is the worker of the first run that starts the third one beside the second.
        wait_for_state(manager, next_, "finished")
        assert manager.view(other).state == "running"
    finally:
        for view in manager.runs():
            manager.discard(view.run_id)


_DISPATCHER = """
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textgen.jobs.manager import JobManager
manager = JobManager(Path(sys.argv[1]), device="cpu", threads=1, niceness=0)
print("ready", flush=True)
sys.stdin.readline()
while manager.is_busy:
    manager.dispatch()
    time.sleep(0.02)
"""


@pytest.mark.slow
def test_eight_servers_on_one_folder_start_every_run_once(manager: JobManager, quick: RunSettings) -> None:
    ids = []
    for number in range(3):
        folder = RunFolder(manager.root / f"run-{number}")
        folder.write_settings(quick)
        folder.replace_status(RunStatus("queued", time.time()))
        ids.append(folder.path.name)
    command = [sys.executable, "-c", _DISPATCHER, str(manager.root)]
    servers = [subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(8)]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    manager.recover()  # as after a crash: what is queued by its own account gets its place again
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
    for server in servers:
        server.communicate(timeout=DEADLINE_SECONDS)
        assert server.returncode == 0
    for run in ids:
        assert manager.view(run).state == "finished"
        assert sum(line.startswith("training ") for line in told(manager, run)) == 1
        evaluations = [json.loads(line) for line in manager.view(run).folder.metrics.read_bytes().splitlines()]
        assert [line["step"] for line in evaluations if line["kind"] == "evaluation"] == [20, 40, 60]


def limited(manager: JobManager, **limits: Any) -> JobManager:
    """One for the same runs, with these limits, that starts none of them."""
    kept = Limits(max_runs_training_per_device=0, **limits)
    return JobManager(manager.root, device="cpu", threads=1, niceness=0, limits=kept)


def test_people_see_and_touch_their_own_runs_only(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    assert [view.run_id for view in manager.runs(ANN)] == [run]
    assert manager.runs(BOB) == []
    assert manager.view(run, ADMIN).owner == "ann"
    for verb in (manager.view, manager.pause, manager.stop, manager.discard, manager.resume):
        with pytest.raises(NotFound) as caught:
            verb(run, BOB)
        assert run not in str(caught.value).replace(f"“{run}”", "")
    with pytest.raises(NotFound):
        manager.rename(run, "mine", BOB)
    with pytest.raises(NotFound):
        manager.move(run, -1, BOB)
    assert manager.view(run, ANN).state == "queued"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/etc", "../runs", "queue.sqlite3", "a\0b", "x" * 5000, "link", ".hidden"]
)
def test_an_id_never_becomes_a_path(manager: JobManager, tmp_path: Path, name: str) -> None:
    outside = RunFolder(tmp_path / "outside")
    outside.write_settings(RunSettings())
    outside.write_status("finished")
    manager.root.mkdir(exist_ok=True)
    (manager.root / "link").symlink_to(outside.path)
    RunFolder(manager.root / ".hidden").write_settings(RunSettings())
    for verb in (manager.view, manager.discard):
        with pytest.raises(NotFound):
            verb(name)
    assert outside.settings() == RunSettings()


def test_what_a_person_may_have_is_bounded(manager: JobManager, quick: RunSettings, tmp_path: Path) -> None:
    manager = limited(manager, max_queued_runs_per_person=2, max_runs_per_person=3)
    first = manager.submit(quick, person=ANN)
    manager.submit(quick, person=ANN)
    with pytest.raises(InvalidSetting, match="2 that wait or train already"):
        manager.submit(quick, person=ANN)
    manager.submit(quick, person=BOB)
    manager.stop(first, ANN)
    manager.submit(quick, person=ANN)
    with pytest.raises(InvalidSetting, match="3 kept already"):
        manager.submit(quick, person=ANN)
    with pytest.raises(InvalidSetting, match="at most 2"):
        JobManager(tmp_path / "short", device="cpu", limits=Limits(max_run_minutes=2)).submit(
            with_training(quick, steps=None, minutes=3.0)
        )
    with pytest.raises(NoRoom, match="must be free"):
        JobManager(tmp_path / "full", device="cpu", limits=Limits(min_free_disk_bytes=10**18)).submit(quick)
    taken = manager.person_bytes(BOB)
    manager = limited(manager, max_person_bytes=taken)
    with pytest.raises(InvalidSetting, match="MB kept already"):
        manager.submit(quick, person=BOB)
    assert len(list(manager.root.iterdir())) == len(manager.runs()) + 1


def test_nothing_starts_before_there_is_room_on_the_disk(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick)
    assert not manager.view(run).waits_for_room
    full = JobManager(manager.root, device="cpu", limits=Limits(min_free_disk_bytes=10**18))
    full.dispatch()
    assert (full.view(run).state, full.view(run).waits_for_room) == ("queued", True)
    assert [entry.state for entry in open_queue(manager.root, manager.limits).entries()] == ["waiting"]
    roomy = JobManager(manager.root, device="cpu", limits=Limits(min_free_disk_bytes=1))
    roomy.dispatch()
    assert roomy.view(run).state == "preparing"
    roomy.discard(run)


def test_uploaded_text_moves_into_the_run_or_stays_where_it_was(
    manager: JobManager, quick: RunSettings, tmp_path: Path
) -> None:
    texts = tmp_path / "upload"
    texts.mkdir()
    (texts / "0001.txt").write_text("A tale.\n" * 400)
    settings = update_settings(quick, files=(str(texts / "0001.txt"),))
    manager = limited(manager, max_queued_runs_per_person=0)
    with pytest.raises(InvalidSetting):
        manager.submit(settings, texts=texts)
    assert (texts / "0001.txt").is_file()
    assert manager.runs() == []
    manager = limited(manager)
    run = manager.submit(settings, texts=texts, title="A tale")
    folder = manager.view(run).folder
    assert not texts.exists()
    assert folder.settings().files == (str(folder.texts / "0001.txt"),)


def test_a_lost_queue_is_made_again_from_the_folders(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    for path in manager.root.glob("queue.sqlite3*"):
        path.unlink()
    again = JobManager(manager.root, device="cpu", limits=manager.limits)
    assert again.view(run).position is None
    again.recover()
    assert again.view(run).position == 1
    assert again.view(run, ANN).owner == "ann"


def test_all_that_was_let_in_is_queued_again_though_fewer_would_be_now(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    runs = [manager.submit(quick, person=ANN) for _ in range(3)]
    for path in manager.root.glob("queue.sqlite3*"):
        path.unlink()
    again = limited(manager, max_queued_runs_per_person=1, max_queued_runs=1)
    again.recover()
    assert sorted(again.view(run).position or 0 for run in runs) == [1, 2, 3]


def test_what_waits_is_queued_again_where_the_queue_is_deleted_under_a_server(
    manager: JobManager, quick: RunSettings
) -> None:
    manager = limited(manager)
    runs = [manager.submit(quick, person=ANN) for _ in range(2)]
    for path in manager.root.glob("queue.sqlite3*"):
        path.unlink()
    # Another process, such as a run that trains, may be the one that makes it anew.
    JobManager(manager.root, device="cpu", limits=manager.limits)
    assert [manager.view(run).position for run in runs] == [None, None]
    manager.dispatch()
    assert sorted(manager.view(run).position or 0 for run in runs) == [1, 2]


def test_what_was_being_discarded_when_the_server_died_is_gone(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    manager.view(run).folder.discarded.touch()
    assert manager.runs() == []
    # Half-way through a folder that is out of sight already.
    (manager.root / ".gone-20260101-000000-abc" / "checkpoints").mkdir(parents=True)
    manager.recover()
    assert not (manager.root / run).exists()
    assert not list(manager.root.glob(".gone-*"))


def test_a_run_that_goes_while_it_is_looked_at_is_none(
    manager: JobManager, quick: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = limited(manager)
    run, kept = manager.submit(quick, person=ANN), manager.submit(quick, person=ANN)
    folder = RunFolder(manager.root / run)
    folder.about.write_text("{}", encoding="utf-8")
    read_status = RunFolder.read_status

    def late(looked_at: RunFolder) -> RunStatus | None:
        status = read_status(looked_at)
        if looked_at.path == folder.path:
            shutil.rmtree(folder.path, ignore_errors=True)
        return status

    monkeypatch.setattr(RunFolder, "read_status", late)
    assert [view.run_id for view in manager.runs()] == [kept]


def test_what_cannot_be_written_is_told(
    manager: JobManager, quick: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    manager.pause(run)
    # A folder cannot be deleted as the file is that stands there else.
    manager.view(run).folder.control.mkdir()
    with pytest.raises(CannotWrite, match=r"control\.json"):
        manager.resume(run)
    (tmp_path / "texts").mkdir()
    (manager.root / "taken").touch()
    monkeypatch.setattr(manager_module, "new_run_id", lambda _: "taken")
    with pytest.raises(CannotWrite, match="taken"):
        manager.submit(quick, texts=tmp_path / "texts")


def test_a_folder_that_may_not_be_searched_is_no_run(
    manager: JobManager, quick: RunSettings, unsearchable: Callable[[Path], None]
) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    (manager.root / "lost+found").mkdir()
    unsearchable(manager.root / "lost+found")
    manager.recover()
    assert [view.run_id for view in manager.runs()] == [run]
    assert manager.fetched.names(ADMIN) == []


def test_what_is_discarded_makes_room_on_a_full_disk(
    tmp_path: Path, quick: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
    manager = JobManager(tmp_path / "runs", device="cpu", limits=limits)
    run = manager.submit(quick)
    rmtree = shutil.rmtree
    with full_disk() as make_room:

        def delete(path: Path, ignore_errors: bool = False) -> None:
            rmtree(path, ignore_errors=ignore_errors)
            make_room()

        monkeypatch.setattr(shutil, "rmtree", delete)
        manager.discard(run)
    assert not manager.is_busy
    assert [path.name for path in manager.root.iterdir()] == ["queue.sqlite3"]


def test_a_worker_that_writes_beside_brings_nothing_back(manager: JobManager, quick: RunSettings) -> None:
    manager = limited(manager)
    run = manager.submit(quick, person=ANN)
    folder = manager.view(run).folder
    folder.discarded.touch()
    folder.write_about(title="still here")
    assert manager.runs() == []


class TestMinutes:
    """How long a run may take in all."""

    @pytest.fixture
    def manager(self, manager: JobManager) -> JobManager:
        return limited(manager)

    @pytest.fixture
    def used(self, manager: JobManager, quick: RunSettings) -> str:
        """A run that has trained for nearly all of the time that it may take."""
        run = manager.submit(quick, person=ANN)
        manager.pause(run, ANN)
        folder = manager.view(run).folder
        folder.last.mkdir(parents=True)
        seconds = 60.0 * (manager.limits.max_run_minutes - 2.0)
        (folder.last / "training.json").write_text(json.dumps({"elapsed_seconds": seconds}))
        return run

    def test_what_is_left_may_be_trained(self, manager: JobManager, used: str) -> None:
        with pytest.raises(InvalidSetting, match=r"minutes: 5.0 was given; allowed: at most 2\."):
            manager.resume(used, ANN, longer={"minutes": 5.0})
        assert manager.view(used).state == "paused"
        manager.resume(used, ANN, longer={"minutes": 1.5})
        assert manager.view(used).state == "queued"

    def test_one_that_has_used_it_up_is_not_taken_up_in_vain(self, manager: JobManager, used: str) -> None:
        folder = manager.view(used).folder
        seconds = 60.0 * manager.limits.max_run_minutes
        (folder.last / "training.json").write_text(json.dumps({"elapsed_seconds": seconds}))
        with pytest.raises(InvalidSetting, match="minutes"):
            manager.resume(used, ANN)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"elapsed_seconds": "x"}', '{"elapsed_seconds": NaN}'])
    def test_what_nobody_can_read_hinders_nobody(self, manager: JobManager, used: str, content: str) -> None:
        (manager.view(used).folder.last / "training.json").write_text(content)
        manager.resume(used, ANN)
        assert manager.view(used).state == "queued"


def test_a_run_of_the_command_line_is_among_them(manager: JobManager, trained_run: Path) -> None:
    manager.root.mkdir(exist_ok=True)
    (manager.root / "mine").symlink_to(trained_run)
    assert manager.runs() == []  # a link may lead anywhere
    beside = JobManager(trained_run.parent, device="cpu")
    view = beside.view(trained_run.name)
    assert (view.title, view.state, view.status.step) == (trained_run.name, "finished", 150)
