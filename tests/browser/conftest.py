"""A real server in its own process and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from textgen.config import ModelSettings
from textgen.jobs.run_folder import resolve_checkpoint
from textgen.model import LanguageModel
from textgen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from textgen.text.tokenizer import EOS_ID, Tokenizer

_START_SECONDS = 120.0
# Two cores carry a server, a browser, a training and another worker's tests: what is true in the end may take a while.
expect.set_options(timeout=30_000)
# On a Space a thread of gradio's, for those who edit an app while it runs, walks through all modules once. It may
# stumble over one that is imported meanwhile; nothing of ours needs it.
_STUMBLED = re.compile(
    r"^Exception in thread .*\nTraceback .*\n(?: .*\n)*? .*spaces/reloading/.*\n(?: .*\n)*"
    r"RuntimeError: dictionary changed size during iteration$",
    re.MULTILINE,
)
_BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> Path:
    """Two models: "small" has learned something, "endless" is large and slow, untrained and never ends by itself."""
    folder = tmp_path_factory.mktemp("models")
    small = load_checkpoint(resolve_checkpoint(trained_run))
    save_checkpoint(folder / "small", small, weight_format="float16")
    tokenizer = Tokenizer.from_bytes(small.tokenizer_bytes)
    shape = {"embedding_size": 512, "hidden_size": 2048, "num_layers": 2}
    model = LanguageModel(ModelSettings(vocab_size=tokenizer.vocab_size, **shape))
    model.reset_parameters(0)
    with torch.no_grad():
        model.output_bias[EOS_ID] = -50.0
    save_checkpoint(folder / "endless", Checkpoint(model, small.tokenizer_bytes))
    return folder


@pytest.fixture(scope="session")
def one_model(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only the small one, for servers that are to write little: a large one takes them seconds to make ready."""
    folder = tmp_path_factory.mktemp("one-model")
    shutil.copytree(models_folder / "small", folder / "small")
    return folder


@dataclass
class Served:
    """A running `textgen serve`."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def served(models: Path, folder: Path, *options: str, **environment: str) -> Iterator[Served]:
    """A server with its runs in `folder`; whatever it has told at the end, no stack trace is in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{port}.txt"
    command = [sys.executable, "-m", "textgen", "serve", "--port", str(port), "--models", str(models), *options]
    environment = {**os.environ, "TEXTGEN_RUNS": str(folder / "runs"), **environment}
    # As nice as it is elsewhere, a run would hardly move beside the tests that share the machine with it.
    environment.setdefault("TEXTGEN_TRAINING_NICENESS", "1")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(address, process, log)
            yield Served(address, process, log)
        finally:
            process.terminate()
            process.wait(30)
            # pytest shows this where a test fails, and nowhere else.
            print(log.read_text(encoding="utf-8", errors="replace"))
    assert "Traceback" not in _STUMBLED.sub("", log.read_text(encoding="utf-8", errors="replace"))


@pytest.fixture(scope="package")
def server(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `textgen serve`.

    It runs the reference: fast backends are at the end of a text before anybody can press Stop.
    """
    slow = ("--backend", "torch", "--threads", "1")
    with served(models_folder, tmp_path_factory.mktemp("server"), *slow) as running:
        yield running.address


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _answers(address):
            return
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
    pytest.fail(f"no answer within {_START_SECONDS:.0f} s: {log.read_text(encoding='utf-8', errors='replace')}")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="package")
def browser(chromium_path: str) -> Iterator[Browser]:
    """Not for the session: while Playwright runs, its event loop forbids any other in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=_BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Opens the page of the server that all share: see `pages`."""
    with pages(browser) as open_:

        def open_shared(forgive: tuple[str, ...] = (), address: str = "", **context: Any) -> Page:
            return open_(server, forgive, address, **context)

        yield open_shared


@contextmanager
def pages(browser: Browser, *, ready: str = "#document textarea") -> Iterator[Callable[..., Page]]:
    """Opens pages in browser contexts of their own; at the end nothing may have gone wrong in them.

    That is: no request to another host, no error in the console, no exception. `forgive` names what a test causes;
    `ready` is what a page that has come has.
    """
    problems: list[str] = []
    forgiven: list[str] = []

    def watch(page: Page, server: str) -> None:
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.on("console", lambda message: problems.append(_told(message)) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if _is_foreign(request.url, server) else None)

    with ExitStack() as stack:

        def open_(server: str, forgive: tuple[str, ...] = (), address: str = "", **context: Any) -> Page:
            forgiven.extend(forgive)
            options = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **context}
            opened = browser.new_context(**options)
            stack.callback(opened.close)
            page = opened.new_page()
            page.set_default_timeout(60_000)
            watch(page, server)
            page.goto(server + address)
            page.locator(ready).wait_for()
            return page

        yield open_
    assert [problem for problem in problems if not any(word in problem for word in forgiven)] == []


def _told(message: ConsoleMessage) -> str:
    return f"{message.text} ({message.location.get('url', '')})"


def requests_of(page: Page) -> list[str]:
    """What `page` asks the server for from now on, beside the stream that a page always keeps."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if "heartbeat" not in request.url:
            asked.append(f"{request.url} {(request.post_data or '')[:300]}")

    page.on("request", note)
    return asked


def wait_until_quiet(page: Page, asked: list[str], seconds: float = 3.0) -> None:
    """Returns once `page` has asked for nothing for so long; `asked`, made by `requests_of`, is empty then.

    A page that has come still asks for a while, and a server that imports what writes answers late.
    """
    last, since = len(asked), time.monotonic()
    deadline = since + _START_SECONDS
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, asked
        page.wait_for_timeout(100)  # lets the browser's events in
        if len(asked) != last:
            last, since = len(asked), time.monotonic()
    asked.clear()


def unfold(page: Page, name: str) -> None:
    """Opens a fold; what is in it is built when it is first opened, and only then listens."""
    page.locator(f"#fold-{name} > button").click()
    page.locator(f"#fold-{name} .block:visible").last.wait_for()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def _is_foreign(url: str, server: str) -> bool:
    return not url.startswith((server, "data:", "blob:", server.replace("http", "ws", 1)))
