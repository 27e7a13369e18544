"""Textgen Studio: write with recurrent language models and train your own.

Importing the package imports nothing heavy; the parts are imported by their names (`textgen.studio`, `textgen.engine`).
"""

from __future__ import annotations

__version__ = "0.1.0"
