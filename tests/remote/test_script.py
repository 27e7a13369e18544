"""What runs on the rented machine: as a process of its own, with stand-ins for pip and for this program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from textgen.remote import script

# Says how it was called, and ends as NAME.json says: one status for each call.
STAND_IN = """
import json, os, sys
from pathlib import Path
name = Path(__file__).parent.name if Path(__file__).parent.name == "pip" else sys.argv[1]
root = Path(os.environ["STAND_IN"])
with (root / "calls.jsonl").open("a") as log:
    called = {"name": name, "arguments": sys.argv[1:], "token": os.environ.get("HF_TOKEN"), "cwd": os.getcwd()}
    log.write(json.dumps(called) + "\\n")
plan = root / f"{name}.json"
statuses = json.loads(plan.read_text()) if plan.exists() else [0]
plan.write_text(json.dumps(statuses[1:] or statuses))
if name == "train" and (root / "trains").exists():
    Path(sys.argv[sys.argv.index("--out") + 1], "checkpoints").mkdir(parents=True)
sys.exit(statuses[0])
"""
ARGUMENTS = ("--push-to", "anna/tales", "--device", "cpu", "--stop-after", "600")


class Machine:
    """A folder with the job's files and stand-ins; `run` starts the script as the job does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.job = root / "job"
        for name in ("pip", "textgen"):
            (root / "site" / name).mkdir(parents=True)
            (root / "site" / name / "__init__.py").touch()
            (root / "site" / name / "__main__.py").write_text(STAND_IN)
        self.job.mkdir()
        shutil.copy(Path(script.__file__), self.job / "run.py")
        (root / "trains").touch()
        (root / "tmp").mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "PYTHONPATH": str(root / "site"),
            "STAND_IN": str(root),
            "TMPDIR": str(root / "tmp"),
            # Were it pip itself that ran, it must touch neither this environment nor the network.
            "PIP_TARGET": str(root / "site"),
            "PIP_NO_INDEX": "1",
        }

    def plan(self, name: str, *statuses: int) -> None:
        (self.root / f"{name}.json").write_text(json.dumps(statuses))

    def run(self, *more: str, token: str = "hf_secret") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.job / "run.py"), *ARGUMENTS, *more],
            env={**self.environment, **({"HF_TOKEN": token} if token else {})},
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def calls(self) -> list[dict[str, Any]]:
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_it_installs_trains_and_pushes(machine: Machine) -> None:
    (machine.job / "constraints.txt").touch()
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Installing Textgen Studio, which takes some minutes.",
        "Training.",
        "Pushing the model to anna/tales.",
    ]
    pip, train, push = machine.calls()
    assert pip["arguments"][0] == "install"
    assert pip["arguments"][-3:] == [
        "--constraint",
        str(machine.job / "constraints.txt"),
        str(machine.job / "source.tar.gz"),
    ]
    run = train["arguments"][4]
    assert Path(run).name == "tales"
    assert train["arguments"] == ["train", "--config", "config.json", "--out", run, "--device", "cpu"]
    assert train["cwd"] == str(machine.job)
    assert push["arguments"] == ["push", run, "anna/tales", "--private"]
    # Only who needs the token is given it, and nothing of the run stays.
    assert [pip["token"], train["token"], push["token"]] == [None, None, "hf_secret"]
    assert list((machine.root / "tmp").iterdir()) == []


def test_what_was_asked_for_is_passed_on(machine: Machine) -> None:
    assert machine.run("--public", "--quiet").returncode == 0
    pip, train, push = machine.calls()
    assert "--constraint" not in pip["arguments"]
    assert "--quiet" in train["arguments"]
    assert "--private" not in push["arguments"]


def test_it_ends_with_the_status_of_what_failed(machine: Machine) -> None:
    assert machine.run(token="").returncode == 2
    assert machine.calls() == []
    machine.plan("pip", 1)
    assert machine.run().returncode == 1
    assert [call["name"] for call in machine.calls()] == ["pip"]
    machine.plan("pip", 0)
    machine.plan("push", 2)
    assert machine.run().returncode == 2


def test_what_was_trained_before_a_failure_is_pushed(machine: Machine) -> None:
    machine.plan("train", 1)
    assert machine.run().returncode == 1
    assert [call["name"] for call in machine.calls()] == ["pip", "train", "push"]
    (machine.root / "trains").unlink()
    assert machine.run().returncode == 1
    assert [call["name"] for call in machine.calls()[3:]] == ["pip", "train"]


def test_a_push_is_tried_again(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.plan("push", 1, 1, 0)
    options = script._parser().parse_args(ARGUMENTS)
    assert script.push(machine.root / "run", options, machine.environment, (0.0, 0.0)) == 0
    assert len(machine.calls()) == 3
    machine.plan("push", 1)
    assert script.push(machine.root / "run", options, machine.environment, (0.0,)) == 1
    assert len(machine.calls()) == 5
    assert capsys.readouterr().out.count("Trying again") == 3


def test_training_ends_in_time_to_push(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = "import signal, sys; print('ready', flush=True); signal.sigwait([signal.SIGINT]); sys.exit(0)"
    (machine.root / "site" / "textgen" / "__main__.py").write_text(
        f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n{waiting}\n"
    )

    class Process(subprocess.Popen[str]):
        """Its time is over as soon as it is ready."""

        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, **options, stdout=subprocess.PIPE, text=True)

        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None:
                assert self.stdout is not None
                assert self.stdout.readline() == "ready\n"
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait()

    monkeypatch.setattr(subprocess, "Popen", Process)
    options = script._parser().parse_args(ARGUMENTS)
    status = script.train(machine.job, machine.root / "run", options, machine.environment, stop_at=0.0)
    assert status == 0
    assert "training ends here" in capsys.readouterr().out


def test_a_signal_is_told_as_shells_do() -> None:
    assert script._status(-signal.SIGKILL) == 137


def test_it_needs_nothing_but_python(machine: Machine) -> None:
    command = [sys.executable, "-I", "-S", str(machine.job / "run.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
