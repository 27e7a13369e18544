"""What a job runs on the rented machine: install this program, train, push the model to the Hub.

It lies beside the job's other files and is started by its path, before anything is installed: standard library only.

run.py            this file
source.tar.gz     this program, for pip
constraints.txt   versions to install; may be missing
config.json       the settings, files and base named relative to this folder
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TOKEN = "HF_TOKEN"
_PUSH_PAUSES_SECONDS = (5.0, 30.0, 120.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status of the step that failed, 0 when the model is on the Hub."""
    begun = time.monotonic()
    options = _parser().parse_args(arguments)
    environment = dict(os.environ)
    # Whoever's code runs while installing and training has no use for it: only the push is given it.
    token = environment.pop(TOKEN, "")
    if not token:
        _tell(f"There is no {TOKEN} to push the model with.")
        return 2
    here = Path(__file__).absolute().parent
    with tempfile.TemporaryDirectory(prefix="textgen-") as work:
        _tell("Installing Textgen Studio, which takes some minutes.")
        status = install(here, environment)
        if status:
            return status
        run = Path(work) / options.push_to.rpartition("/")[2]
        _tell("Training.")
        trained = train(here, run, options, environment, stop_at=begun + options.stop_after)
        if trained and not (run / "checkpoints").is_dir():
            return trained
        # Also after a failure: what was trained until then is paid for.
        _tell(f"Pushing the model to {options.push_to}.")
        return push(run, options, {**environment, TOKEN: token}) or trained


def install(here: Path, environment: Mapping[str, str]) -> int:
    """Installs the program from its source; returns pip's exit status."""
    quietly = ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
    constraints = here / "constraints.txt"
    pinned = ["--constraint", str(constraints)] if constraints.is_file() else []
    command = [sys.executable, "-m", "pip", "install", *quietly, *pinned, str(here / "source.tar.gz")]
    return _status(subprocess.run(command, env=environment, check=False).returncode)


def train(here: Path, run: Path, options: argparse.Namespace, environment: Mapping[str, str], *, stop_at: float) -> int:
    """Trains in the folder `run` and ends that at `stop_at`, in seconds of the monotonic clock; returns its status."""
    arguments = ["--config", "config.json", "--out", str(run), "--device", options.device]
    arguments += ["--quiet"] if options.quiet else []
    process = subprocess.Popen([sys.executable, "-m", "textgen", "train", *arguments], cwd=here, env=environment)
    try:
        return _status(process.wait(timeout=max(0.0, stop_at - time.monotonic())))
    except subprocess.TimeoutExpired:
        _tell("The job's time is nearly over: training ends here.")
        process.send_signal(signal.SIGINT)  # as Ctrl-C: after the step, everything saved
        return _status(process.wait())


def push(
    run: Path,
    options: argparse.Namespace,
    environment: Mapping[str, str],
    pauses_seconds: Sequence[float] = _PUSH_PAUSES_SECONDS,
) -> int:
    """Pushes the model, again after a pause where that fails; returns the last status."""
    command = [sys.executable, "-m", "textgen", "push", str(run), options.push_to]
    command += [] if options.public else ["--private"]
    for pause in (*pauses_seconds, None):
        status = _status(subprocess.run(command, cwd=run.parent, env=environment, check=False).returncode)
        if status != 1 or pause is None:  # 2 is a wrong argument, which stays wrong
            return status
        _tell(f"Trying again in {pause:g} s.")
        time.sleep(pause)
    raise AssertionError("unreachable")


def _status(returncode: int) -> int:
    """A signal's number as shells tell it."""
    return returncode if returncode >= 0 else 128 - returncode


def _tell(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train and push, as a job.", allow_abbrev=False)
    parser.add_argument("--push-to", required=True, metavar="USER/NAME")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--stop-after", type=float, required=True, metavar="SECONDS")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
