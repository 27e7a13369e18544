"""What was uploaded is started as a Space starts it: in a folder of its own, by `python app.py`, with its variables."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import WRITER, Repository, hub_server
from textgen.hub.spaces import SpaceOptions
from textgen.remote.space import deploy

pytestmark = pytest.mark.slow
_START_SECONDS = 180.0


@pytest.fixture(scope="module")
def space(trained_run: Path) -> Repository:
    """A Space as the Hub has it."""
    with hub_server() as hub:
        deploy("anna/studio", [trained_run], SpaceOptions(), token=WRITER, endpoint=hub.address)
        return hub.repositories["spaces/anna/studio"]


@contextmanager
def started(space: Repository, folder: Path, **variables: str) -> Iterator[str]:
    """The address of the program on a machine that has the Space's files and nothing else of the project."""
    for name, data in space.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TEXTGEN_RUNS")}
    # A Space also has SYSTEM=spaces, for which gradio opens a second server, on a port of its choice. And functions
    # would be compiled anew in another place: for so little it is quicker without.
    own = {"SPACE_ID": "anna/studio", "GRADIO_SERVER_PORT": str(port), "NUMBA_DISABLE_JIT": "1"}
    environment = {**kept, **own, **variables}
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not answers(f"http://127.0.0.1:{port}/"):
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (folder / "log.txt").read_text()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ask(address: str, content: dict[str, Any] | None = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data), timeout=60) as response:
        return json.load(response)


def element_ids(address: str) -> set[str]:
    components = ask(f"{address}/config")["components"]
    return {item["props"].get("elem_id") for item in components if item["props"].get("visible") is not False}


def test_a_full_space_writes_and_trains(space: Repository, trained_run: Path, tmp_path: Path) -> None:
    with started(space, tmp_path, **space.variables) as address:
        assert [model["id"] for model in ask(f"{address}/v1/models")["data"]] == [trained_run.name]
        asked = {"model": trained_run.name, "prompt": "Mira ", "max_tokens": 8, "seed": 1}
        assert ask(f"{address}/v1/completions", asked)["choices"][0]["text"] != ""
        assert {"train-start", "train-notice"} <= element_ids(address)
    assert (tmp_path / "runs").is_dir()


def test_a_read_only_one_is_one_variable_apart(space: Repository, tmp_path: Path) -> None:
    with started(space, tmp_path, TEXTGEN_TRAINING="off") as address:
        assert "train-start" not in element_ids(address)
        assert answers(f"{address}/healthz")
    assert not (tmp_path / "runs").exists()
