"""How well a few minutes of training do: `python -m textgen.benchmarks.quality FILE…`.

Trains from nothing as `textgen train --preset … --minutes …` does, on all but the last tenth of the text, and prints
the nats per character of the best checkpoint on that tenth. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from textgen.benchmarks._options import whole_number
from textgen.training.presets import PresetName, preset_for


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures; exit status 1 when training failed."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.quality", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="text to train on")
    parser.add_argument("--minutes", type=float, default=3.0, help="time for training (default: 3)")
    parser.add_argument(
        "--preset",
        choices=get_args(PresetName),
        help="default: the one that suits the minutes, as `textgen train` has it",
    )
    parser.add_argument("--rounds", type=whole_number(1), default=1, help="runs with different seeds (default: 1)")
    options = parser.parse_args(arguments)
    preset = options.preset or preset_for(options.minutes)
    results = []
    for seed in range(1, options.rounds + 1):
        result = train(options.files, preset, options.minutes, seed)
        if result is None:
            return 1
        results.append(result)
    scores = [result["nats_per_char"] for result in results]
    figures = {
        "benchmark": "quality",
        "preset": preset,
        "minutes": options.minutes,
        "nats_per_char": round(sum(scores) / len(scores), 4),
        "nats_per_char_of_rounds": [round(score, 4) for score in scores],
        "chars": results[0]["chars"],
    }
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures))
    return 0


def train(files: Sequence[Path], preset: str, minutes: float, seed: int) -> dict[str, Any] | None:
    """What `textgen train --json` says at its end; None when it failed, its reason is then on stderr."""
    with tempfile.TemporaryDirectory(prefix="textgen-") as folder:
        command = [sys.executable, "-m", "textgen", "train", *map(str, files), "--out", str(Path(folder) / "run")]
        command += ["--preset", preset, "--minutes", str(minutes), "--seed", str(seed), "--quiet", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


if __name__ == "__main__":
    raise SystemExit(main())
