"""The queue of training runs: one small SQLite database beside their folders.

A run has a row here while it waits or trains, and none otherwise: what became of it stands in its folder. A claim is a
lease: whoever holds it renews it, and a claim that ran out counts as given up. All changes are transactions that take
the write lock at once, so any number of servers, workers and command lines may share the file.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from textgen.errors import CannotWrite, InvalidSetting
from textgen.files import explain_write_errors
from textgen.jobs.fork_gate import ForkGate
from textgen.jobs.process_identity import ProcessIdentity

EntryState = Literal["waiting", "starting", "running"]

_WAIT_FOR_LOCK_SECONDS = 30.0
# A GPU is lent to forks of a server whose other threads look at the queue all the time.
_DATABASE_OPEN = ForkGate()
# One script for each version of the format; PRAGMA user_version counts those that a file has seen.
_MIGRATIONS = (
    """
    CREATE TABLE queue (
        run_id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        device TEXT NOT NULL,
        task TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'starting', 'running')),
        rank INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        claim TEXT,
        lease_until REAL,
        process TEXT
    );
    CREATE INDEX queue_by_rank ON queue (state, rank);
    """,
)


@dataclass(frozen=True)
class QueueEntry:
    """A run that waits or trains. `task` is what its worker is to do, as plain JSON values."""

    run_id: str
    owner: str
    device: str
    state: EntryState
    attempts: int
    claim: str | None
    lease_until: float | None
    process: ProcessIdentity | None
    task: dict[str, Any] = field(default_factory=dict)

    def has_expired(self, now: float) -> bool:
        """Whether it is claimed by somebody who has not renewed the lease."""
        return self.lease_until is not None and self.lease_until < now


class QueueStore:
    """The rows of the queue in the file at `path`, which is made when it is missing.

    Raises `CannotWrite` when the database cannot be opened or written.
    """

    def __init__(
        self, path: Path, *, lease_seconds: float, max_attempts: int, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts
        self._wall_clock = wall_clock
        self._open_or_replace()

    def add(
        self, run_id: str, *, owner: str, device: str, task: dict[str, Any], max_of_owner: int, max_of_all: int
    ) -> bool:
        """Puts a run at the end of the queue; False when it is in it already.

        `InvalidSetting` when the owner has `max_of_owner` runs that wait or train, or all owners `max_of_all`.
        """
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM queue WHERE run_id = ?", (run_id,)).fetchone():
                return False
            (count,) = database.execute("SELECT COUNT(*) FROM queue WHERE owner = ?", (owner,)).fetchone()
            if count >= max_of_owner:
                raise InvalidSetting("runs", f"{count} that wait or train already", f"at most {max_of_owner} at once")
            (of_all,) = database.execute("SELECT COUNT(*) FROM queue").fetchone()
            if of_all >= max_of_all:
                raise InvalidSetting("runs", f"{of_all} of everybody's in the queue already", f"at most {max_of_all}")
            values = (run_id, owner, device, json.dumps(task), self._last_rank(database) + 1)
            database.execute(
                "INSERT INTO queue (run_id, owner, device, task, state, rank) VALUES (?, ?, ?, ?, 'waiting', ?)", values
            )
        return True

    def claim(self, device: str, *, max_running: int) -> QueueEntry | None:
        """Takes the next waiting run of a device for a worker to be started; None when none waits or none may start.

        At most `max_running` runs of a device are under way at once.
        """
        with self._transaction() as database:
            (active,) = database.execute(
                "SELECT COUNT(*) FROM queue WHERE device = ? AND state <> 'waiting'", (device,)
            ).fetchone()
            row = database.execute(
                "SELECT run_id FROM queue WHERE device = ? AND state = 'waiting' ORDER BY rank LIMIT 1", (device,)
            ).fetchone()
            return self._claim(database, row[0]) if row is not None and active < max_running else None

    def claim_run(self, run_id: str) -> QueueEntry | None:
        """Takes this very run, however many others are under way; None when it does not wait."""
        with self._transaction() as database:
            return self._claim(database, run_id)

    def confirm(self, run_id: str, claim: str, process: ProcessIdentity) -> QueueEntry | None:
        """The worker begins; None when the claim is no longer its own: somebody else may have started the run."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE queue SET state = 'running', process = ?, lease_until = ?"
                " WHERE run_id = ? AND claim = ? AND state = 'starting'",
                (json.dumps([process.host, process.pid, process.started]), self._lease_end(), run_id, claim),
            )
            return self._entry(database, run_id) if changed.rowcount else None

    def renew(self, run_id: str, claim: str) -> bool:
        """Extends a lease; False when the claim has been taken away."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE queue SET lease_until = ? WHERE run_id = ? AND claim = ?", (self._lease_end(), run_id, claim)
            )
            return changed.rowcount > 0

    def release(self, run_id: str, claim: str) -> bool:
        """The run is over; False when the claim was somebody else's."""
        with self._transaction() as database:
            return database.execute("DELETE FROM queue WHERE run_id = ? AND claim = ?", (run_id, claim)).rowcount > 0

    def put_back(self, run_id: str, claim: str, task: Mapping[str, Any]) -> bool:
        """The run waits again, for a worker that is to do `task`; False when the claim was somebody else's."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE queue SET state = 'waiting', attempts = 0, claim = NULL, lease_until = NULL, process = NULL,"
                " task = ? WHERE run_id = ? AND claim = ?",
                (json.dumps(dict(task)), run_id, claim),
            )
            return changed.rowcount > 0

    def give_up_start(self, run_id: str, claim: str) -> Literal["again", "failed", "gone"]:
        """A worker could not be started, or died before it did anything: the run waits again.

        Unless that has happened too often: then it is out of the queue.
        """
        with self._transaction() as database:
            row = database.execute(
                "SELECT attempts FROM queue WHERE run_id = ? AND claim = ? AND state <> 'waiting'", (run_id, claim)
            ).fetchone()
            if row is None:
                return "gone"
            if row[0] >= self._max_attempts:
                database.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))
                return "failed"
            database.execute(
                "UPDATE queue SET state = 'waiting', claim = NULL, lease_until = NULL, process = NULL WHERE run_id = ?",
                (run_id,),
            )
            return "again"

    def cancel(self, run_id: str) -> bool:
        """Takes a run that still waits out of the queue; False when it does not wait."""
        with self._transaction() as database:
            return database.execute("DELETE FROM queue WHERE run_id = ? AND state = 'waiting'", (run_id,)).rowcount > 0

    def remove(self, run_id: str) -> QueueEntry | None:
        """Takes a run out of the queue, whoever has claimed it, and says how it stood there."""
        with self._transaction() as database:
            entry = self._entry(database, run_id)
            database.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))
            return entry

    def move(self, run_id: str, by: int, *, among_owner: str | None) -> bool:
        """Lets a waiting run change places with the one `by` places away; False where there is none.

        With `among_owner` only that person's runs are counted: nobody gets in front of others.
        """
        with self._transaction() as database:
            rows = database.execute("SELECT run_id, rank, owner FROM queue WHERE state = 'waiting' ORDER BY rank")
            waiting = [(name, rank) for name, rank, owner in rows if among_owner in (None, owner)]
            place = next((number for number, (name, _) in enumerate(waiting) if name == run_id), None)
            if place is None or not 0 <= place + by < len(waiting):
                return False
            (_, own), (other, theirs) = waiting[place], waiting[place + by]
            database.executemany("UPDATE queue SET rank = ? WHERE run_id = ?", [(theirs, run_id), (own, other)])
            return True

    def entry(self, run_id: str) -> QueueEntry | None:
        """The row of a run."""
        rows = self._read(f"SELECT {_COLUMNS} FROM queue WHERE run_id = ?", run_id)
        return _parsed(rows[0]) if rows else None

    def entries(self) -> list[QueueEntry]:
        """All rows: what trains first, then what waits, in order."""
        return [_parsed(row) for row in self._read(f"SELECT {_COLUMNS} FROM queue ORDER BY state = 'waiting', rank")]

    @property
    def identity(self) -> int:
        """Which file it is: another number once the queue has been deleted and made anew, by whatever process."""
        return int(self._read("PRAGMA application_id")[0][0])

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows, also where the disk is too full for the file beside the database that readers agree by."""
        try:
            with self._connection() as database:
                return database.execute(query, values).fetchall()
        except CannotWrite as error:
            if "locked" in str(error.__cause__):  # somebody is writing: it may be neither as before nor as after
                raise
        as_it_is = f"{self.path.absolute().as_uri()}?immutable=1"
        with self._explained(), _DATABASE_OPEN.inside(), closing(sqlite3.connect(as_it_is, uri=True)) as database:
            return database.execute(query, values).fetchall()

    def _claim(self, database: sqlite3.Connection, run_id: str) -> QueueEntry | None:
        changed = database.execute(
            "UPDATE queue SET state = 'starting', attempts = attempts + 1, claim = ?, lease_until = ?"
            " WHERE run_id = ? AND state = 'waiting'",
            (secrets.token_hex(8), self._lease_end(), run_id),
        )
        return self._entry(database, run_id) if changed.rowcount else None

    def _entry(self, database: sqlite3.Connection, run_id: str) -> QueueEntry | None:
        row = database.execute(f"SELECT {_COLUMNS} FROM queue WHERE run_id = ?", (run_id,)).fetchone()
        return _parsed(row) if row else None

    def _lease_end(self) -> float:
        return self._wall_clock() + self._lease_seconds

    @staticmethod
    def _last_rank(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT COALESCE(MAX(rank), 0) FROM queue").fetchone()[0])

    def _open_or_replace(self) -> None:
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._migrate()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, not writable: nothing is wrong with it
                raise CannotWrite(str(self.path), str(error)) from error
            # Damaged. What waited still says so in its folder, and the manager queues it again.
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    damaged = self.path.with_name(self.path.name + suffix)
                    damaged.rename(damaged.with_name(f"{self.path.stem}.damaged{self.path.suffix}{suffix}"))
            self._migrate()

    def _migrate(self) -> None:
        with self._connected() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("BEGIN IMMEDIATE")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise CannotWrite(str(self.path), f"it has version {version}, made by a newer Textgen Studio")
            if version == 0:
                database.execute(f"PRAGMA application_id = {secrets.randbelow(2**31 - 1) + 1}")
            for number, script in enumerate(_MIGRATIONS[version:], version + 1):
                for statement in filter(str.strip, script.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {number}")
            database.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connect = partial(sqlite3.connect, self.path, timeout=_WAIT_FOR_LOCK_SECONDS, isolation_level=None)
        with _DATABASE_OPEN.inside(), closing(connect()) as database:
            yield database

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._connected() as database:
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                # Somebody has deleted the file under a server, and connecting has made an empty one.
                self._open_or_replace()
            yield database

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CannotWrite(str(self.path), str(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                if database.in_transaction:  # a full disk, say, has ended it already
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


_COLUMNS = "run_id, owner, device, state, attempts, claim, lease_until, process, task"


def _parsed(row: tuple[Any, ...]) -> QueueEntry:
    run_id, owner, device, state, attempts, claim, lease_until, process, task = row
    identity = ProcessIdentity(*json.loads(process)) if process else None
    return QueueEntry(run_id, owner, device, state, attempts, claim, lease_until, identity, json.loads(task))
