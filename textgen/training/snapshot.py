"""Everything beside the averaged weights that an identical continuation needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from textgen.errors import BadCheckpoint

TENSORS, VALUES = "training.safetensors", "training.json"


@dataclass(frozen=True)
class TrainingSnapshot:
    """Tensors (weights, optimizer, random generator, carried state) and plain values (counters, position)."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def group(self, name: str, device: torch.device) -> dict[str, Tensor]:
        """The tensors whose names begin with `name` and a dot, by the rest of their names, on `device`."""
        found: dict[str, Tensor] = {}
        for key, tensor in self.tensors.items():
            group, _, rest = key.partition(".")
            if group == name:
                found[rest] = tensor.to(device)
        return found

    def save(self, folder: Path) -> None:
        """Writes the two files into an existing folder."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / TENSORS)
        (folder / VALUES).write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
        (folder / TENSORS).chmod((folder / VALUES).stat().st_mode)

    @staticmethod
    def load(folder: Path) -> TrainingSnapshot:
        """Reads the two files; `BadCheckpoint` when they are missing or damaged."""
        try:
            tensors = load_file(folder / TENSORS)
            values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            raise BadCheckpoint(TENSORS, "file", f"cannot be resumed from ({error})") from None
        if not isinstance(values, dict):
            raise BadCheckpoint(VALUES, "content", "not a JSON object")
        return TrainingSnapshot(tensors, values)
