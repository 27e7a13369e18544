"""Processes for tests that start within milliseconds, since they have in memory what takes seconds to import.

They are forked from a server of a single thread. Whoever forks where others run, as in the process of the tests, may
get a lock that is held by a thread it did not get, and waits for ever.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.training.together", "textgen.jobs.training_run", "textgen.jobs.worker"])
_ROOT = Path(__file__).parents[1]

pipe = _CONTEXT.Pipe


def start_process(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that calls `target`, a function of a module, with what can be pickled."""
    process = _CONTEXT.Process(target=target, args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_ROOT), prepend=os.pathsep)  # for the server, which starts with the first
        process.start()
    return process
