"""`textgen runs`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from textgen.commands.common import write_line
from textgen.errors import InvalidSetting
from textgen.files import runs_folder
from textgen.terminal import run_facts, run_line

RUN_ACTIONS = ("list", "pause", "stop", "resume", "discard")


def runs(options: argparse.Namespace) -> int:
    """`textgen runs`: the list of runs, or one of the page's verbs for one of them."""
    from textgen.jobs.manager import JobManager

    def device() -> str:
        from textgen.training.device import choose_device  # imports torch, which the list does not need

        return str(choose_device(options.device))

    if options.minutes is not None and options.action != "resume":
        raise InvalidSetting("minutes", f"--minutes with {options.action}", "--minutes with resume")
    if (options.run_id is None) != (options.action == "list"):
        raise InvalidSetting("run", options.run_id or "none", "an ID with every action but list")
    folder = runs_folder(os.environ, Path(), options.runs)
    if not folder.is_dir():
        raise InvalidSetting("runs", str(folder), "a folder of runs")
    manager = JobManager(folder, device=device)
    longer = {"minutes": options.minutes} if options.minutes is not None else None
    if options.action == "resume":
        manager.resume(options.run_id, longer=longer)
    elif options.action != "list":
        {"pause": manager.pause, "stop": manager.stop, "discard": manager.discard}[options.action](options.run_id)
    listed = [run_facts(view) for view in manager.runs()]
    if options.json:
        write_line(json.dumps(listed, ensure_ascii=False))
    elif not listed:
        write_line(f"No runs in {folder}.")
    for facts in [] if options.json else listed:
        write_line(run_line(facts))
    return 0
