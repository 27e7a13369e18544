"""What people notice of a run that trains on the same machine: `python -m textgen.benchmarks.beside_training`.

One stream writes from a model, first on idle cores, then while a run trains in a process of its own: the worst gap
between two of its tokens, each time. Then `--pages` open pages follow that run, as browsers do: the share of a core
that the server spends on them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from textgen.benchmarks._options import whole_number
from textgen.benchmarks.page import running_app
from textgen.config import GenerationSettings, ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.jobs.manager import JobManager
from textgen.studio import Studio, TextDelta
from textgen.ui.run_panel import LOOK_SECONDS

_SHIPPED = Path(__file__).parents[2] / "checkpoints"
_WARM_UP_TOKENS = 200
_START_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.beside_training", description=__doc__)
    parser.add_argument("--seconds", type=whole_number(1), default=20, help="seconds of each measurement (default: 20)")
    parser.add_argument("--pages", type=whole_number(0), default=50, help="open pages (default: 50)")
    parser.add_argument("--models", type=Path, default=_SHIPPED, help="folder of models, of which the first is used")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"benchmark": "beside_training", "seconds": options.seconds, "pages": options.pages}
    with tempfile.TemporaryDirectory(prefix="textgen-") as folder:
        runs = Path(folder) / "runs"
        studio = Studio([options.models])
        try:
            measure_gaps(studio, 2)  # warms up
            idle = measure_gaps(studio, options.seconds)
            with training(runs, Path(folder)) as manager:
                busy = measure_gaps(studio, options.seconds)
                beside = training_rate(manager)
                studio.close()
                alone = training_rate_over(manager, options.seconds)
                if options.pages:
                    figures["pages_share_of_a_core"] = measure_pages(options, runs)
        finally:
            studio.close()
    figures |= {f"idle_{name}": value for name, value in idle.items()}
    figures |= {f"busy_{name}": value for name, value in busy.items()}
    figures["worst_gap_ratio"] = round(busy["worst_gap_ms"] / idle["worst_gap_ms"], 2)
    figures |= {"training_tokens_per_second_beside": beside, "training_tokens_per_second_alone": alone}
    for name, value in figures.items():
        print(f"{name:36} {value}")
    print(json.dumps(figures))
    return 0


def measure_gaps(studio: Studio, seconds: float) -> dict[str, float]:
    """Milliseconds between two tokens of a stream: the worst and the 99th percentile; and tokens a second."""
    name = studio.models()[0].name
    gaps: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        settings = GenerationSettings(max_new_tokens=2_000, ignore_eos=True, seed=len(gaps))
        with studio.generate(name, "ROMEO:\n", settings) as stream:
            before = tokens = 0.0
            for event in stream:
                now = time.perf_counter()
                if isinstance(event, TextDelta) and event.tokens > tokens:
                    if before:
                        # Tokens may come several at once: then the gap is that of all of them.
                        gaps.append(now - before)
                    before, tokens = now, event.tokens
                if now > deadline:
                    break
    gaps.sort()
    return {
        "worst_gap_ms": round(1e3 * gaps[-1], 2),
        "p99_gap_ms": round(1e3 * gaps[int(0.99 * (len(gaps) - 1))], 2),
        "updates_per_second": round(len(gaps) / seconds, 1),
    }


@contextmanager
def training(runs: Path, folder: Path) -> Iterator[JobManager]:
    """A run that trains for as long as the block lasts."""
    text = folder / "text.txt"
    generator = random.Random(0)
    words = ["".join(generator.choices("aeioubcdfglmnprst", k=generator.randint(2, 9))) for _ in range(2_000)]
    text.write_text(" ".join(generator.choices(words, k=100_000)), encoding="utf-8")
    settings = RunSettings(
        files=(str(text),),
        text=TextSettings(vocab_size=1000),
        model=ModelSettings(embedding_size=256, hidden_size=640),
        training=TrainingSettings(minutes=60.0, evaluations=60, save_seconds=20.0),
    )
    manager = JobManager(runs, device="cpu")
    run = manager.submit(settings, title="benchmark")
    try:
        deadline = time.monotonic() + _START_SECONDS
        while manager.view(run).status.step == 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the run does not train: {manager.view(run).status}")
            time.sleep(0.2)
        yield manager
    finally:
        manager.discard(run)


def training_rate(manager: JobManager) -> float:
    """Tokens a second of the run, as it told last."""
    (view,) = manager.runs()
    lines = [json.loads(line) for line in view.folder.metrics.read_bytes().splitlines()]
    rates = [float(line["tokens_per_second"]) for line in lines if line["kind"] == "step"][-20:]
    return round(sum(rates) / len(rates), 1)


def training_rate_over(manager: JobManager, seconds: float) -> float:
    """The same after some seconds in which nothing else was done."""
    time.sleep(seconds)
    return training_rate(manager)


def measure_pages(options: argparse.Namespace, runs: Path) -> float:
    """The share of a core that a server spends on open pages that follow a run."""
    os.environ["TEXTGEN_RUNS"] = str(runs)
    with running_app(options.models) as address:
        server = next(
            process
            for process in psutil.Process().children()
            if "serve" in process.cmdline() and address.rsplit(":", 1)[1] in process.cmdline()
        )
        return asyncio.run(_follow(address, server, options.pages, options.seconds))


async def _follow(address: str, server: psutil.Process, pages: int, seconds: float) -> float:
    limits = httpx.Limits(max_connections=2 * pages + 10)
    async with httpx.AsyncClient(base_url=address, timeout=60.0, limits=limits) as client:
        config = (await client.get("/config")).json()
        ended = asyncio.Event()
        followers = [asyncio.create_task(_page(client, config, number, ended)) for number in range(pages)]
        await asyncio.sleep(5.0)  # everyone has come
        before, started = sum(server.cpu_times()[:2]), time.perf_counter()
        await asyncio.sleep(seconds)
        spent = sum(server.cpu_times()[:2]) - before
        share = spent / (time.perf_counter() - started)
        ended.set()
        await asyncio.gather(*followers)
        return round(share, 3)


async def _page(client: httpx.AsyncClient, config: dict[str, Any], number: int, ended: asyncio.Event) -> None:
    """What an open page asks for, and when: see the timer of `textgen.ui.run_panel`."""
    parts = {part["id"]: part for part in config["components"]}
    tick = next(one for one in config["dependencies"] if any(event == "tick" for _, event in one["targets"]))
    data = [parts[part]["props"].get("value") for part in tick["inputs"]]
    await asyncio.sleep(LOOK_SECONDS * random.random())
    while not ended.is_set():
        answer = await client.post(
            "/gradio_api/run/predict",
            json={"data": data, "fn_index": tick["id"], "session_hash": f"page{number}"},
        )
        answer.raise_for_status()
        mark = answer.json()["data"][-1]
        if isinstance(mark, str):
            data[-1] = mark
        await asyncio.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
