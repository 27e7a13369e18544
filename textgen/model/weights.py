"""Weights as safetensors: one file, or several with an index where files must stay small; see `weight_files`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textgen.config import ModelSettings
from textgen.errors import BadCheckpoint
from textgen.limits import Limits
from textgen.model.language_model import LanguageModel
from textgen.model.untrusted import check_size, explain_read_errors, read_json
from textgen.model.weight_files import WEIGHTS, WEIGHTS_INDEX, WeightFormat, is_shard

# What a safetensors file holds beside its tensors.
_HEADER_BYTES = 16_384


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], weight_format: WeightFormat, *, max_file_bytes: int | None = None
) -> None:
    """Writes `weights` into `folder`; files hold at most `max_file_bytes`, save where one tensor is larger than that.

    Values beyond the range of fp16 become its largest.
    """
    cast = {name: _cast(tensor, weight_format) for name, tensor in weights.items()}
    if max_file_bytes is None or sum(map(_bytes, cast.values())) + _HEADER_BYTES <= max_file_bytes:
        _save(cast, folder / WEIGHTS)
        return
    from huggingface_hub import split_torch_state_dict_into_shards  # slow to import, seldom needed

    plan = split_torch_state_dict_into_shards(cast, max_shard_size=max(1, max_file_bytes - _HEADER_BYTES))
    for name, tensors in plan.filename_to_tensors.items():
        _save({tensor: cast[tensor] for tensor in tensors}, folder / name)
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_model(
    folder: Path, settings: ModelSettings, weight_format: str, limits: Limits, device: torch.device | str
) -> LanguageModel:
    """The model of that shape whose weights lie in `folder`; raises `BadCheckpoint` as `read_weights`."""
    with torch.device("meta"):
        model = LanguageModel(settings)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(read_weights(folder, shapes, weight_format, limits), assign=True)
    return model.to(device)


def read_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], weight_format: str, limits: Limits
) -> dict[str, Tensor]:
    """The tensors of `shapes` in fp32; raises `BadCheckpoint` when any file holds more, less or something else."""
    if not (folder / WEIGHTS_INDEX).exists():
        check_size(folder / WEIGHTS, limits.max_weights_bytes)
        return _read_file(folder / WEIGHTS, shapes, weight_format)
    files = _indexed_files(folder, shapes, limits)
    left = limits.max_weights_bytes
    for name in files:
        left -= check_size(folder / name, left)
    weights: dict[str, Tensor] = {}
    for name, tensors in files.items():
        weights |= _read_file(folder / name, {tensor: shapes[tensor] for tensor in tensors}, weight_format)
    return weights


def _indexed_files(folder: Path, shapes: Mapping[str, tuple[int, ...]], limits: Limits) -> dict[str, list[str]]:
    """The tensors in each file, as the index has them."""
    places: Any = read_json(folder / WEIGHTS_INDEX, limits.max_config_bytes).get("weight_map")
    if not isinstance(places, dict):
        raise BadCheckpoint(WEIGHTS_INDEX, "weight_map", "missing or of the wrong kind")
    _check_names(WEIGHTS_INDEX, places.keys(), shapes)
    files: dict[str, list[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not is_shard(name):
            raise BadCheckpoint(WEIGHTS_INDEX, tensor, f"{name!r} is no name such as model-00001-of-00002.safetensors")
        files.setdefault(name, []).append(tensor)
    return files


def _read_file(path: Path, shapes: Mapping[str, tuple[int, ...]], weight_format: str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    try:
        with explain_read_errors(path), safe_open(path, framework="pt") as stream:
            _check_names(path.name, stream.keys(), shapes)
            for name, shape in shapes.items():
                found = tuple(stream.get_slice(name).get_shape())
                if found != shape:
                    raise BadCheckpoint(path.name, name, f"shape {found} where config.json implies {shape}")
                tensor = stream.get_tensor(name)
                if str(tensor.dtype) != f"torch.{weight_format}":
                    raise BadCheckpoint(path.name, name, f"{tensor.dtype} where config.json says {weight_format}")
                if not bool(torch.isfinite(tensor).all()):
                    raise BadCheckpoint(path.name, name, "holds values that are not finite numbers")
                weights[name] = tensor.float()
    except SafetensorError as error:
        raise BadCheckpoint(path.name, "header", f"not a safetensors file ({error})") from None
    return weights


def _check_names(file: str, names: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(set(names) ^ set(shapes)):
        raise BadCheckpoint(file, name, "tensor missing" if name in shapes else "unexpected tensor")


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(weights), path)
    # safetensors makes a file that only its owner can read; a model is for whoever may read its folder.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _cast(tensor: Tensor, weight_format: WeightFormat) -> Tensor:
    tensor = tensor.detach().to("cpu")
    if weight_format == "float16":
        # A weight beyond the range of fp16 would become infinite and the checkpoint unreadable.
        limit = torch.finfo(torch.float16).max
        tensor = tensor.clamp(-limit, limit)
    return tensor.to(torch.float16 if weight_format == "float16" else torch.float32).contiguous()
