"""How long work tells how far it is: one callback, so that the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# The stage of a last step that nobody can take back: a commit, or a model that takes its place.
FINISHING = "finishing"


@dataclass(frozen=True)
class Progress:
    """How far one stage of long work is.

    `stage` is a stable key ("reading", "tokenizer", "encoding"), `done` of `total` in `unit`; `total` is None where it
    cannot be known.
    """

    stage: str
    done: float
    total: float | None = None
    unit: str = ""


# What it raises ends the work.
ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The callback of those who do not look."""
