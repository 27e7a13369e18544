"""What several commands do alike."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from textgen.errors import InvalidSetting, UnreadableText
from textgen.terminal import StatusLine


def given_token(options: argparse.Namespace) -> str | None:
    """What was given; without that the client of the Hub looks for HF_TOKEN and for a login."""
    return standard_input().strip() if options.token_stdin else None


def check_folders(models: Sequence[Path]) -> None:
    """`InvalidSetting` for folders of models that are not there."""
    for folder in models:
        if not folder.is_dir():
            raise InvalidSetting("models", str(folder), "folders that exist")


def check_unused(out: Path) -> None:
    """`InvalidSetting` where there is something already that an output would replace."""
    # "." and its like cannot step aside for what takes their place.
    if not out.name or out.name == ".." or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise InvalidSetting("out", str(out), "a new or empty folder")


def standard_input() -> str:
    """All of it; raises `UnreadableText`."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UnreadableText("standard input", error.start, error.encoding) from None


def write_line(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def stopping_on_interrupt(stop: Any, line: StatusLine) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) stops after the step; a second one interrupts at once."""

    def first(_number: int, _frame: FrameType | None) -> None:
        line.print("Stopping after this step; what was trained is saved. Ctrl-C again to leave at once.")
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
