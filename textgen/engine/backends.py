"""What runs the model for the engine. Every backend is tested against the PyTorch fp32 one, the reference."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from textgen.engine.decoding import Logits, TokenIds
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState


class Backend(Protocol):
    """Steps rows of state. Called from one thread at a time; a state given to it is not changed."""

    @property
    def name(self) -> str:
        """For people: what runs the model, in which number format, where."""

    @property
    def vocab_size(self) -> int: ...

    def initial_state(self, rows: int) -> RecurrentState:
        """The state of `rows` rows before any text."""

    def prefill(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        """Reads token_ids [time] into a state of one row; returns logits [1, vocab] after the last, and the state."""

    def step(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        """Reads one token for each row, token_ids [rows]; returns logits [rows, vocab] and the state after them."""


class TorchBackend:
    """The reference: PyTorch in fp32 on any device. Moves `model` to `device` and fp32, in place."""

    def __init__(self, model: LanguageModel, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._model = model.to(device=self._device, dtype=torch.float32)

    @property
    def name(self) -> str:
        return f"PyTorch fp32 ({self._device.type})"

    @property
    def vocab_size(self) -> int:
        return self._model.settings.vocab_size

    def initial_state(self, rows: int) -> RecurrentState:
        with torch.inference_mode():
            return self._model.initial_state(rows)

    def prefill(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        return self._run(torch.from_numpy(token_ids)[None, :], state)

    def step(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        return self._run(torch.from_numpy(token_ids)[:, None], state)

    def _run(self, token_ids: torch.Tensor, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        """token_ids [rows, time] → logits [rows, vocab] after the last of them."""
        with torch.inference_mode():
            hidden, after = self._model.hidden(token_ids.to(self._device), state)
            # The vocabulary's product is worth as much as the layers: only the last place needs it.
            logits = F.linear(hidden[:, -1], self._model.embedding, self._model.output_bias)
            result: Logits = logits.cpu().numpy()
        return result, after
