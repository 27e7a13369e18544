"""`textgen train`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from textgen.commands.common import given_token, stopping_on_interrupt, write_line
from textgen.commands.hf_jobs import check_job_options, train_elsewhere
from textgen.commands.run_settings import check_resume, run_settings
from textgen.errors import InvalidSetting
from textgen.files import temporary_folder
from textgen.terminal import StatusLine, TrainingDisplay, base_learned_sentence, estimate_lines, report_lines


def train(options: argparse.Namespace) -> int:
    """`textgen train`: exit status 0 also when Ctrl-C stopped it, since what was trained is kept."""
    check_job_options(options)
    if options.on is not None:
        return train_elsewhere(options, run_settings(options), given_token(options))
    from textgen.jobs.torchrun import launched_by_torchrun

    line = StatusLine(sys.stderr)
    if options.resume is None and not options.estimate and options.out is None:
        raise InvalidSetting("out", "nothing", "a folder for the run: --out DIR")
    torchrun = _torchrun(options)
    if torchrun.world_size > 1 and not launched_by_torchrun(os.environ):
        return _train_together(torchrun, options, line)
    if options.resume is None and options.estimate:
        return _estimate(options, line)
    from textgen.jobs.rank import joined

    with joined(os.environ, options.device) as rank:
        if options.resume is not None:
            run = rank.resume(options.resume, longer=check_resume(options), progress=line.progress)
        else:
            run = rank.start(options.out, run_settings(options), progress=line.progress)
        with stopping_on_interrupt(run.stop, line) if rank.ranks.alone else rank.obeying(run):
            _show(run, TrainingDisplay(line, show_samples=not options.quiet) if rank.leads else None, line)
        if rank.leads:
            folder = options.resume or options.out
            line.print(f"The run is in {folder}. Try it: textgen generate --checkpoint {folder}")
            if options.json:
                write_line(json.dumps(_result(run.trainer)))
    return 0


def _show(run: Any, display: TrainingDisplay | None, line: StatusLine) -> None:
    """Trains, and shows that where there is a `display`."""
    from textgen.jobs.run_history import HistoryReader
    from textgen.training.events import StartEvent

    if display is not None:
        for sentence in [*report_lines(run.corpus.reports), *filter(None, [run.corpus.note])]:
            line.print(sentence)
        share = run.folder.read_about().get("base_learned")
        if isinstance(share, float) and share:
            line.print(base_learned_sentence(share))
    for event in run.events():
        if display is not None:
            if isinstance(event, StartEvent) and event.step:
                display.recall(HistoryReader(run.folder).read())
            display.show(event)


def _torchrun(options: argparse.Namespace) -> Any:
    """The call of torchrun that the options ask for, checked."""
    from textgen.jobs.torchrun import Torchrun

    names = ("nproc_per_node", "nnodes", "node_rank", "rdzv_endpoint", "max_restarts")
    torchrun = Torchrun(**{name: getattr(options, name) for name in names})
    torchrun.check()
    if torchrun.world_size > 1 and options.estimate:
        raise InvalidSetting("estimate", f"--estimate with {torchrun.world_size} processes", "one process")
    return torchrun


def _train_together(torchrun: Any, options: argparse.Namespace, line: StatusLine) -> int:
    """Lets torchrun run this very command in every process, and answers for them."""
    from textgen.jobs.run_folder import RunFolder
    from textgen.jobs.supervision import Supervisor

    if options.resume is not None:
        check_resume(options)
        settings = RunFolder(options.resume).settings()
    else:
        settings = run_settings(options)
    torchrun.check_batch(settings.training.batch_size)
    with temporary_folder() as folder:
        supervisor = Supervisor(folder)
        with stopping_on_interrupt(supervisor.stop, line):
            supervisor.run(torchrun.command("textgen", options.given), torchrun.environment(os.environ))
    return 0


def _estimate(options: argparse.Namespace, line: StatusLine) -> int:
    """`textgen train --estimate`: what a run would cost; leaves nothing behind."""
    from textgen.jobs.base import open_base
    from textgen.jobs.estimate import estimate_run
    from textgen.jobs.teachers import given_vocabulary, open_teachers
    from textgen.text.corpus import build_corpus

    settings = run_settings(options)
    base = open_base(settings)
    teachers = open_teachers(settings, base)
    with temporary_folder() as folder:
        corpus = build_corpus(
            folder / "corpus",
            [Path(file) for file in settings.files],
            settings.text,
            tokenizer=given_vocabulary(base, teachers),
            heldout_files=[Path(file) for file in settings.heldout_files],
            seed=settings.training.seed,
            progress=line.progress,
        )
        models = [teacher.checkpoint.model for teacher in teachers]
        estimate = estimate_run(settings, corpus, base, models, options.device, out=options.out or Path.cwd())
    line.clear()
    for sentence in estimate_lines(estimate):
        line.print(sentence)
    if options.json:
        write_line(json.dumps(asdict(estimate)))
    return 0


def _result(trainer: Any) -> dict[str, Any]:
    best = trainer.best
    return {
        "step": trainer.step,
        "elapsed_seconds": round(trainer.elapsed_seconds, 1),
        **(best.as_dict() if best else {}),
    }
