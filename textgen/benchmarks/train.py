"""How fast training is: `python -m textgen.benchmarks.train`.

For an LSTM, and for a Mogrifier where presets take it on this machine, of two widths and in turns: the trainer's own
steps with the dropouts of a preset; the matrix products of this machine in the same number format, which bound them;
and a plain fp32 loop around `nn.LSTM` of the same shape without any dropout, whatever cell the trainer has. Figures
are medians over the rounds; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from textgen.benchmarks._options import whole_number
from textgen.config import ModelSettings, TrainingSettings
from textgen.imports import can_multiply
from textgen.model.language_model import LanguageModel
from textgen.text.batches import StreamBatches
from textgen.training.allocator import keep_freed_memory
from textgen.training.device import DeviceChoice, choose_precision
from textgen.training.trainer import Trainer

_SHAPES = {
    512: {"embedding_size": 192, "vocab_size": 1000, "batch_size": 16, "window": 40},
    1024: {"embedding_size": 384, "vocab_size": 4000, "batch_size": 32, "window": 48},
}
_CELLS = ("lstm", "mogrifier-lstm")
_PRODUCT = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.train", description=__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="turns of each measurement (default: 5)")
    parser.add_argument("--seconds", type=whole_number(1), default=3, help="seconds of each of them (default: 3)")
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        metavar="N",
        help="streams of a batch (default: those of the presets, 16 and 32)",
    )
    parser.add_argument(
        "--cell",
        choices=_CELLS,
        help="only this one (default: lstm, and mogrifier-lstm where presets take it here)",
    )
    options = parser.parse_args(arguments)
    keep_freed_memory()  # for both loops: only `start_run` does so by itself
    cells = (options.cell,) if options.cell else _CELLS if can_multiply() else _CELLS[:1]
    figures: dict[str, Any] = {"benchmark": "train", "threads": torch.get_num_threads()}
    for cell, (hidden_size, preset) in product(cells, _SHAPES.items()):
        shape = preset | ({"batch_size": options.batch_size} if options.batch_size else {})
        measured = {"batch_size": shape["batch_size"], **measure(cell, hidden_size, shape, options)}
        figures.setdefault(cell, {}).update({f"{name}_{hidden_size}": value for name, value in measured.items()})
    for cell in cells:
        print(cell)
        for name, value in figures[cell].items():
            print(f"  {name:34} {value}")
    print(json.dumps(figures))
    return 0


def measure(cell: str, hidden_size: int, shape: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a cell of one width."""
    batch_size, window, seconds = shape["batch_size"], shape["window"], options.seconds
    settings = ModelSettings(
        cell=cell, hidden_size=hidden_size, embedding_size=shape["embedding_size"], vocab_size=shape["vocab_size"]
    )
    model = LanguageModel(settings)
    model.reset_parameters(0)
    token_ids = np.random.default_rng(0).integers(0, settings.vocab_size, 200_000).astype(np.uint16)
    batches = StreamBatches(token_ids, batch_size=batch_size, window=window, seed=0)
    precision = choose_precision("auto", model, batch_size=batch_size, window=window)
    training = TrainingSettings(
        steps=10**9,
        batch_size=batch_size,
        window=window,
        embedding_dropout=0.1,
        input_dropout=0.2,
        output_dropout=0.35,
        weight_dropout=0.1,
    )
    trainer = Trainer(model, batches, training, DeviceChoice(torch.device("cpu"), precision, torch.get_num_threads()))
    plain = PlainLoop(settings, batch_size, window)
    tokens = batch_size * window
    ours: list[float] = []
    theirs: list[float] = []
    peaks: list[float] = []
    for _ in range(options.rounds):
        ours.append(tokens * rate(lambda: float(trainer.train_step()[0]), seconds))
        peaks.append(product_flops(precision, seconds / 3))
        theirs.append(tokens * rate(plain.step, seconds))
    flops = 6 * weights_multiplied(model)
    return {
        "precision": str(precision).removeprefix("torch."),
        "tokens_per_second": round(statistics.median(ours)),
        "gflops": round(statistics.median(ours) * flops / 1e9),
        "peak_gflops": round(statistics.median(peaks) / 1e9),
        "share_of_peak": round(statistics.median(a * flops / b for a, b in zip(ours, peaks, strict=True)), 3),
        "plain_tokens_per_second": round(statistics.median(theirs)),
        "gain_over_plain": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
    }


def weights_multiplied(model: LanguageModel) -> int:
    """Weights that a token is multiplied with: a training step takes six operations for each, two of them forward."""
    return sum(weight.numel() for weight in model.parameters() if weight.ndim > 1)


def rate(step: Callable[[], object], seconds: float) -> float:
    """Calls a second, after one that is not counted."""
    step()
    started, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds or not steps:
        step()
        steps += 1
    return steps / elapsed


def product_flops(dtype: torch.dtype, seconds: float) -> float:
    """Operations a second in products of square matrices."""
    left, right = (torch.randn(_PRODUCT, _PRODUCT).to(dtype) for _ in range(2))
    return 2.0 * _PRODUCT**3 * rate(lambda: left @ right, seconds)


class PlainLoop:
    """Embedding, `nn.LSTM`, projection and tied softmax in fp32, AdamW, clipped gradients: what a tutorial writes."""

    def __init__(self, settings: ModelSettings, batch_size: int, window: int) -> None:
        self._embedding = nn.Embedding(settings.vocab_size, settings.embedding_size)
        self._lstm = nn.LSTM(settings.embedding_size, settings.hidden_size, settings.num_layers, batch_first=True)
        self._projection = nn.Linear(settings.hidden_size, settings.embedding_size)
        parts = nn.ModuleList([self._embedding, self._lstm, self._projection])
        self._parameters = list(parts.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-3)
        self._ids = torch.randint(0, settings.vocab_size, (batch_size, window + 1))
        self._state: tuple[torch.Tensor, torch.Tensor] | None = None

    def step(self) -> float:
        outputs, state = self._lstm(self._embedding(self._ids[:, :-1]), self._state)
        self._state = (state[0].detach(), state[1].detach())
        logits = self._projection(outputs) @ self._embedding.weight.T
        loss = F.cross_entropy(logits.flatten(0, 1), self._ids[:, 1:].flatten())
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return loss.item()


if __name__ == "__main__":
    raise SystemExit(main())
