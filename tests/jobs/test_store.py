from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import full_disk
from textgen.errors import CannotWrite, InvalidSetting
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.store import QueueStore

ME = ProcessIdentity("here", 1, 2.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> QueueStore:
    return QueueStore(tmp_path / "queue.sqlite3", lease_seconds=10, max_attempts=2, wall_clock=clock)


def add(store: QueueStore, *names: str, owner: str = "ann", device: str = "cpu", **task: Any) -> None:
    for name in names:
        assert store.add(name, owner=owner, device=device, task=task, max_of_owner=5, max_of_all=99)


def order(store: QueueStore) -> list[str]:
    return [entry.run_id for entry in store.entries()]


def test_runs_are_claimed_in_the_order_they_came_and_one_at_a_time_for_each_device(store: QueueStore) -> None:
    add(store, "a", "b", minutes=3)
    add(store, "c", device="cuda")
    first, other = store.claim("cpu", max_running=1), store.claim("cuda", max_running=1)
    assert first is not None
    assert other is not None
    assert (first.run_id, first.state, first.attempts, first.task) == ("a", "starting", 1, {"minutes": 3})
    assert other.run_id == "c"
    assert store.claim("cpu", max_running=1) is None
    second = store.claim("cpu", max_running=2)
    assert second is not None
    assert second.run_id == "b"
    assert store.release("a", str(first.claim))
    assert order(store) == ["b", "c"]


def test_a_run_is_queued_once_and_a_person_can_queue_so_many(store: QueueStore) -> None:
    add(store, "a", "b", "c", "d", "e")
    assert not store.add("a", owner="ann", device="cpu", task={}, max_of_owner=9, max_of_all=99)
    with pytest.raises(InvalidSetting, match="at most 5 at once"):
        store.add("f", owner="ann", device="cpu", task={}, max_of_owner=5, max_of_all=99)
    with pytest.raises(InvalidSetting, match="5 of everybody's in the queue already"):
        store.add("f", owner="bob", device="cpu", task={}, max_of_owner=5, max_of_all=5)
    add(store, "f", owner="bob")
    assert order(store) == ["a", "b", "c", "d", "e", "f"]


def test_only_the_holder_of_a_claim_begins_renews_and_ends(store: QueueStore, clock: Clock) -> None:
    add(store, "a")
    claimed = store.claim("cpu", max_running=1)
    assert claimed is not None
    claim = str(claimed.claim)
    assert store.confirm("a", "another", ME) is None
    confirmed = store.confirm("a", claim, ME)
    assert confirmed is not None
    assert (confirmed.state, confirmed.process) == ("running", ME)
    assert store.confirm("a", claim, ME) is None
    clock.now += 9
    assert not store.renew("a", "another")
    assert store.renew("a", claim)
    clock.now += 9
    assert [entry.run_id for entry in store.entries() if entry.has_expired(clock())] == []
    clock.now += 2
    assert [entry.run_id for entry in store.entries() if entry.has_expired(clock())] == ["a"]
    assert not store.release("a", "another")
    assert store.release("a", claim)
    assert not store.renew("a", claim)


def test_one_run_can_be_claimed_out_of_turn_and_put_back(store: QueueStore) -> None:
    add(store, "a", "b", minutes=3)
    claimed = store.claim_run("b")
    assert claimed is not None
    assert (claimed.state, claimed.attempts) == ("starting", 1)
    assert store.claim_run("b") is None
    assert store.claim_run("nobody") is None
    assert not store.put_back("b", "somebody else's", {})
    assert store.confirm("b", str(claimed.claim), ME) is not None
    assert store.put_back("b", str(claimed.claim), {"minutes": 4})
    back = store.entry("b")
    assert back is not None
    assert (back.state, back.attempts, back.claim, back.process) == ("waiting", 0, None, None)
    assert back.task == {"minutes": 4}
    assert order(store) == ["a", "b"]


def test_a_start_that_comes_to_nothing_is_tried_again_but_not_for_ever(store: QueueStore) -> None:
    add(store, "a", "b")
    for outcome in ("again", "failed"):
        claimed = store.claim("cpu", max_running=1)
        assert claimed is not None
        assert claimed.run_id == "a"
        assert store.give_up_start("a", "another") == "gone"
        assert store.give_up_start("a", str(claimed.claim)) == outcome
    assert order(store) == ["b"]


def test_what_waits_can_be_cancelled_and_what_is_removed_cannot_begin(store: QueueStore) -> None:
    add(store, "a", "b")
    claimed = store.claim("cpu", max_running=1)
    assert claimed is not None
    assert not store.cancel("a")
    assert store.cancel("b")
    assert store.remove("b") is None
    removed = store.remove("a")
    assert removed is not None
    assert removed.claim == claimed.claim
    assert store.confirm("a", str(claimed.claim), ME) is None
    assert store.entry("a") is None


def test_waiting_runs_change_places_a_persons_own_among_themselves(store: QueueStore) -> None:
    add(store, "a", "b")
    add(store, "x", owner="bob")
    add(store, "c")
    assert store.move("c", -1, among_owner=None)
    assert order(store) == ["a", "b", "c", "x"]
    assert not store.move("x", -1, among_owner="bob")
    assert store.move("c", -2, among_owner="ann")
    assert order(store) == ["c", "b", "a", "x"]
    assert not store.move("c", -1, among_owner=None)
    assert not store.move("x", -1, among_owner="ann")
    store.claim("cpu", max_running=1)
    assert not store.move("c", 1, among_owner=None)


def test_a_damaged_file_makes_room_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    path.write_bytes(b"no database " * 500)
    store = QueueStore(path, lease_seconds=1, max_attempts=1)
    assert store.entries() == []
    assert (tmp_path / "queue.damaged.sqlite3").read_bytes().startswith(b"no database")


def test_a_file_that_is_deleted_under_a_server_is_made_anew(store: QueueStore) -> None:
    add(store, "a")
    identity = store.identity
    assert identity == store.identity != 0
    store.path.unlink()
    assert store.entries() == []
    assert store.entry("a") is None
    assert store.identity != identity
    add(store, "a", "b")
    store.path.unlink()
    add(store, "c")
    assert order(store) == ["c"]
    store.path.unlink()
    store.path.parent.rmdir()
    for act in (store.entries, lambda: store.remove("a")):
        with pytest.raises(CannotWrite, match="unable to open"):
            act()
    store.path.parent.mkdir()
    assert store.entries() == []


def test_a_full_disk_can_be_looked_at(store: QueueStore) -> None:
    add(store, "a", "b")
    with full_disk():
        assert order(store) == ["a", "b"]
        assert store.entry("b") is not None
        with pytest.raises(CannotWrite):
            store.remove("a")
    assert order(store) == ["a", "b"]


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, store: QueueStore) -> None:
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(CannotWrite, match="newer"):
        QueueStore(store.path, lease_seconds=1, max_attempts=1)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite):
        QueueStore(tmp_path / "file" / "queue.sqlite3", lease_seconds=1, max_attempts=1)


