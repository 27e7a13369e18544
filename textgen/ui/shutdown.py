"""The end of a server: nobody new is let in, whoever is being written to gets an end, and then it is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import gradio as gr

# Together well below the 10 s that whoever sends SIGTERM mostly waits.
_DRAIN_SECONDS = 3.0
_CONNECTIONS_SECONDS = 5
_LOOK_SECONDS = 0.02


@contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """Set by the first SIGTERM or Ctrl-C; a second one ends the program at once, as either does otherwise.

    To be used in the main thread, which alone can be told of signals.
    """
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(_number: int, _frame: FrameType | None) -> None:
        restore()
        asked.set()

    for number in before:
        signal.signal(number, first)
    try:
        yield asked
    finally:
        restore()


def end_gracefully(page: gr.Blocks, end_streams: Callable[[], None]) -> None:
    """Ends a launched page: new connections are refused, `end_streams` is called, and what it leaves is still sent.

    Whoever does not take it within some seconds is cut off.
    """
    server = page.server
    assert server is not None
    server.config.timeout_graceful_shutdown = _CONNECTIONS_SECONDS
    server.should_exit = True
    end_streams()
    # Gradio would tell those whom it still owes an answer that it stopped unexpectedly.
    deadline = time.monotonic() + _DRAIN_SECONDS
    while any(page._queue.pending_event_ids_session.values()) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    # On a Space that also waits for a second server of Gradio's, which may take its time.
    threading.Thread(target=page.close, kwargs={"verbose": False}, daemon=True).start()
    server.thread.join(_CONNECTIONS_SECONDS + 1)


def leave() -> NoReturn:
    """Ends the process, with exit status 0, when everything is closed.

    A thread may still be inside native code, with a model that it loads. Were the interpreter taken down meanwhile, the
    program would end with an abort. So what `multiprocessing` does at the end is done here: on ZeroGPU there are forks.
    """
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
