"""The files that hold a checkpoint's weights, by their names: to know them needs no torch.

The names and the index are those of the Hugging Face libraries, so that theirs read ours:
https://huggingface.co/docs/huggingface_hub/package_reference/serialization
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"

WeightFormat = Literal["float32", "float16"]

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def weight_files(folder: Path) -> list[Path]:
    """The files in `folder` that hold its weights, whether or not they are there."""
    if not (folder / WEIGHTS_INDEX).exists():
        return [folder / WEIGHTS]
    return [folder / WEIGHTS_INDEX, *sorted(path for path in folder.iterdir() if is_shard(path.name))]


def is_weights(name: str) -> bool:
    """Whether a file of that name may hold weights, or says where they are."""
    return name in (WEIGHTS, WEIGHTS_INDEX) or is_shard(name)


def is_shard(name: str) -> bool:
    """Whether it is the name of one file of several."""
    return _SHARD.fullmatch(name) is not None
