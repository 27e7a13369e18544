"""The Space's entry point, and `make run`."""

from __future__ import annotations

import os
from pathlib import Path

from textgen.ui.server import address_from, default_folders, serve_forever

if __name__ == "__main__":
    host, port = address_from(os.environ)
    serve_forever(default_folders(Path(__file__).parent), host=host, port=port, open_browser="DISPLAY" in os.environ)
