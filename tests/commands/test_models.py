"""`textgen push`, `pull` and `deploy` in processes of their own: the Hub's client reads its settings when imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import WRITER, Hub, hub_server
from textgen.hub import push
from textgen.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

_DEADLINE_SECONDS = 120.0


class Textgen:
    """The command, with settings of its own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "TEXTGEN_CACHE": str(folder / "cache")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._environment = {**kept, **own, "HF_HUB_DISABLE_XET": "1"}

    def __call__(self, *arguments: object, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.started(*arguments, **environment)
        output, errors = process.communicate(given, timeout=_DEADLINE_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def started(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "textgen", *map(str, arguments)],
            env={**self._environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def textgen(hub: Hub, tmp_path: Path) -> Textgen:
    return Textgen(hub, tmp_path)


def test_a_run_goes_to_the_hub_and_comes_back(hub: Hub, textgen: Textgen, trained_run: Path, tmp_path: Path) -> None:
    pushed = textgen("push", trained_run, "anna/tales", "--private", HF_TOKEN=WRITER)
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert pushed.stdout == f"It is at {hub.address}/anna/tales\n"
    assert hub.repositories["anna/tales"].private
    refused = textgen("pull", "anna/tales", "--out", tmp_path / "out")
    assert refused.returncode == 1
    assert refused.stderr.startswith("anna/tales was not found at 127.0.0.1:")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    pulled = textgen("pull", "anna/tales", "--out", tmp_path / "out", "--token-stdin", given=f"{WRITER}\n")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert pulled.stdout == f"anna/tales, commit {hub.repositories['anna/tales'].sha[:12]}, is in {tmp_path / 'out'}\n"
    assert load_checkpoint(tmp_path / "out").figures == load_checkpoint(trained_run / "checkpoints" / "best").figures


def test_what_ctrl_c_has_stopped_goes_on_where_it_was(
    hub: Hub, textgen: Textgen, trained_run: Path, tmp_path: Path
) -> None:
    push(trained_run / "checkpoints" / "best", "anna/tales", token=WRITER, endpoint=hub.address)
    half_way, over = threading.Event(), threading.Event()

    def wait(name: str, start: int) -> None:
        if name == "model.safetensors" and start >= 40_000:
            half_way.set()
            over.wait(_DEADLINE_SECONDS)

    hub.on_piece = wait
    pulling = ("pull", "anna/tales", "--out", tmp_path / "out")
    with textgen.started(*pulling) as process:
        assert half_way.wait(_DEADLINE_SECONDS)
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not any(part.stat().st_size >= 40_000 for part in tmp_path.glob("cache/hub/*/*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(_DEADLINE_SECONDS) == 130
    over.set()
    assert not (tmp_path / "out").exists()
    assert textgen(*pulling).returncode == 0
    ((name, start),) = hub.ranged
    assert (name, start >= 40_000) == ("model.safetensors", True)
    assert load_checkpoint(tmp_path / "out").figures == load_checkpoint(trained_run / "checkpoints" / "best").figures


def test_without_a_token_nothing_is_pushed(hub: Hub, textgen: Textgen, trained_run: Path) -> None:
    done = textgen("push", trained_run, "anna/tales")
    assert done.returncode == 2
    assert done.stderr == "token: none was given; allowed: a token of the Hub that may write.\n"
    wrong = textgen("push", trained_run, "anna/tales", "--token-stdin", given="hf_secret\n")
    assert wrong.returncode == 1
    assert "does not allow this with anna/tales" in wrong.stderr
    assert "hf_secret" not in wrong.stdout + wrong.stderr
    assert hub.repositories == {}


def test_a_login_that_is_no_token_is_told_before_anyone_is_asked(hub: Hub, textgen: Textgen, tmp_path: Path) -> None:
    done = textgen("pull", "anna/tales", "--out", tmp_path / "out", HF_TOKEN="tök")
    assert (done.returncode, done.stderr) == (2, "token: something else was given; allowed: a token of the Hub.\n")
    assert hub.asked == []


def test_what_cannot_be_run_does_not_come(hub: Hub, textgen: Textgen, trained_run: Path, tmp_path: Path) -> None:
    assert textgen("push", trained_run, "anna/tales", HF_TOKEN=WRITER).returncode == 0
    hub.repositories["anna/tales"].files["copy_index.safetensors"] = b"garbage" * 1_000
    done = textgen("pull", "anna/tales", "--out", tmp_path / "out", HF_TOKEN=WRITER)
    assert done.returncode == 2
    assert "copy_index.safetensors, header: not an index of copies" in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(textgen: Textgen, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    done = textgen("pull", "anna/tales", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "a new or empty folder" in done.stderr


def test_the_app_becomes_a_space(hub: Hub, textgen: Textgen, trained_run: Path) -> None:
    options = ["--models", trained_run, "--private", "--secret", "TEXTGEN_ADMIN_KEY"]
    done = textgen("deploy", "anna/studio", *options, TEXTGEN_ADMIN_KEY="word", HF_TOKEN=WRITER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"The Space is at {hub.address}/spaces/anna/studio; ")
    space = hub.repositories["spaces/anna/studio"]
    assert space.private
    assert space.variables == {"TEXTGEN_TRAINING": "on"}
    assert space.secrets == {"TEXTGEN_ADMIN_KEY": "word"}
    assert space.files["app.py"]


def test_what_a_space_was_given_stays_when_it_is_deployed_again(hub: Hub, textgen: Textgen, trained_run: Path) -> None:
    def deployed(*options: str) -> dict[str, str]:
        done = textgen("deploy", "anna/studio", "--models", trained_run, *options, HF_TOKEN=WRITER)
        assert done.returncode == 0, done.stderr
        return hub.repositories["spaces/anna/studio"].variables

    assert deployed("--read-only") == {"TEXTGEN_TRAINING": "off"}
    assert deployed() == {"TEXTGEN_TRAINING": "off"}
    assert deployed("--variable", "TEXTGEN_TRAINING=on") == {"TEXTGEN_TRAINING": "on"}
