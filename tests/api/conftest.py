"""The routes alone, served over loopback as they are beside the page."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import uvicorn
from starlette.applications import Starlette

from textgen.api.routes import Api
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.studio import Studio

_DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="package")
def studio(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio with the model "tiny" and, of somebody else, "secret"."""
    folder = tmp_path_factory.mktemp("api-models")
    for name in ("tiny", "secret"):
        save_checkpoint(folder / name, load_checkpoint(resolve_checkpoint(trained_run)))
    RunFolder(folder / "secret").write_about(title="secret", owner="anna")
    studio = Studio([folder], device="cpu", backend="torch", limits=Limits(max_rows=24, max_waiting_requests=8))
    yield studio
    studio.close()


@contextmanager
def serving(studio: Studio, person: Person = EVERYBODY, keys: Sequence[str] = ()) -> Iterator[str]:
    """The address of a server of the routes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        application = Starlette(routes=Api(studio, person, keys=keys).routes())
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_DEADLINE_SECONDS)


@pytest.fixture(scope="package")
def address(studio: Studio) -> Iterator[str]:
    with serving(studio, Person("nobody")) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with client_of(address) as client:
        yield client


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    """A client that asks once: what a server answers is to be seen."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=_DEADLINE_SECONDS)


def ask(address: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
