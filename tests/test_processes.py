"""The command line in processes of its own: what signals, pipes and two ways to start it do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from textgen.cli import main
from textgen.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

_DEADLINE_SECONDS = 120.0
_BIN = Path(sys.executable).parent
STEPS = 160


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "textgen", *map(str, arguments)]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def finish(process: subprocess.Popen[bytes], *, status: int = 0) -> tuple[str, str]:
    out, err = (stream.decode() for stream in process.communicate(timeout=_DEADLINE_SECONDS))
    assert "Traceback" not in err, err
    assert process.returncode == status, err
    return out, err


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            pytest.fail("the process ended before it could be interrupted")


def training(text: Path, out: Path) -> list[object]:
    shape = ["--embedding-size", 24, "--hidden-size", 48, "--vocab-size", 300, "--input-dropout", 0.1]
    work = ["--steps", STEPS, "--batch-size", 8, "--window", 24, "--evaluations", 6, "--weight-dropout", 0.1]
    return ["train", text, "--out", out, *shape, *work, "--device", "cpu", "--precision", "fp32"]


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    return [line["evaluation"] for line in lines if line["kind"] == "evaluation"]


def assert_same_run(run: Path, other: Path) -> None:
    for name in ("last", "best"):
        one, two = (load_checkpoint(folder / "checkpoints" / name).model.state_dict() for folder in (run, other))
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert evaluations(run) == evaluations(other)


@pytest.fixture(scope="module")
def whole(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    out, err = finish(start(*training(small_text, run), "--json"))
    assert json.loads(out.splitlines()[-1])["step"] == STEPS
    assert "held-out" in err
    return run


def test_control_c_stops_cleanly_and_resuming_ends_with_the_same_weights(
    whole: Path, small_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(*training(small_text, run))
    wait_for((run / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert "Stopping after this step" in err
    assert json.loads((run / "status.json").read_bytes())["state"] == "stopped"
    stopped_at = json.loads((run / "checkpoints" / "last" / "training.json").read_bytes())["step"]
    assert 0 < stopped_at < STEPS
    assert main(["generate", "--checkpoint", str(run), "--prompt", "Mira ", "--max-new-tokens", "5"]) == 0
    assert main(["train", "--resume", str(run), "--device", "cpu", "--quiet"]) == 0
    assert_same_run(run, whole)


def test_a_killed_run_resumes_to_the_same_weights(whole: Path, small_text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*training(small_text, run))
    wait_for((run / "checkpoints" / "last").exists, process)
    process.kill()
    process.communicate(timeout=_DEADLINE_SECONDS)
    assert json.loads((run / "status.json").read_bytes())["state"] == "running"
    assert main(["train", "--resume", str(run), "--device", "cpu", "--quiet"]) == 0
    assert_same_run(run, whole)


def test_both_ways_to_start_are_the_same(whole: Path) -> None:
    arguments = ["tokenizer", "info", str(whole), "--text", "小猫", "--json"]
    wrong = ["generate", "--checkpoint", str(whole), "--temperature", "9"]
    script = [str(_BIN / "textgen"), *arguments]
    processes = [
        subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
        start(*arguments),
        start(*wrong),
    ]
    by_script, by_module, sentence = (
        finish(process, status=status) for process, status in zip(processes, (0, 0, 2), strict=True)
    )
    assert by_script == by_module
    assert json.loads(by_script[0])["pieces"]
    assert sentence == ("", "temperature: 9.0 was given; allowed: at most 5.0.\n")


def test_a_prompt_comes_through_a_pipe_and_a_reader_may_leave(whole: Path) -> None:
    prompt = "小猫 found 🌙\n"
    command = ["generate", "--checkpoint", whole, "--prompt", "-", "--max-new-tokens", "20", "--seed", "1"]
    utf8 = {**os.environ, "PYTHONUTF8": "1"}
    listened = start(*command, stdin=subprocess.PIPE, env=utf8)
    reading, writing = os.pipe()
    os.close(reading)
    left = start(*command, stdin=subprocess.PIPE, stdout=writing, env=utf8)
    os.close(writing)
    out, err = (part.decode() for part in listened.communicate(prompt.encode(), timeout=_DEADLINE_SECONDS))
    assert listened.returncode == 0, err
    assert out.startswith(prompt)
    assert len(out) > len(prompt) + 1
    _, err_bytes = left.communicate(prompt.encode(), timeout=_DEADLINE_SECONDS)
    assert (left.returncode, err_bytes.decode()) == (1, "")
