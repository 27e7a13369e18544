"""The Space's entry point, and `make run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from textgen.ui.server import can_show_a_browser, default_folders, host_from, serve_forever

if __name__ == "__main__":
    serve_forever(
        default_folders(Path(__file__).parent),
        host=host_from(os.environ),
        open_browser=can_show_a_browser(os.environ, sys.platform),
    )
