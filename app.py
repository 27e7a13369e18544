"""The Space's entry point, and `make run`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from textgen.errors import InvalidSetting, TextgenError
from textgen.imports import quick_imports

port = os.environ.get("GRADIO_SERVER_PORT") or "7860"
if not (port.isdecimal() and 1 <= int(port) <= 65_535):
    # gradio reads it while it is imported, and fails with a stack trace.
    sys.exit(str(InvalidSetting("GRADIO_SERVER_PORT", port, "a port from 1 to 65535")))

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


def main() -> None:
    """Serves the page as the environment asks; whatever keeps it from that is told in a sentence."""
    options = "`textgen serve --help` has options; the README names the environment variables."
    argparse.ArgumentParser(description=f"Opens Textgen Studio. {options}").parse_args()
    root = Path(__file__).parent
    runs = training_folder(os.environ, root)
    try:
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
    except TextgenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
