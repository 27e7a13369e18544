"""How fast text is made: `python -m textgen.benchmarks.decode [--text FILE]`.

A model of two layers of 1024 with random weights writes alone and beside others, and is compared with what people use
today. What is compared is measured in turns, several times; figures are medians. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import operator
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from textgen.benchmarks._baselines import TransformersModel, TutorialModel
from textgen.benchmarks._options import whole_number
from textgen.benchmarks.corpus import write_text
from textgen.config import GenerationSettings, ModelSettings
from textgen.engine import Backend, Engine, GenerationRequest, TokenEvent, open_backend
from textgen.jobs.checkpoints import open_checkpoint
from textgen.limits import Limits
from textgen.model.language_model import LanguageModel
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

_SHAPE = ModelSettings(vocab_size=8000, embedding_size=512, hidden_size=1024, num_layers=2)
_SAMPLING = GenerationSettings(temperature=0.8, top_k=50, top_p=0.95, max_new_tokens=300)
_FORBIDDEN = frozenset({0, 1, 2, 3})
_LIMITS = Limits(max_rows=1024, max_waiting_requests=1024, request_deadline_seconds=1e6, max_prefix_cache_bytes=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.decode", description=__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="times that all is measured (default: 5)")
    parser.add_argument("--streams", type=whole_number(1), default=1000, help="live streams of the last measurement")
    parser.add_argument("--checkpoint", type=Path, help="model whose loss in int8 is compared with that in fp32")
    parser.add_argument("--text", type=Path, help="text whose last tenth that model is scored on")
    parser.add_argument("--hidden-size", type=whole_number(1), default=_SHAPE.hidden_size, help="units of each layer")
    parser.add_argument("--vocab-size", type=whole_number(300), default=_SHAPE.vocab_size, help="pieces in all")
    parser.add_argument("--tokens", type=whole_number(10), default=300, help="tokens of a stream (default: 300)")
    parser.add_argument("--threads", type=whole_number(1), help="threads of ONNX Runtime (default: all cores)")
    options = parser.parse_args(arguments)
    shape = _SHAPE.model_copy(update={"hidden_size": options.hidden_size, "vocab_size": options.vocab_size})
    model = LanguageModel(shape)
    model.reset_parameters(0)
    backend = open_backend(model, threads=options.threads)
    figures: dict[str, Any] = {"benchmark": "decode", "backend": backend.name, "parameters": model.num_parameters}
    figures["prepared_bytes"] = backend.size_bytes
    speeds = _speeds(model, backend, options.rounds, options.tokens)
    figures |= {f"{name}_per_second": round(statistics.median(values), 1) for name, values in speeds.items()}
    figures |= _ratios(model, speeds)
    figures |= _many_streams(backend, options.streams)
    if torch.cuda.is_available():
        figures |= _gpu_speeds(model)
    if options.checkpoint and options.text:
        figures |= _int8_loss(options.checkpoint, options.text)
    _print_table(figures)
    print(json.dumps(figures))
    return 0


def _speeds(model: LanguageModel, backend: Backend, rounds: int, tokens: int) -> dict[str, list[float]]:
    """Tokens a second of everything that is compared, measured in turns: one value for each round."""
    tokenizer = _tokenizer(backend.vocab_size)
    tutorial = TutorialModel(model.settings)
    weights = np.ones(_int8_bytes(model) // 4, dtype=np.float32)
    with Engine(backend, limits=_LIMITS) as engine:
        measured: dict[str, Callable[[], float]] = {
            "bare": lambda: _bare_speed(backend, steps=tokens),
            "engine": lambda: _engine_speed(engine, tokenizer, streams=1, tokens=tokens),
            "tutorial": lambda: tutorial.tokens_per_second(40),
            "bare_32": lambda: _bare_speed(backend, steps=tokens // 5, rows=32),
            "engine_32": lambda: _engine_speed(engine, tokenizer, streams=32, tokens=tokens // 3),
            "prefill": lambda: _prefill_speed(engine, 1000, backend.vocab_size),
            "bandwidth": lambda: _read_bandwidth(weights),
        }
        try:
            peer = TransformersModel(model.settings, model.num_parameters)
            measured["transformers"] = lambda: peer.tokens_per_second(min(256, tokens))
        except ImportError:
            print("transformers is not installed: left out.")
        results: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(rounds + 1):
            for name, measure in measured.items():
                value = measure()
                if number:  # the first round warms up
                    results[name].append(value)
    return results


def _ratios(model: LanguageModel, speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of what was measured in the same round: a machine that others use is never the same for long."""
    fractions = {
        "single_stream_speedup": ("engine", "tutorial"),
        "engine_efficiency": ("engine", "bare"),
        "engine_efficiency_32": ("engine_32", "bare_32"),
        "batch32_gain": ("engine_32", "engine"),
        "bare_batch32_gain": ("bare_32", "bare"),  # what the products themselves gain on this machine
        "prefill_gain": ("prefill", "engine"),
        "transformers_ratio": ("engine", "transformers"),
    }
    ratios = {
        name: statistics.median(map(operator.truediv, speeds[above], speeds[below]))
        for name, (above, below) in fractions.items()
        if below in speeds
    }
    # What disturbs a measurement of bandwidth can only lower it.
    ratios["roofline"] = _int8_bytes(model) * statistics.median(speeds["bare"]) / max(speeds["bandwidth"])
    return {name: round(value, 3) for name, value in ratios.items()}


