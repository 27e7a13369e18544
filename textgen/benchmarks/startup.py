"""How soon there is something to see: `python -m textgen.benchmarks.startup [--rounds 5]`.

Starts the app in a process of its own and asks for the page until it comes; then asks the first model for a few tokens
over HTTP: once, which tells how long after the start it has something to say, and again and again, now that it is warm.
Also says how long imports take and how large the package is, packed as in a wheel. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

import textgen
from textgen.benchmarks._options import whole_number
from textgen.benchmarks.page import SHIPPED, running_app

_PACKAGE = Path(textgen.__file__).parent
_IMPORTS = ("gradio", "torch", "textgen.ui.server")
_WARM_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="starts of the app (default: 5)")
    parser.add_argument("--requests", type=whole_number(1), default=20, help="first tokens after each (default: 20)")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of models, of which the first is used")
    options = parser.parse_args(arguments)
    pages: list[float] = []
    texts: list[float] = []
    tokens: list[float] = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        with running_app(options.models) as address:
            pages.append(time.perf_counter() - started)
            cold, *warm = first_tokens(address, options.requests)
            texts.append(pages[-1] + cold)
            tokens += warm
    figures: dict[str, Any] = {
        "benchmark": "startup",
        "first_page_seconds": round(statistics.median(pages), 2),
        "first_page_seconds_of_rounds": [round(seconds, 2) for seconds in pages],
        "first_text_seconds": round(statistics.median(texts), 2),
        "first_token_ms": round(1000 * statistics.median(tokens), 1),
        "first_token_ms_worst": round(1000 * max(tokens), 1),
        **{f"import_{name.replace('.', '_')}_seconds": round(import_seconds(name), 2) for name in _IMPORTS},
        "package_bytes": packed_bytes(_PACKAGE),
    }
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(json.dumps(figures))
    return 0


def first_tokens(address: str, requests: int) -> list[float]:
    """Seconds from a request to its first text: of a model that may still be loading, then of one that has written."""
    with httpx.Client(base_url=address, timeout=_WARM_SECONDS) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        return [first_token(client, model, number) for number in range(1 + requests)]


def first_token(client: httpx.Client, model: str, number: int) -> float:
    """Seconds to the first text that follows a prompt that was not read before."""
    asked = {"model": model, "prompt": f"{number + 2} hills away", "max_tokens": 8, "stream": True, "ignore_eos": True}
    started = time.perf_counter()
    found = 0.0
    with client.stream("POST", "/v1/completions", json=asked) as stream:
        stream.raise_for_status()
        for line in stream.iter_lines():
            content = line.removeprefix("data: ")
            if not found and content.startswith("{") and any(one["text"] for one in json.loads(content)["choices"]):
                found = time.perf_counter() - started
    if not found:
        raise RuntimeError("the model wrote nothing")
    return found


def import_seconds(name: str) -> float:
    """How long a fresh Python takes to import a module, its own start left out."""
    program = f"import time; started = time.perf_counter(); import {name}; print(time.perf_counter() - started)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def packed_bytes(package: Path) -> int:
    """The size of a zip of a package's files, without what Python compiles."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(package))
    return packed.tell()


if __name__ == "__main__":
    raise SystemExit(main())
