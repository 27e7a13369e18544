"""`textgen serve`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from textgen.commands.common import check_folders
from textgen.errors import InvalidSetting


def serve(options: argparse.Namespace) -> NoReturn:
    """`textgen serve`: the app, until Ctrl-C or SIGTERM."""
    from textgen.imports import quick_imports

    with quick_imports():
        from textgen.api.routes import api_for
        from textgen.jobs.torchrun import Torchrun
        from textgen.limits import limits_from
        from textgen.ui.server import keeps_runs, people_from, root_path_from, serve_forever, training_folder

    Torchrun(nproc_per_node=1 if options.nproc_per_node is None else options.nproc_per_node).check()
    if not 1 <= options.port <= 65_535:
        raise InvalidSetting("port", options.port, "1 to 65535")
    check_folders(options.models or [])
    runs = training_folder(os.environ, Path(), options.runs)
    folders = [*(options.models or [Path("checkpoints")]), *([runs] if runs is not None else [])]
    people = people_from(os.environ, runs)
    limits = limits_from(os.environ, shared=people.shared)
    if options.nproc_per_node is not None:
        limits = replace(limits, training_processes=options.nproc_per_node)
    serve_forever(
        folders,
        runs=runs,
        runs_last=keeps_runs(os.environ, runs),
        people=people,
        routes=api_for(os.environ, people.of(None)),
        limits=limits,
        host=options.host,
        port=options.port,
        root_path=root_path_from(os.environ, options.root_path),
        device=options.device,
        backend=options.backend,
        threads=options.threads,
        open_browser=options.open,
    )
