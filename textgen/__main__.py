"""`python -m textgen` is the same as the `textgen` command."""

from __future__ import annotations

import sys

from textgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
