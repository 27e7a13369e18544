"""Forks that wait for threads, in processes of their own: what goes wrong there hangs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def told_by(code: str) -> str:
    """What a program says that has a `gate`, and `forked`: the exit status of a fork that runs a function."""
    begin = """
import os, sys, threading
from textgen.jobs.fork_gate import ForkGate

gate = ForkGate()

def forked(run):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    run()
    os._exit(7)
"""
    command = [sys.executable, "-c", begin + code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_fork_waits_until_the_others_are_outside() -> None:
    told = told_by(
        """
inside, told = threading.Event(), []

def stay():
    with gate.inside():
        with gate.inside():
            inside.set()
            threading.Event().wait(0.3)
        told.append("left")

thread = threading.Thread(target=stay)
thread.start()
inside.wait()
status = forked(lambda: None)
print(status, told)
"""
    )
    assert told == "7 ['left']\n"


def test_whoever_forks_inside_can_go_on_in_both() -> None:
    told = told_by(
        """
def again():
    # Out of the first `with`, and from another thread, as if nothing had been.
    left.close()
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(forked(lambda: gate.inside().__enter__())))
    thread.start()
    thread.join()
    os._exit(statuses[0] + 1)

from contextlib import ExitStack
with ExitStack() as left:
    left.enter_context(gate.inside())
    status = forked(again)
print(status, forked(lambda: None))
"""
    )
    assert told == "8 7\n"


def test_one_that_is_kept_from_waiting_leaves_the_gate_open() -> None:
    told = told_by(
        """
import signal
entered, leave = threading.Event(), threading.Event()

def stay():
    with gate.inside():
        entered.set()
        leave.wait()

thread = threading.Thread(target=stay)
thread.start()
entered.wait()
sys.unraisablehook = lambda _: None
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    status = forked(lambda: None)
except KeyboardInterrupt:
    status = "interrupted"
leave.set()
thread.join()
with gate.inside():
    print("inside", forked(lambda: None))
"""
    )
    assert told == "inside 7\n"
