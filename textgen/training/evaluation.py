"""How well a model predicts held-out text. The trainer, the command line and the page all ask here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from textgen.config import AdaptationSettings
from textgen.errors import NoText
from textgen.model.adaptation import OnlineLearner
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.corpus import StreamBatches
from textgen.text.tokenizer import BOS_ID, PAD_ID
from textgen.training.device import autocast


@dataclass(frozen=True)
class Evaluation:
    """Averages over held-out text. Per-character and per-byte figures compare models with different vocabularies."""

    nats_per_token: float
    nats_per_char: float
    bits_per_byte: float
    perplexity: float
    accuracy: float
    tokens: int
    chars: int
    bytes: int

    @staticmethod
    def from_numbers(numbers: Sequence[float]) -> Evaluation:
        """The inverse of `dataclasses.astuple`, of numbers that may all have become floats on the way."""
        nats_per_token, nats_per_char, bits_per_byte, perplexity, accuracy, *counts = numbers
        tokens, chars, size = map(int, counts)
        return Evaluation(nats_per_token, nats_per_char, bits_per_byte, perplexity, accuracy, tokens, chars, size)

    def as_dict(self) -> dict[str, Any]:
        """The figures by name, as they stand in JSON."""
        return asdict(self)


def evaluate(
    model: LanguageModel,
    ids: NDArray[np.integer],
    *,
    chars: int,
    bytes: int,
    streams: int = 1,
    warmup: int = 256,
    window: int = 256,
    precision: torch.dtype = torch.float32,
    progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Reads `ids` [tokens] from an empty state to the end and scores every token but `<bos>`, which is given.

    `chars` and `bytes` are the size of the same text. With `streams` above 1 the text is cut into so many parts that
    are read side by side, which is faster; each part but the first then reads the `warmup` tokens before it without
    scoring them, so that its state is nearly the one that reading everything would have left.

    Raises `NoText` when there is nothing to score.
    """
    device = model.embedding.device

    def read(inputs: Tensor, _targets: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        with torch.inference_mode(), autocast(device, precision):
            return model(inputs, state)  # type: ignore[no-any-return]

    plan = _plan(ids, streams, warmup)
    return _score(plan, read, model.initial_state(len(plan.starts)), window, chars, bytes, progress)


def evaluate_dynamically(
    model: LanguageModel,
    ids: NDArray[np.integer],
    *,
    chars: int,
    bytes: int,
    settings: AdaptationSettings,
    progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """`evaluate` with a model that learns as it reads: dynamic evaluation (Krause et al. 2018).

    Every window is scored before anything is learned from it, so that each token is predicted from what came before it
    and nothing else. The text is read once, whatever `settings.passes` says. `model` is left as it is: a private fp32
    copy learns, and is dropped at the end. Raises `NoText` when there is nothing to score.
    """
    plan = _plan(ids, streams=1, warmup=0)
    learner = OnlineLearner(model, settings)
    return _score(plan, learner.read, learner.model.initial_state(1), settings.window, chars, bytes, progress)


_Read = Callable[[Tensor, Tensor, RecurrentState], tuple[Tensor, RecurrentState]]


def _score(
    plan: _Plan,
    read: _Read,
    state: RecurrentState,
    window: int,
    chars: int,
    bytes: int,
    progress: ProgressCallback,
) -> Evaluation:
    """Figures of what `read` predicts, window after window: from (inputs, targets, state) the logits and next state."""
    device = state.layers[0][0].device
    total, correct = 0.0, 0
    for start in range(0, plan.length, window):
        inputs, targets = (torch.from_numpy(part).to(device) for part in plan.window(start, window))
        logits, state = read(inputs, targets, state)
        with torch.inference_mode():
            flat, wanted = logits.flatten(0, 1).float(), targets.flatten()
            total += F.cross_entropy(flat, wanted, ignore_index=StreamBatches.IGNORE, reduction="sum").item()
            correct += int((flat.argmax(-1) == wanted).sum())
        progress(Progress("evaluating", min(plan.length, start + window) * len(plan.starts), plan.scored, "tokens"))
    tokens = plan.scored
    return Evaluation(
        nats_per_token=total / tokens,
        nats_per_char=total / max(1, chars),
        bits_per_byte=total / math.log(2) / max(1, bytes),
        perplexity=math.exp(min(700.0, total / tokens)),
        accuracy=correct / tokens,
        tokens=tokens,
        chars=chars,
        bytes=bytes,
    )


@dataclass(frozen=True)
class _Plan:
    """Which positions each row reads and from where on it scores them."""

    sequence: NDArray[np.integer]
    starts: list[int]
    scored_from: list[int]
    length: int
    scored: int

    def window(self, start: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size = min(size, self.length - start)
        inputs = np.full((len(self.starts), size), PAD_ID, np.int64)
        targets = np.full((len(self.starts), size), StreamBatches.IGNORE, np.int64)
        for row, (first, scored_from) in enumerate(zip(self.starts, self.scored_from, strict=True)):
            position = first + start
            piece = np.asarray(self.sequence[position : position + size + 1], np.int64)
            count = len(piece) - 1
            if count < 1:
                continue
            inputs[row, :count] = piece[:-1]
            wanted = np.where(piece[1:] == BOS_ID, StreamBatches.IGNORE, piece[1:])
            wanted[: max(0, scored_from - position)] = StreamBatches.IGNORE
            targets[row, :count] = wanted
        return inputs, targets


def _plan(ids: NDArray[np.integer], streams: int, warmup: int) -> _Plan:
    sequence = ids if len(ids) and ids[0] == BOS_ID else np.concatenate([np.array([BOS_ID], ids.dtype), ids])
    pairs = len(sequence) - 1  # (input, target) pairs
    scored = int(pairs - np.count_nonzero(sequence[1:] == BOS_ID))
    if scored < 1:
        raise NoText("held-out text", "none", "one token")
    if streams > 1 and pairs < 2 * streams * warmup:
        streams = max(1, pairs // (2 * warmup)) if warmup else 1
    # The first row needs no warm-up and scores that many tokens more, so that all rows are equally long.
    share = math.ceil((pairs - warmup) / streams) if streams > 1 else pairs
    length = share + warmup if streams > 1 else pairs
    starts = [row * share for row in range(streams)]
    scored_from = [0] + [start + warmup for start in starts[1:]]
    return _Plan(sequence, starts, scored_from, length, scored)


def padded_batch_loss(model: LanguageModel, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """Length-masked loss of sequences of different lengths, read side by side from an empty state.

    Each sequence is padded on the right; packing then drops the padded positions before the softmax, so they
    contribute neither loss nor gradient. Every sequence needs two tokens: the first is given. Returns the summed
    negative log-likelihood in nats, differentiable, and the number of tokens it sums over.
    """
    device = model.embedding.device
    if not sequences or min(map(len, sequences)) < 2:
        raise NoText("sequence", "fewer than two tokens", "two tokens")
    rows = [torch.as_tensor(sequence, dtype=torch.long, device=device) for sequence in sequences]
    padded = pad_sequence(rows, batch_first=True, padding_value=PAD_ID)  # [batch, time]
    lengths = torch.tensor([len(row) - 1 for row in rows])
    hidden, _ = model.hidden(padded[:, :-1], model.initial_state(len(rows)))
    packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False).data  # [tokens, embedding]
    targets = pack_padded_sequence(padded[:, 1:], lengths, batch_first=True, enforce_sorted=False).data
    logits = F.linear(packed, model.embedding, model.output_bias)
    return F.cross_entropy(logits.float(), targets, reduction="sum"), int(lengths.sum())