_CLAIMER = """
import sys
from contextlib import closing
from pathlib import Path
from textgen.jobs.store import QueueStore
store = QueueStore(Path(sys.argv[1]), lease_seconds=60, max_attempts=1)
print("ready", flush=True)
sys.stdin.readline()
while (entry := store.claim("cpu", max_running=1000)) is not None:
    print(entry.run_id, flush=True)
"""


@pytest.mark.slow
def test_eight_processes_never_claim_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    command = [sys.executable, "-c", _CLAIMER, str(path)]
    processes = [  # the file is made by all at once
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    store = QueueStore(path, lease_seconds=60, max_attempts=1)
    names = [f"run-{number}" for number in range(200)]
    for name in names:
        store.add(name, owner="", device="cpu", task={}, max_of_owner=1000, max_of_all=1000)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    claimed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(name for names in claimed for name in names) == sorted(names)
    assert all(process.returncode == 0 for process in processes)


_FORKER = """
import multiprocessing, sys, threading
from contextlib import closing
from pathlib import Path
from textgen.jobs.store import QueueStore

def use(name, rounds):
    store = QueueStore(Path(sys.argv[1]), lease_seconds=60, max_attempts=1)
    for number in range(rounds):
        run = f"{name}-{number}"
        assert store.add(run, owner="", device="cpu", task={}, max_of_owner=100, max_of_all=100)
        assert store.claim_run(run).run_id == run
        assert store.remove(run).state == "starting"

def use_on(name):
    used = 0
    while not ended.is_set():
        use(f"{name}-{used}", 10)
        used += 1
    finished.append(name)

ended, finished = threading.Event(), []
threads = [threading.Thread(target=use_on, args=(name,)) for name in ("first", "second")]
for thread in threads:
    thread.start()
for number in range(10):
    fork = multiprocessing.get_context("fork").Process(target=use, args=(f"fork-{number}", 10))
    fork.start()
    fork.join(60)
    print(fork.exitcode, flush=True)
    fork.kill()
ended.set()
for thread in threads:
    thread.join()
print(*finished)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_of_a_process_whose_threads_use_the_queue_can_use_it_too(tmp_path: Path) -> None:
    # As on ZeroGPU. Five of eight such forks waited for ever where they came between.
    path = tmp_path / "queue.sqlite3"
    command = [sys.executable, "-c", _FORKER, str(path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    *exit_codes, finished = ended.stdout.splitlines()
    assert (exit_codes, sorted(finished.split()), ended.stderr) == (["0"] * 10, ["first", "second"], "")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_ended_a_transaction_is_told(store: QueueStore) -> None:
    # SQLite itself undoes all where the disk is full, say, and then nothing is left to undo.
    with closing(sqlite3.connect(store.path)) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON queue BEGIN SELECT RAISE(ROLLBACK, 'disk is full'); END")
    with pytest.raises(CannotWrite, match="disk is full"):
        add(store, "one")
    assert store.entries() == []
