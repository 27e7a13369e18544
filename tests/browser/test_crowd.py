"""Many people at once, through the whole of the app: server, queue, threads, engine."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from textgen.benchmarks.page import crowd

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# Gradio alone has forty threads.
USERS, TOKENS = 60, 12


def test_more_people_than_a_queue_of_gradios_holds_all_get_their_text(server: str) -> None:
    # Not in this thread: the browser's event loop runs in it.
    with ThreadPoolExecutor(1) as thread:
        together = thread.submit(asyncio.run, crowd(server, USERS, TOKENS)).result(200)
        (alone,) = thread.submit(asyncio.run, crowd(server, 1, TOKENS)).result(60)
    assert all(text.startswith(f"Citizen {number}:\n") for number, (_, _, text) in enumerate(together))
    assert all(len(text) > len(f"Citizen {number}:\n") for number, (_, _, text) in enumerate(together))
    assert together[0][2] == alone[2]
