"""PyTorch in fp32: the reference that all other backends are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from textgen.engine.backends import Slots, StateVector
from textgen.engine.decoding import Logits, TokenIds
from textgen.model.fingerprint import fingerprint
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState


class TorchBackend:
    """The reference on any device. Moves `model` to `device` and fp32, in place.

    The last bits of an fp32 product depend on how many rows it has, so rows are not exact, and requests run one by one.
    """

    exact_rows = False
    batched = False

    def __init__(self, model: LanguageModel, device: torch.device | str = "cpu", *, note: str | None = None) -> None:
        self._device = torch.device(device)
        self._model = model.to(device=self._device, dtype=torch.float32)
        self._note = note
        self._hash = fingerprint(model)

    @property
    def name(self) -> str:
        return f"PyTorch fp32 ({self._device.type})"

    @property
    def note(self) -> str | None:
        return self._note

    @property
    def model_hash(self) -> str:
        return self._hash

    @property
    def vocab_size(self) -> int:
        return self._model.settings.vocab_size

    @property
    def state_size(self) -> int:
        return sum(part.shape[1] for layer in self._model.initial_state(1, device="meta").layers for part in layer)

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self._model.parameters())

    def open_pool(self, capacity: int) -> TorchPool:
        return TorchPool(self._model, self._device, capacity, self.state_size)


class TorchPool:
    """Rows of state in one tensor [capacity, state_size] on the model's device."""

    def __init__(self, model: LanguageModel, device: torch.device, capacity: int, state_size: int) -> None:
        self._model = model
        self._device = device
        self._packed = torch.zeros(capacity, state_size, device=device)
        self._parts = [len(layer) for layer in model.initial_state(1, device="meta").layers]

    @property
    def capacity(self) -> int:
        return self._packed.shape[0]

    def grow(self, capacity: int) -> None:
        added = max(0, capacity - self.capacity)
        self._packed = torch.cat([self._packed, self._packed.new_zeros(added, self._packed.shape[1])])

    def reset(self, slots: Slots) -> None:
        self._packed[self._index(slots)] = 0.0

    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        return self._logits(self._read(slots, token_ids[:, None])[:, 0])

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        # One after the other: padded rows would make a row's last bits depend on its neighbours.
        for place, ids in enumerate(token_ids):
            self._read(slots[place : place + 1], ids[None, :])

    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        return self._logits(self._read(np.array([slot]), token_ids[None, :])[0])

    def copy(self, sources: Slots, targets: Slots) -> None:
        self._packed[self._index(targets)] = self._packed[self._index(sources)]

    def get(self, slot: int) -> StateVector:
        vector: StateVector = self._packed[slot].cpu().numpy().copy()
        return vector

    def put(self, slot: int, vector: StateVector) -> None:
        # A copy: PyTorch warns of arrays that are read-only, as those of snapshots are.
        self._packed[slot] = torch.tensor(vector, device=self._device)

    def _read(self, slots: Slots, token_ids: TokenIds) -> torch.Tensor:
        """token_ids [rows, time] → what the softmax multiplies, [rows, time, embedding]."""
        index = self._index(slots)
        with torch.inference_mode():
            hidden, after = self._model.hidden(
                torch.from_numpy(token_ids).to(self._device), self._unpack(self._packed[index])
            )
            self._packed[index] = torch.cat([part for layer in after.layers for part in layer], 1)
        return hidden

    def _logits(self, hidden: torch.Tensor) -> Logits:
        """hidden [rows, embedding] → logits [rows, vocab]."""
        with torch.inference_mode():
            logits = F.linear(hidden, self._model.embedding, self._model.output_bias)
            result: Logits = logits.cpu().numpy()
        return result

    def _unpack(self, packed: torch.Tensor) -> RecurrentState:
        """[rows, state_size] as a state."""
        parts = iter(packed.split(self._model.settings.hidden_size, 1))
        return RecurrentState(tuple(tuple(next(parts) for _ in range(count)) for count in self._parts))

    def _index(self, slots: Slots) -> torch.Tensor:
        return torch.from_numpy(np.asarray(slots, dtype=np.int64)).to(self._device)
