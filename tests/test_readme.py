"""The README's commands are run as they stand; only the time they may take is cut."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.grammar import make_text
from textgen.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_commands() -> list[str]:
    """Every line of the README's ```shell blocks."""
    blocks = re.findall(r"```shell\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "stories.txt").write_text(make_text(characters=30_000), encoding="utf-8")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    return folder


def environment() -> dict[str, str]:
    """The environment in which `textgen` is the command of this very Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def shortened(command: str) -> str:
    """The same command with minutes and epochs turned into a few steps."""
    evaluations = "" if "--resume" in command else " --evaluations 1"
    command = re.sub(r"--(minutes|epochs) \S+", "--steps 6" + evaluations, command)
    return command.replace("--max-new-tokens 60", "--max-new-tokens 20")


@pytest.mark.slow
def test_every_command_works_in_the_order_it_is_told(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = [command for command in shell_commands() if not command.startswith("textgen serve")]
    assert len(commands) >= 10
    monkeypatch.chdir(workplace)
    for number, command in enumerate(commands):
        program, *arguments = shlex.split(shortened(command), comments=True)
        if number == 0 or program != "textgen":
            status = subprocess.run(["bash", "-c", shortened(command)], env=environment(), check=False).returncode
        else:
            # Within this process: each of them would import torch for seconds, and then work for one.
            status = main(arguments)
        out, err = capfd.readouterr()
        assert status == 0, f"{command}\n{err}"
        assert "Traceback" not in err
        if "--json" in command:
            assert isinstance(json.loads(out.splitlines()[-1]), dict)


@pytest.mark.slow
@pytest.mark.parametrize("example", re.findall(r"```python\n(import textgen\n.*?)```", README, flags=re.DOTALL))
def test_the_examples_in_python_write(example: str, workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=workplace, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 20


@pytest.mark.slow
def test_the_server_command_answers(workplace: Path) -> None:
    (command,) = [command for command in shell_commands() if command.startswith("textgen serve")]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = shlex.split(re.sub(r"--port \d+", f"--port {port}", command))
    process = subprocess.Popen(
        arguments, cwd=workplace, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/"):
            assert process.poll() is None
            assert time.monotonic() < deadline
        # Beside the page.
        assert answers(f"http://127.0.0.1:{port}/healthz")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as models:
            assert "fairy-tales" in [model["id"] for model in json.load(models)["data"]]
        for program in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
            if "7860" in program:
                assert run_program(program.replace("7860", str(port)), workplace).strip(), program
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def run_program(program: str, folder: Path) -> str:
    """What a program of the README tells."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_front_matter_names_the_versions_that_are_pinned() -> None:
    front_matter = yaml.safe_load(README.split("---\n")[1])
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert front_matter["sdk"] == "gradio"
    assert f"gradio=={front_matter['sdk_version']}\n" in pins
    assert (ROOT / front_matter["app_file"]).is_file()
    assert len(front_matter["short_description"]) <= 60
    assert front_matter["license"] == "mit"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_what_the_readme_links_to_is_there(target: str) -> None:
    assert (ROOT / target).is_file()
