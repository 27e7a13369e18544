"""What a run has told so far, read from its folder; while it trains only what is new is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textgen.jobs.run_folder import RunFolder

Point = tuple[float, float]
# What is shown of a line about training: one that lacks any of it is damaged.
_STEP_FIGURES = ("loss", "epoch", "tokens_per_second", "seconds_left", "elapsed_seconds")


@dataclass
class RunHistory:
    """Points are (step, nats per character); `seconds` are those spent training at each of `losses`.

    The loss of training is told for each token; `tokens_per_char` of the training text makes it comparable.
    """

    losses: list[Point] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    held_out: list[Point] = field(default_factory=list)
    kept: list[Point] = field(default_factory=list)
    samples: list[Mapping[str, Any]] = field(default_factory=list)
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    latest: Mapping[str, Any] = field(default_factory=dict)
    tokens_per_char: float | None = None

    @property
    def best(self) -> Point | None:
        """The lowest held-out loss."""
        return min(self.held_out, key=lambda point: (point[1], point[0])) if self.held_out else None

    def add(self, line: Mapping[str, Any]) -> None:
        """Takes a line of metrics.jsonl; one that is damaged tells nothing."""
        with suppress(KeyError, TypeError, ValueError):
            self._add(line)

    def _add(self, line: Mapping[str, Any]) -> None:
        step = float(line["step"])
        if line["kind"] == "step" and self.tokens_per_char:
            loss, *_, seconds = (float(line[name]) for name in _STEP_FIGURES)
            self.losses.append((step, loss * self.tokens_per_char))
            self.seconds.append(seconds)
            self.latest = line
        elif line["kind"] == "evaluation":
            held_out = float(line["evaluation"]["nats_per_char"])
            kept = float(line["kept"]["nats_per_char"]) if line.get("kept") else None
            self.evaluations.append(line)
            self.held_out.append((step, held_out))
            if kept is not None:
                self.kept.append((step, kept))


class HistoryReader:
    """Follows the files of one run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._history = RunHistory()
        self._metrics = _Follower(self._folder.metrics)
        self._samples = _Follower(self._folder.samples)

    def read(self) -> RunHistory:
        """Everything told so far. A resumed run takes back what it will tell again; that is read anew."""
        if self._metrics.has_shrunk() or self._samples.has_shrunk():
            self._begin()
        if self._history.tokens_per_char is None:
            self._history.tokens_per_char = _tokens_per_char(self._folder)
            if self._history.tokens_per_char is None:
                return self._history
        for line in self._metrics.new_lines():
            self._history.add(line)
        self._history.samples.extend(filter(_is_sample, self._samples.new_lines()))
        return self._history


class _Follower:
    """New whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    def has_shrunk(self) -> bool:
        """Whether what was read is no longer what stands there."""
        if self._inode is None:
            return False
        try:
            status = self._path.stat()
        except OSError:
            return True
        return status.st_ino != self._inode or status.st_size < self._offset

    def new_lines(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if self._inode not in (None, inode):
                    return []  # replaced since `has_shrunk` looked, which finds that out the next time
                self._inode = inode
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = []
        for line in whole.split(b"\n"):
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                lines.append(content)
        return lines


def _is_sample(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("samples"), list) and isinstance(line.get("step"), int)


def _tokens_per_char(folder: RunFolder) -> float | None:
    try:
        part = json.loads((folder.corpus / "corpus.json").read_bytes())["parts"]["train"]
        return float(part["tokens"]) / float(part["characters"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