def _int8_bytes(model: LanguageModel) -> int:
    """Bytes of the model's matrices, one for each weight."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)


def _bare_speed(backend: Backend, *, steps: int, rows: int = 1) -> float:
    """The backend's own steps, without anybody who chooses or reads."""
    pool, slots = backend.open_pool(rows), np.arange(rows)
    token_ids = np.random.default_rng(0).integers(4, backend.vocab_size, (steps, rows))
    started = time.perf_counter()
    for ids in token_ids:
        pool.step(slots, ids)
    return steps * rows / (time.perf_counter() - started)


def _engine_speed(engine: Engine, tokenizer: Tokenizer, *, streams: int, tokens: int) -> float:
    """All streams together, each read by a thread that turns it into text as it comes."""

    def follow(seed: int) -> None:
        settings = _SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": tokens})
        decoder = tokenizer.stream()
        for event in engine.submit(GenerationRequest((1, 5 + seed), settings, forbidden_ids=_FORBIDDEN)):
            if isinstance(event, TokenEvent):
                decoder.push(event.token_id)

    threads = [threading.Thread(target=follow, args=(seed,)) for seed in range(streams)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * tokens / (time.perf_counter() - started)


def _prefill_speed(engine: Engine, tokens: int, vocab_size: int) -> float:
    text = np.random.default_rng(1).integers(4, vocab_size, tokens).tolist()
    started = time.perf_counter()
    engine.snapshot(text)
    return tokens / (time.perf_counter() - started)


def _read_bandwidth(buffer: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Bytes a second at which all cores together read a buffer again and again."""
    tensor = torch.from_numpy(buffer)
    started = time.perf_counter()
    for _ in range(20):
        tensor.sum()
    return 20 * buffer.nbytes / (time.perf_counter() - started)


def _many_streams(backend: Backend, count: int) -> dict[str, Any]:
    """Memory for each of many live streams, and the worst gap between two tokens of one of them."""
    settings = _SAMPLING.model_copy(update={"max_new_tokens": 12})
    with Engine(backend, limits=_LIMITS) as engine:
        # What full steps need is there whoever comes; the rows of this engine go with it.
        asyncio.run(_follow_all(engine, settings, 256))
    _give_back_memory()
    before = _resident_bytes()
    watched = _WatchedBackend(backend)
    with Engine(cast(Backend, watched), limits=_LIMITS) as engine:
        highest = asyncio.run(_follow_all(engine, settings, count))
    return {
        "streams": count,
        "streams_memory_ratio": round((highest - before) / count / (4 * backend.state_size), 2),
        "streams_worst_gap_ms": round(1000 * watched.worst_gap_seconds, 1),
    }


def _give_back_memory() -> None:
    """Else what was freed, and is used again, would not be seen to be taken."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's


async def _follow_all(engine: Engine, settings: GenerationSettings, count: int) -> int:
    """Runs `count` streams at once; the most resident memory in bytes meanwhile."""
    highest = 0

    async def follow(seed: int) -> None:
        nonlocal highest
        request = GenerationRequest((1, 5), settings.model_copy(update={"seed": seed}), forbidden_ids=_FORBIDDEN)
        async for _ in engine.submit(request):
            if seed == 0:
                highest = max(highest, _resident_bytes())

    await asyncio.gather(*(follow(seed) for seed in range(count)))
    return highest


class _WatchedBackend:
    """A backend that notes the longest time between two steps of one slot; slots are never given up meanwhile."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.worst_gap_seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open_pool(self, capacity: int) -> Any:
        return _WatchedPool(self, self._backend.open_pool(capacity))


class _WatchedPool:
    def __init__(self, watcher: _WatchedBackend, pool: Any) -> None:
        self._watcher = watcher
        self._pool = pool
        self._seen: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def reset(self, slots: Any) -> None:
        for slot in slots.tolist():
            self._seen.pop(slot, None)
        self._pool.reset(slots)

    def step(self, slots: Any, token_ids: Any) -> Any:
        now = time.perf_counter()
        for slot in slots.tolist():
            self._watcher.worst_gap_seconds = max(self._watcher.worst_gap_seconds, now - self._seen.get(slot, now))
            self._seen[slot] = now
        return self._pool.step(slots, token_ids)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _gpu_speeds(model: LanguageModel) -> dict[str, Any]:
    """Tokens a second of one and of 256 streams on a GPU, and the share of its memory's bandwidth that one takes."""
    backend, tokenizer = open_backend(model, device="cuda"), _tokenizer(model.settings.vocab_size)
    figures: dict[str, Any] = {"gpu_backend": backend.name}
    with Engine(backend, limits=_LIMITS) as engine:
        for streams, tokens in ((1, 2000), (256, 200)):
            _engine_speed(engine, tokenizer, streams=streams, tokens=tokens)  # the first time makes the graphs
            speed = _engine_speed(engine, tokenizer, streams=streams, tokens=tokens)
            figures[f"gpu_{streams}_per_second"] = round(speed, 1)
    buffer = torch.ones(2**28, device="cuda")  # 1 GiB: more than any cache
    buffer.sum()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        buffer.sum()
    torch.cuda.synchronize()
    bandwidth = 20 * buffer.nbytes / (time.perf_counter() - started)
    figures["gpu_bandwidth_share"] = round(backend.size_bytes * figures["gpu_1_per_second"] / bandwidth, 3)
    return figures


def _int8_loss(checkpoint: Path, text: Path) -> dict[str, Any]:
    """Nats per token of the last tenth of a text, with the reference and with the default backend."""
    loaded, tokenizer = open_checkpoint(checkpoint, device=torch.device("cpu"), limits=Limits())
    whole = text.read_text(encoding="utf-8")
    token_ids = (1, *tokenizer.encode(whole[int(0.9 * len(whole)) :]))
    losses = {}
    for kind in ("torch", "auto"):
        backend = open_backend(loaded.model, kind=kind)
        with Engine(backend, limits=_LIMITS) as engine:
            losses[kind] = -statistics.fmean(score.logprob for score in engine.score(token_ids))
    return {
        "nats_per_token_fp32": round(losses["torch"], 5),
        "nats_per_token_int8": round(losses["auto"], 5),
        "int8_delta_percent": round(100 * (losses["auto"] / losses["torch"] - 1), 4),
    }


def _tokenizer(vocab_size: int) -> Tokenizer:
    """A vocabulary of made-up words as large as the model's, or nearly."""
    with tempfile.TemporaryDirectory(prefix="textgen-bench-") as folder:
        path = Path(folder) / "text.txt"
        write_text(path, 1_500_000)
        return train_tokenizer([path.read_text(encoding="utf-8")], kind="bpe", vocab_size=vocab_size).tokenizer


def _print_table(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        print(f"{name:32} {value}")


if __name__ == "__main__":
    raise SystemExit(main())
