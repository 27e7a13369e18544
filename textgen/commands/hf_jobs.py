"""`textgen train --on hf-jobs`: the same training, on a machine that the Hugging Face Hub rents out."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from textgen.commands.common import write_line
from textgen.config import RunSettings
from textgen.errors import HubForbidden, HubRefused, HubUnreachable, InvalidSetting
from textgen.terminal import StatusLine, human_duration, printable

if TYPE_CHECKING:
    from textgen.remote.hf_jobs import TrainingJob

_ON = "hf-jobs"
_JOB_OPTIONS = ("push_to", "flavor", "timeout", "public", "no_follow", "token_stdin")
# What only makes sense on this machine.
_LOCAL_OPTIONS = ("out", "resume", "estimate")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Adds to `textgen train` what sends it elsewhere."""
    group = parser.add_argument_group("on another machine")
    group.add_argument("--on", choices=[_ON], help="train on Hugging Face Jobs, which costs money; the model is pushed")
    group.add_argument("--push-to", metavar="USER/NAME", help="where the model goes on the Hub")
    group.add_argument("--flavor", metavar="NAME", help="which machine, a GPU for instance (default cpu-upgrade)")
    group.add_argument(
        "--timeout", metavar="TIME", help="longest time of the job, like 3h; default: what the budget of minutes needs"
    )
    group.add_argument("--public", action="store_true", help="the model is for everybody's eyes; the texts never are")
    group.add_argument("--no-follow", action="store_true", help="do not wait for the job's end")
    group.add_argument("--token-stdin", action="store_true", help="read the Hub's token from standard input")


def check_job_options(options: argparse.Namespace) -> None:
    """`InvalidSetting` for options of jobs without --on, and for those of this machine beside it."""
    if options.on is None:
        for name in filter(lambda name: getattr(options, name), _JOB_OPTIONS):
            raise InvalidSetting("on", f"{_flag(name)} without it", f"--on {_ON} beside {_flag(name)}")
        return
    for name in filter(lambda name: getattr(options, name), _LOCAL_OPTIONS):
        raise InvalidSetting("on", f"{_flag(name)} beside it", f"a new run, which goes to the Hub: no {_flag(name)}")
    if options.nproc_per_node != 1 or options.nnodes != 1:
        raise InvalidSetting("on", "several processes beside it", "one process: no --nproc-per-node, no --nnodes")
    if options.push_to is None:
        raise InvalidSetting("push_to", "nothing", "where the model goes: --push-to USER/NAME")


def train_elsewhere(options: argparse.Namespace, settings: RunSettings, token: str | None) -> int:
    """Starts the job and follows it; exit status 130 when Ctrl-C ended the following, with the job still running."""
    from textgen.remote.hf_jobs import DEFAULT_FLAVOR, JobOptions, start_training

    asked = JobOptions(
        push_to=options.push_to,
        flavor=DEFAULT_FLAVOR if options.flavor is None else options.flavor,
        timeout=options.timeout,
        public=options.public,
        device=options.device,
        quiet=options.quiet,
    )
    line = StatusLine(sys.stderr)
    job = start_training(settings, asked, token=token, progress=line.progress)
    line.clear()
    cost = "" if job.max_usd is None else f", {job.max_usd:.2f} USD"
    line.print(f"The job is {job.url}; it takes at most {human_duration(job.timeout_seconds)}{cost}.")
    line.print(f"What it reads is in the private dataset {job.dataset_url}; delete that when it is over.")
    goes_on = f"Follow it: hf jobs logs -f {job.reference} · Cancel it: hf jobs cancel {job.reference}"
    status = 0
    try:
        for text in [] if options.no_follow else job.log():
            line.print(printable(text.expandtabs()))
    except KeyboardInterrupt:
        line.print("The job goes on.")
        status = 130
    except (HubForbidden, HubRefused, HubUnreachable):
        line.print(goes_on)
        raise
    if job.stage == "COMPLETED":
        line.print(f"The model is at {job.model_url}. Get it: textgen pull {job.model} --out DIR")
    else:
        line.print(goes_on)
        line.print(f"The model will be at {job.model_url}.")
    if options.json:
        write_line(json.dumps(_facts(job)))
    return status


def _facts(job: TrainingJob) -> dict[str, object]:
    return {
        "job": job.reference,
        "url": job.url,
        "stage": job.stage,
        "model": job.model,
        "model_url": job.model_url,
        "dataset_url": job.dataset_url,
        "timeout_seconds": job.timeout_seconds,
        "max_usd": None if job.max_usd is None else round(job.max_usd, 4),
    }


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
