"""Stand-ins for torchrun and its ranks: small programs that speak the same way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from textgen.errors import Abandoned, InvalidSetting, ProcessesEnded
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.rank import joined
from textgen.jobs.supervision import Supervised, Supervisor

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 60.0
# A rank whose parent is torchrun.
RANK = "import os, sys, threading; from textgen.jobs.supervision import Supervised; own = Supervised(os.environ); "


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(supervisor: Supervisor, program: str, environment: dict[str, str]) -> None:
    supervisor.run([sys.executable, "-c", program], environment)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_an_end_is_an_end(tmp_path: Path, environment: dict[str, str]) -> None:
    run(Supervisor(tmp_path), "", environment)
    with pytest.raises(ProcessesEnded):
        run(Supervisor(tmp_path), "raise SystemExit(1)", environment)


def test_what_goes_wrong_when_all_is_done_is_no_failure(tmp_path: Path, environment: dict[str, str]) -> None:
    run(Supervisor(tmp_path), RANK + "assert not own.finished; own.finish(); raise SystemExit(1)", environment)
    run(Supervisor(tmp_path), RANK + "raise SystemExit(0 if own.finished else 1)", environment)


def test_processes_that_are_started_again_after_the_end_do_nothing(tmp_path: Path) -> None:
    environment = {"TEXTGEN_SUPERVISION": str(tmp_path)}
    Supervised(environment).finish()
    with pytest.raises(SystemExit) as ended, joined(environment, "cpu"):
        pytest.fail("it began anew")
    assert ended.value.code == 0


def test_the_error_of_a_rank_is_raised_once_and_comes_before_what_it_caused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    supervisor = Supervisor(tmp_path)
    abandoned = RANK + "from textgen.errors import Abandoned; own.tell(Abandoned())"
    with pytest.raises(Abandoned):
        run(supervisor, abandoned, environment)
    told = "; from textgen.errors import InvalidSetting; assert own.tell(InvalidSetting('field', 1, '2'))"
    with pytest.raises(InvalidSetting, match="field: 1 was given; allowed: 2"):
        run(supervisor, abandoned + told, environment)


def test_ranks_are_stopped_in_the_state_that_was_asked(tmp_path: Path, environment: dict[str, str]) -> None:
    supervisor = Supervisor(tmp_path)
    program = RANK + (
        "asked = []; done = threading.Event(); own.watch(lambda state: (asked.append(state), done.set())); "
        "assert own.supervisor.pid == os.getppid(); done.wait(60); own.close(); sys.exit(asked != ['paused'])"
    )
    thread = threading.Thread(target=supervisor.stop, args=("paused",))
    thread.start()
    run(supervisor, program, environment)
    thread.join()


def test_what_was_started_ends_with_an_interrupt(tmp_path: Path, environment: dict[str, str]) -> None:
    """A second Ctrl-C: the supervisor, a process here, leaves at once, and so must its children and theirs."""
    deep = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    program = (
        "import os, signal, sys, pathlib; from textgen.jobs.supervision import Supervisor\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is to ignore it
        f"Supervisor(pathlib.Path({str(tmp_path)!r})).run([sys.executable, '-c', {deep!r}], os.environ)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)
    supervisor = psutil.Process(process.pid)
    wait_for(lambda: len(supervisor.children(recursive=True)) == 2)
    children = supervisor.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert "KeyboardInterrupt" in told
    assert not any(child.is_running() for child in children)


def test_ranks_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(gone.pid)
    assert identity is not None
    told = f'{{"host": "{identity.host}", "pid": {identity.pid}, "started": {identity.started}}}'
    supervised = Supervised({"TEXTGEN_SUPERVISION": str(tmp_path), "TEXTGEN_SUPERVISOR": told})
    assert supervised.asked() is None
    gone.kill()
    gone.wait()
    assert supervised.asked() == "interrupted"


def test_without_a_supervisor_errors_are_left_to_the_rank() -> None:
    supervised = Supervised({})
    assert supervised.asked() is None
    assert not supervised.tell(Abandoned())
