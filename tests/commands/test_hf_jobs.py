"""`textgen train --on hf-jobs` in this process, and in one of its own where Ctrl-C comes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub_server import WRITER, Hub, Job, hub_server
from textgen.cli import main
from textgen.config import RunSettings, parse_settings
from textgen.errors import error_from_dict

pytestmark = pytest.mark.slow

HERE = ("--on", "hf-jobs", "--push-to", "anna/tales")
DEADLINE_SECONDS = 120


class Result(NamedTuple):
    status: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub
        for job in hub.jobs:
            job.end("CANCELED")


@pytest.fixture
def cli(hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs `textgen train …` in a folder with a text, logged in to the server on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: WRITER)
    Path("a.txt").write_text("Some text. " * 400)

    def run(*arguments: object) -> Result:
        try:
            status = main(["train", *map(str, arguments)])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        assert WRITER not in captured.out + captured.err
        return Result(status, captured.out, captured.err)

    return run


def config(hub: Hub) -> RunSettings:
    return parse_settings(RunSettings, json.loads(hub.repositories["datasets/anna/tales-job"].files["config.json"]))


def finish(job: Job) -> None:
    """Whoever plays the machine: some lines, one of which a terminal would obey, and a good end."""
    job.write("Training.\tstep 1 \x1b[2J")
    job.end("COMPLETED")


def test_the_job_is_followed_to_where_the_model_is(cli: Cli, hub: Hub) -> None:
    hub.on_job = finish
    done = cli("a.txt", *HERE, "--minutes", "60", "--seed", "5", "--hidden-size", "32")
    (job,) = hub.jobs
    assert (done.status, done.out) == (0, "")
    lines = [line for line in done.err.splitlines() if not line.startswith("Uploading")]
    assert lines == [
        f"The job is {hub.address}/jobs/anna/{job.job_id}; it takes at most 2 h 00 min, 0.06 USD.",
        f"What it reads is in the private dataset {hub.address}/datasets/anna/tales-job; delete that when it is over.",
        "Training.       step 1 \ufffd[2J",
        f"The model is at {hub.address}/anna/tales. Get it: textgen pull anna/tales --out DIR",
    ]
    # Preset, options and seed as they would be here.
    found = config(hub)
    assert (found.training.minutes, found.training.seed, found.model.hidden_size) == (60, 5, 32)
    assert found.training.embedding_dropout != RunSettings().training.embedding_dropout
    assert not Path("runs").exists()


def test_settings_come_from_a_file_too(cli: Cli, hub: Hub) -> None:
    Path("train.yaml").write_text("text: {split: line}\ntraining: {steps: 7}\nsample_prompts: [So]\n")
    done = cli("a.txt", *HERE, "--config", "train.yaml", "--timeout", "1h", "--no-follow", "--json")
    (job,) = hub.jobs
    assert done.status == 0
    assert json.loads(done.out) == {
        "job": f"anna/{job.job_id}",
        "url": f"{hub.address}/jobs/anna/{job.job_id}",
        "stage": "RUNNING",
        "model": "anna/tales",
        "model_url": f"{hub.address}/anna/tales",
        "dataset_url": f"{hub.address}/datasets/anna/tales-job",
        "timeout_seconds": 3600,
        "max_usd": 0.03,
    }
    followed = f"Follow it: hf jobs logs -f anna/{job.job_id} · Cancel it: hf jobs cancel anna/{job.job_id}"
    assert done.err.splitlines()[-2:] == [followed, f"The model will be at {hub.address}/anna/tales."]
    found = config(hub)
    assert (found.text.split, found.training.steps, found.sample_prompts) == ("line", 7, ("So",))


def test_a_job_that_fails_is_status_one(cli: Cli, hub: Hub) -> None:
    hub.on_job = lambda job: job.end("ERROR", "Job failed with exit code: 1")
    done = cli("a.txt", *HERE, "--minutes", "1", "--json")
    assert done.status == 1
    url = f"{hub.address}/jobs/anna/{hub.jobs[0].job_id}"
    told = f"The job ended as ERROR: Job failed with exit code: 1. What it wrote is at {url}."
    assert done.err.splitlines()[-1] == told
    assert str(error_from_dict(json.loads(done.out)["error"])) == told


def test_a_job_that_can_no_longer_be_followed_goes_on(cli: Cli, hub: Hub) -> None:
    def lose(job: Job) -> None:
        hub.fails = lambda method, path: job.job_id in path

    hub.on_job = lose
    done = cli("a.txt", *HERE, "--minutes", "1")
    assert done.status == 1
    assert f"hf jobs logs -f anna/{hub.jobs[0].job_id}" in done.err.splitlines()[-2]
    assert "could not be reached" in done.err.splitlines()[-1]


def test_a_wrong_token_is_told_and_not_shown(cli: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hf_secret\n"))
    done = cli("a.txt", *HERE, "--minutes", "1", "--token-stdin")
    assert done.status == 1
    assert "does not allow this with anna/tales" in done.err
    assert "hf_secret" not in done.out + done.err
    assert hub.repositories == {}
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert (
        cli("a.txt", *HERE, "--minutes", "1").err
        == "token: none was given; allowed: a token of the Hub that may write.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.txt", *HERE, "--out", "run"), "on: --out beside it was given; allowed: a new run"),
        ((*HERE, "--resume", "run"), "on: --resume beside it was given"),
        (("a.txt", *HERE, "--estimate"), "on: --estimate beside it was given"),
        (("a.txt", "--on", "hf-jobs"), "push_to: nothing was given; allowed: where the model goes"),
        (("a.txt", "--on", "elsewhere"), "invalid choice: 'elsewhere'"),
        ((*HERE, "--nproc-per-node", "2"), "on: several processes beside it was given"),
        ((*HERE,), "files: none was given"),
        (("a.txt", *HERE, "--steps", "5"), "timeout: nothing was given; allowed: a time like 3h"),
        (("a.txt", *HERE, "--flavor", ""), "flavor: '' was given"),
        (("a.txt", *HERE, "--base", "gone"), "gone"),
        (("gone.txt", *HERE), "gone.txt cannot be read"),
        (
            ("a.txt", "--out", "run", "--push-to", "anna/tales"),
            "on: --push-to without it was given; allowed: --on hf-jobs",
        ),
        (("a.txt", "--out", "run", "--no-follow"), "on: --no-follow without it was given"),
    ],
)
def test_what_cannot_go_along_is_refused(cli: Cli, hub: Hub, arguments: tuple[str, ...], sentence: str) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert sentence in done.err
    assert (hub.repositories, hub.jobs) == ({}, [])
    assert not Path("run").exists()


def test_ctrl_c_leaves_the_job_running(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text. " * 400)
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    started = threading.Event()

    def begin(job: Job) -> None:
        job.write("Training.")
        started.set()

    hub.on_job = begin
    process = subprocess.Popen(
        [sys.executable, "-m", "textgen", "train", str(tmp_path / "a.txt"), *HERE, "--minutes", "1"],
        env={**kept, **own},
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(DEADLINE_SECONDS, process.kill)
    watchdog.start()
    try:
        assert started.wait(DEADLINE_SECONDS)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if lines[-1] == "Training.":
                process.send_signal(signal.SIGINT)
        status = process.wait(DEADLINE_SECONDS)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    (job,) = hub.jobs
    assert status == 130, lines
    assert lines[-3:] == [
        "The job goes on.",
        f"Follow it: hf jobs logs -f anna/{job.job_id} · Cancel it: hf jobs cancel anna/{job.job_id}",
        f"The model will be at {hub.address}/anna/tales.",
    ]
    assert job.stage == "RUNNING"
    assert ("POST", f"/api/jobs/anna/{job.job_id}/cancel") not in [asked[:2] for asked in hub.asked]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(WRITER.encode() in content for content in [*written, "\n".join(lines).encode()])
