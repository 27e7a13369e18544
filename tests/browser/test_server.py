"""The server as whoever runs one meets it: it is told to end, and it stands behind a proxy under a path."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import pages, served
from tests.reverse_proxy import ReverseProxy
from textgen.benchmarks.page import _generate_function

pytestmark = [pytest.mark.browser, pytest.mark.slow]
_WAIT = 150_000
_DEADLINE_SECONDS = 150.0
# A shipped model, run by the reference: as much as the page may ask for takes it some seconds.
MODEL, SLOW = "fairy-tales", ("--backend", "torch", "--threads", "1")
SHIPPED = Path(__file__).parents[2] / "checkpoints"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Listener:
    """Somebody whom a server streams to, in a thread of their own; `messages` are what came so far."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def complete(self, address: str) -> None:
        asked = {"model": MODEL, "prompt": "Mira ", "max_tokens": 4000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=asked, timeout=_DEADLINE_SECONDS) as stream:
            self._take(stream)

    def generate(self, address: str) -> None:
        """As a page does when Generate is pressed."""
        function, inputs, _ = _generate_function(httpx.get(f"{address}/config", timeout=60).json())
        values = {"document": "Mira ", "length": 1000, "seed": "1", "ignore-eos": True}
        data = [values.get(part["props"].get("elem_id"), part["props"].get("value")) for part in inputs]
        asked = {"data": data, "fn_index": function, "session_hash": "listener"}
        httpx.post(f"{address}/gradio_api/queue/join", json=asked, timeout=60).raise_for_status()
        url = f"{address}/gradio_api/queue/data?session_hash=listener"
        with httpx.stream("GET", url, timeout=_DEADLINE_SECONDS) as stream:
            self._take(stream)

    def _take(self, stream: httpx.Response) -> None:
        """Raises where the connection breaks instead of coming to its end."""
        for line in stream.iter_lines():
            if line.startswith("data:"):
                content = line.removeprefix("data:").strip()
                self.messages.append({"msg": "done"} if content == "[DONE]" else json.loads(content))


def test_a_server_that_is_to_end_gives_streams_an_end(tmp_path: Path) -> None:
    with served(SHIPPED, tmp_path, *SLOW) as server, ThreadPoolExecutor() as threads:
        listeners = Listener(), Listener()
        following: list[Future[None]] = [
            threads.submit(listeners[0].complete, server.address),
            threads.submit(listeners[1].generate, server.address),
        ]
        wait_until(lambda: all(len(listener.messages) > 4 for listener in listeners))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(_DEADLINE_SECONDS) == 0
        for future in following:
            future.result(
                0.1
            )  # raises for a broken connection; that it has come to its end is known before the server's
        completed, page = (listener.messages for listener in listeners)
        assert completed[-1] == {"msg": "done"}
        assert completed[-2]["error"]["code"] == "shutting_down"
        assert all(choice["finish_reason"] is None for message in completed[:-2] for choice in message["choices"])
        (last,) = [message for message in page if message["msg"] == "process_completed"]
        assert last["success"] is True
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.address)


def test_control_c_ends_an_idle_server_at_once(tmp_path: Path) -> None:
    with served(SHIPPED, tmp_path) as server, httpx.Client(base_url=server.address) as client:
        assert client.get("/healthz").json()["status"] == "ok"  # and keeps its connection open
        wait_until(lambda: client.get("/healthz").json()["ready"])  # though nobody has asked for a text
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(_DEADLINE_SECONDS) == 0
        assert time.monotonic() - started < 30
        assert server.told().count("\n") == 1


def test_behind_a_proxy_under_a_path_everything_works_and_nothing_leaves_the_path(
    browser: Browser, small_text: Path, tmp_path: Path
) -> None:
    options = ("--root-path", "/studio")
    with served(SHIPPED, tmp_path, *options, TEXTGEN_SHARED="1") as server:
        proxy = ReverseProxy(server.address, "/studio")
        with proxy.running() as address, pages(browser) as open_:
            page = open_(address, address="/")
            page.locator("#document textarea").fill("Mira ")
            page.locator("#generate").click()
            expect(page.locator("#status .link")).to_be_visible(timeout=_WAIT)
            text = page.locator("#document textarea").input_value()
            assert text.startswith("Mira ")
            assert len(text) > len("Mira ")
            page.get_by_role("tab", name="Train").click()
            page.locator("#train-start").wait_for()
            page.set_input_files("#train-files input[type=file]", [str(small_text)])
            expect(page.locator("#import-report li")).to_have_count(1, timeout=_WAIT)
            page.locator("#language").click()
            expect(page.locator("#train-start")).to_contain_text("开始", timeout=_WAIT)
            (cookie,) = [item for item in page.context.cookies() if item.get("name") == "textgen_owner"]
            assert cookie.get("path") == "/studio"
            assert httpx.get(f"{address}/healthz").json()["status"] == "ok"
            asked = {"model": MODEL, "prompt": "Mira ", "max_tokens": 4}
            answer = httpx.post(f"{address}/v1/completions", json=asked, timeout=60).json()
            assert answer["choices"][0]["text"] != ""
        assert proxy.strayed == []
