"""How much memory and time a corpus takes: `python -m textgen.benchmarks.corpus [--megabytes N] [--one-line]`.

A file of made-up words is built into a corpus in a child process, whose peak resident memory is then that of the work
alone; for each stage there are the seconds it took and how many cores it kept busy on average. All files are removed
afterwards. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textgen.config import TextSettings
from textgen.progress import Progress
from textgen.text.corpus import build_corpus

_MEGABYTE = 1_000_000
_WORDS = 50_000
_WORDS_PER_LINE = 12
_WORDS_PER_CHUNK = 240_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.corpus", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048, help="size of the generated text (default: 2048)")
    parser.add_argument("--one-line", action="store_true", help="generate one single line")
    parser.add_argument("--tokenizer", choices=("unigram", "bpe", "char"), default="unigram")
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--split", default="file", help="where documents end (default: file)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's choice)")
    parser.add_argument("--build", nargs=2, type=Path, metavar=("FILE", "CORPUS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.build:
        file, folder = options.build
        print(json.dumps(_build(file, folder, options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="textgen-bench-", dir=options.folder) as folder:
        path = Path(folder) / "text.txt"
        size = write_text(path, options.megabytes * _MEGABYTE, one_line=options.one_line)
        command = [sys.executable, "-m", "textgen.benchmarks.corpus"]
        command += ["--build", str(path), str(Path(folder) / "corpus")]
        command += ["--tokenizer", options.tokenizer, "--vocab-size", str(options.vocab_size), "--split", options.split]
        child = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = {"benchmark": "corpus", "megabytes": size / _MEGABYTE, "one_line": options.one_line}
    figures |= {"tokenizer": options.tokenizer, "split": options.split, **json.loads(child.stdout)}
    figures["megabytes_per_second"] = round(size / _MEGABYTE / figures["seconds"], 2)
    print(json.dumps(figures))
    return 0


def write_text(path: Path, size: int, *, one_line: bool = False, seed: int = 0) -> int:
    """Writes about `size` bytes of made-up words, some far more frequent than others; returns the bytes written."""
    generator = np.random.default_rng(seed)
    letters = "".join(generator.choice(list("etaoinshrdlucmfwypvb"), 10 * _WORDS))
    words = [
        letters[10 * index : 10 * index + length] for index, length in enumerate(generator.integers(2, 11, _WORDS))
    ]
    shares = np.cumsum(1.0 / np.arange(2, _WORDS + 2))
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        while written < size:
            drawn = np.searchsorted(shares, generator.random(_WORDS_PER_CHUNK) * shares[-1])
            chosen = [words[index] for index in drawn.tolist()]
            lines = (chosen[start : start + _WORDS_PER_LINE] for start in range(0, len(chosen), _WORDS_PER_LINE))
            text = (" " if one_line else "\n").join(" ".join(line) for line in lines) + (" " if one_line else "\n")
            written += stream.write(text[: size - written])
    return written


def _build(path: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    settings = TextSettings(tokenizer=options.tokenizer, vocab_size=options.vocab_size, split=options.split)
    started = time.monotonic()
    stages = StageTimes()
    corpus = build_corpus(folder, [path], settings, progress=stages)
    seconds = time.monotonic() - started
    heldout = len(corpus.heldout.ids) if corpus.heldout else 0
    return {
        "seconds": round(seconds, 2),
        "peak_memory_megabytes": round(_peak_memory_bytes() / _MEGABYTE, 1),
        "tokens": len(corpus.train.ids) + heldout,
        "vocab_size": corpus.tokenizer.vocab_size,
        **stages.figures(),
    }


class StageTimes:
    """A progress callback that adds up the seconds and the processor seconds, of all threads, of every stage.

    What happens before a report belongs to the stage that it names.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, processor: Callable[[], float] = time.process_time
    ) -> None:
        self._clocks = (clock, processor)
        self._last = self._now()
        self._spent: dict[str, list[float]] = {}

    def __call__(self, progress: Progress) -> None:
        now = self._now()
        spent = self._spent.setdefault(progress.stage, [0.0, 0.0])
        for place in range(2):
            spent[place] += now[place] - self._last[place]
        self._last = now

    def figures(self) -> dict[str, float]:
        """`seconds_STAGE`, and `cores_STAGE`: how many were busy on average."""
        found: dict[str, float] = {}
        for stage, (seconds, processor_seconds) in self._spent.items():
            found[f"seconds_{stage}"] = round(seconds, 2)
            found[f"cores_{stage}"] = round(processor_seconds / seconds, 2) if seconds else 0.0
        return found

    def _now(self) -> tuple[float, ...]:
        return tuple(clock() for clock in self._clocks)


def _peak_memory_bytes() -> int:
    """The most resident memory of this process so far.

    Linux starts `ru_maxrss` at what the parent held when it forked, so there the kernel's own mark is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    # macOS counts in bytes, others in KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
