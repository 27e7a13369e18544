"""How many people the page serves at once: `python -m textgen.benchmarks.page [--users 1 40 200]`.

Starts the app in a process of its own on a model, and lets users press Generate together, each over HTTP as a browser
does. All of them run on the same cores as the app. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from textgen.benchmarks._options import whole_number

_START_SECONDS = 120.0
# Often enough, and seldom enough not to slow what is waited for.
_LOOK_SECONDS = 0.02
# The models of a clone; an installed package has none.
SHIPPED = Path(__file__).parents[2] / "checkpoints"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.page", description=__doc__)
    parser.add_argument("--users", type=whole_number(1), nargs="+", default=[1, 10, 40, 200], help="how many at once")
    parser.add_argument("--tokens", type=whole_number(1), default=200, help="tokens that each asks for (default: 200)")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of models, of which the first is used")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"benchmark": "page", "tokens": options.tokens}
    with running_app(options.models) as address:
        asyncio.run(crowd(address, 1, options.tokens))  # warms up
        for users in options.users:
            figures |= {
                f"{name}_{users}": value for name, value in asyncio.run(measured(address, users, options.tokens))
            }
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(json.dumps(figures))
    return 0


async def measured(address: str, users: int, tokens: int) -> list[tuple[str, float]]:
    """Tokens a second of all users together, and how long they waited: for the first text and for all of it."""
    started = time.perf_counter()
    waits = await crowd(address, users, tokens)
    seconds = time.perf_counter() - started
    return [
        ("tokens_per_second", round(users * tokens / seconds, 1)),
        ("first_seconds", round(statistics.median(first for first, _, _ in waits), 2)),
        ("whole_seconds", round(statistics.median(whole for _, whole, _ in waits), 2)),
        ("worst_seconds", round(max(whole for _, whole, _ in waits), 2)),
    ]


async def crowd(address: str, users: int, tokens: int) -> list[tuple[float, float, str]]:
    """Of each user: seconds till the first new text and till the last, and the text."""
    limits = httpx.Limits(max_connections=2 * users + 10)
    async with httpx.AsyncClient(base_url=address, timeout=600.0, limits=limits) as client:
        config = (await client.get("/config")).json()
        return list(await asyncio.gather(*(_user(client, config, number, tokens) for number in range(users))))


async def _user(
    client: httpx.AsyncClient, config: dict[str, Any], number: int, tokens: int
) -> tuple[float, float, str]:
    session = f"user{number}x{time.time_ns()}"
    prompt = f"Citizen {number}:\n"
    function, inputs, document = _generate_function(config)
    values = {"document": prompt, "length": tokens, "seed": str(number), "ignore-eos": True}
    data = [values.get(part["props"].get("elem_id"), part["props"].get("value")) for part in inputs]
    started = time.perf_counter()
    joined = await client.post(
        "/gradio_api/queue/join", json={"data": data, "fn_index": function, "session_hash": session}
    )
    joined.raise_for_status()
    first, text = 0.0, prompt
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        async for line in stream.aiter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") in ("process_generating", "process_completed"):
                text = _changed(text, message["output"]["data"][document])
                first = first or (time.perf_counter() - started if text != prompt else 0.0)
            if message.get("msg") == "process_completed":
                break
    return first, time.perf_counter() - started, text


def _changed(text: str, update: Any) -> str:
    """`text` after an update by Gradio: all of it, edits of what was sent last, or an object that says "as it is"."""
    if isinstance(update, str):
        return update
    for action, path, value in update if isinstance(update, list) else ():
        if path == [] and isinstance(value, str):
            text = text + value if action == "append" else value
    return text


def _generate_function(config: dict[str, Any]) -> tuple[int, list[dict[str, Any]], int]:
    """The number of the function behind Generate, its inputs, and where the document is among its outputs."""
    parts = {part["id"]: part for part in config["components"]}
    names = {part["props"].get("elem_id"): number for number, part in parts.items()}
    found = next(
        one for one in config["dependencies"] if [names["generate"], "click"] in one["targets"] and one["backend_fn"]
    )
    return found["id"], [parts[number] for number in found["inputs"]], found["outputs"].index(names["document"])


@contextmanager
def running_app(models: Path) -> Iterator[str]:
    """The address of `textgen serve` on a free port, till the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "textgen", "serve", "--port", str(port), "--models", str(models)]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(address):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError("the app does not answer")
        time.sleep(_LOOK_SECONDS)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
