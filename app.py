"""The Space's entry point, and `make run`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from textgen.imports import quick_imports

with quick_imports():
    from textgen.api.routes import api_for
    from textgen.limits import limits_from
    from textgen.ui.server import (
        can_show_a_browser,
        default_folders,
        host_from,
        keeps_runs,
        people_from,
        root_path_from,
        serve_forever,
        training_folder,
    )

if __name__ == "__main__":
    options = "`textgen serve --help` has options; the README names the environment variables."
    argparse.ArgumentParser(description=f"Opens Textgen Studio. {options}").parse_args()
    root = Path(__file__).parent
    runs = training_folder(os.environ, root)
    people = people_from(os.environ, runs)
    serve_forever(
        default_folders(root, runs),
        runs=runs,
        runs_last=keeps_runs(os.environ, runs),
        people=people,
        routes=api_for(os.environ, people.of(None)),
        limits=limits_from(os.environ, shared=people.shared),
        host=host_from(os.environ),
        root_path=root_path_from(os.environ),
        open_browser=can_show_a_browser(os.environ, sys.platform),
    )
