"""The state of a recurrent model as a value: what it remembers of the text so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from textgen.errors import InvalidSetting

Index = slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class RecurrentState:
    """For each layer of each member the tensors of its cell, each [batch, hidden] (LSTM: h and c; GRU and RNN: h)."""

    layers: tuple[tuple[Tensor, ...], ...]

    @property
    def batch_size(self) -> int:
        return self.layers[0][0].shape[0]

    def rows(self, index: Index) -> RecurrentState:
        """The rows that `index` picks, in its order; rows may repeat."""
        if not isinstance(index, slice | Tensor):
            index = torch.as_tensor(index, dtype=torch.long, device=self.layers[0][0].device)
        return self._map(lambda tensor: tensor[index])

    @staticmethod
    def join(states: Sequence[RecurrentState]) -> RecurrentState:
        """The rows of all `states`, one below the other."""
        layers = zip(*(state.layers for state in states), strict=True)
        return RecurrentState(
            tuple(tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in layers),
        )

    def clone(self) -> RecurrentState:
        return self._map(torch.clone)

    def detach(self) -> RecurrentState:
        return self._map(torch.detach)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RecurrentState:
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def zeroed(self, rows: Tensor) -> RecurrentState:
        """A copy with the rows where the boolean `rows` [batch] is true set to zero: the state before any text."""
        keep = ~rows[:, None]
        return self._map(lambda tensor: tensor * keep)

    def to_bytes(self) -> bytes:
        """The state as safetensors bytes."""
        return safetensors.torch.save(dict(self.named_tensors()))

    @staticmethod
    def from_bytes(data: bytes) -> RecurrentState:
        """Reads what `to_bytes` made; `InvalidSetting` for anything else."""
        try:
            tensors = safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise InvalidSetting("state", f"{len(data)} bytes", f"bytes of a saved state ({error})") from None
        return RecurrentState.from_named_tensors(tensors)

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """("layer.part", tensor) pairs in a fixed order."""
        return [
            (f"{number}.{part}", tensor.contiguous())
            for number, layer in enumerate(self.layers)
            for part, tensor in enumerate(layer)
        ]

    @staticmethod
    def from_named_tensors(tensors: dict[str, Tensor]) -> RecurrentState:
        """The inverse of `named_tensors`; `InvalidSetting` when layers or parts are missing or their shapes differ."""
        layers: list[tuple[Tensor, ...]] = []
        while f"{len(layers)}.0" in tensors:
            parts: list[Tensor] = []
            while (name := f"{len(layers)}.{len(parts)}") in tensors:
                parts.append(tensors[name])
            layers.append(tuple(parts))
        counted = sum(map(len, layers))
        shapes = {tensor.shape[:1] for tensor in tensors.values() if tensor.dim() == 2}
        if not counted or counted != len(tensors) or len(shapes) != 1 or any(t.dim() != 2 for t in tensors.values()):
            raise InvalidSetting(
                "state", f"tensors {sorted(tensors)}", "one [batch, hidden] tensor for each layer.part"
            )
        return RecurrentState(tuple(layers))

    def _map(self, function: object) -> RecurrentState:
        assert callable(function)
        return RecurrentState(tuple(tuple(function(tensor) for tensor in layer) for layer in self.layers))
