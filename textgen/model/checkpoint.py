"""A checkpoint: one self-describing folder, read without trusting it.

config.json             format, version, architecture, tokenizer hash, weight format, lineage, figures
model.safetensors       the weights
tokenizer.model         the SentencePiece model
generation_config.json  settings that suit the model
README.md               the model card
copy_index.bin          fingerprints of the training text's n-grams, see `textgen.text.copying`; may be missing
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textgen.config import GenerationSettings, ModelSettings, Settings, parse_settings
from textgen.errors import BadCheckpoint, InvalidSetting
from textgen.files import recover_folder, replace_folder
from textgen.limits import Limits
from textgen.model.language_model import LanguageModel

FORMAT = "textgen-checkpoint"
FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"
GENERATION, CARD, COPY_INDEX = "generation_config.json", "README.md", "copy_index.bin"

WeightFormat = Literal["float32", "float16"]


@dataclass(frozen=True)
class Checkpoint:
    """A model and everything needed to use it.

    `lineage` says how the model came to be and `figures` how good it is; both are plain JSON values. `copy_index` is
    not looked into here; empty: there is none.
    """

    model: LanguageModel
    tokenizer_bytes: bytes
    generation: GenerationSettings = GenerationSettings()
    lineage: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    copy_index: bytes = b""

    @property
    def tokenizer_sha256(self) -> str:
        return hashlib.sha256(self.tokenizer_bytes).hexdigest()


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    weight_format: WeightFormat = "float32",
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Replaces `folder` by the checkpoint, atomically; `extra` may write further files into it.

    Raises `CannotWrite`; what was there before then still is.
    """
    dtype = torch.float16 if weight_format == "float16" else torch.float32
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": checkpoint.model.settings.model_dump(),
        "tokenizer_sha256": checkpoint.tokenizer_sha256,
        "weight_format": weight_format,
        "lineage": checkpoint.lineage,
        "figures": checkpoint.figures,
    }
    weights = {name: _cast(tensor, dtype) for name, tensor in checkpoint.model.state_dict().items()}

    def fill(new: Path) -> None:
        (new / CONFIG).write_text(_json(config), encoding="utf-8")
        save_file(weights, new / WEIGHTS)
        # safetensors makes a file that only its owner can read; a model is for whoever may read its folder.
        (new / WEIGHTS).chmod((new / CONFIG).stat().st_mode)
        (new / TOKENIZER).write_bytes(checkpoint.tokenizer_bytes)
        (new / GENERATION).write_text(_json(checkpoint.generation.model_dump(mode="json")), encoding="utf-8")
        (new / CARD).write_text(checkpoint.card, encoding="utf-8")
        if checkpoint.copy_index:
            (new / COPY_INDEX).write_bytes(checkpoint.copy_index)
        if extra is not None:
            extra(new)

    replace_folder(folder, fill)


def load_checkpoint(folder: Path, *, device: torch.device | str = "cpu", limits: Limits | None = None) -> Checkpoint:
    """Reads a checkpoint folder; weights become float32 on `device`.

    Raises `BadCheckpoint` naming file and field when anything in it is missing, damaged or contradicts the rest.
    """
    limits = limits or Limits()
    folder = recover_folder(folder)
    config = _read_config(folder, limits)
    settings = _checked(ModelSettings, config["model"], CONFIG, "model")
    tokenizer_bytes = _read_tokenizer(folder, config, limits)
    generation = GenerationSettings()
    if (folder / GENERATION).exists():
        values = _read_json(folder / GENERATION, limits)
        generation = _checked(GenerationSettings, values, GENERATION, "")
    weights = _read_weights(folder / WEIGHTS, settings, config["weight_format"], limits)
    with torch.device("meta"):
        model = LanguageModel(settings)
    model.load_state_dict(weights, assign=True)
    model.to(device)
    card, copy_index = folder / CARD, folder / COPY_INDEX
    return Checkpoint(
        model=model,
        tokenizer_bytes=tokenizer_bytes,
        generation=generation,
        lineage=config["lineage"],
        figures=config["figures"],
        card=_read(card, limits.max_config_bytes).decode("utf-8", "replace") if card.exists() else "",
        copy_index=_read(copy_index, limits.max_copy_index_bytes) if copy_index.exists() else b"",
    )


def read_model_settings(folder: Path, *, limits: Limits | None = None) -> tuple[ModelSettings, dict[str, Any]]:
    """The architecture and the whole of config.json, without reading weights; raises `BadCheckpoint`."""
    config = _read_config(recover_folder(folder), limits or Limits())
    return _checked(ModelSettings, config["model"], CONFIG, "model"), config


def read_tokenizer(folder: Path, *, limits: Limits | None = None) -> tuple[ModelSettings, bytes]:
    """The architecture and the tokenizer, without reading weights; raises `BadCheckpoint`."""
    limits, folder = limits or Limits(), recover_folder(folder)
    config = _read_config(folder, limits)
    return _checked(ModelSettings, config["model"], CONFIG, "model"), _read_tokenizer(folder, config, limits)


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder claims to be a checkpoint."""
    return (recover_folder(folder) / CONFIG).is_file()


def _read_config(folder: Path, limits: Limits) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadCheckpoint(str(folder), "folder", "there is no such folder")
    config = _read_json(folder / CONFIG, limits)
    if config.get("format") != FORMAT:
        raise BadCheckpoint(CONFIG, "format", f"{config.get('format')!r} is not {FORMAT!r}")
    version = config.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:  # JSON's true equals 1
        problem = f"{version!r} is unknown; this program reads version {FORMAT_VERSION}"
        raise BadCheckpoint(CONFIG, "format_version", problem)
    kinds: dict[str, type] = {"model": dict, "tokenizer_sha256": str, "weight_format": str}
    for name, kind in kinds.items():
        if not isinstance(config.get(name), kind):
            raise BadCheckpoint(CONFIG, name, "missing or of the wrong kind")
    for name in ("lineage", "figures"):
        if not isinstance(config.setdefault(name, {}), dict):
            raise BadCheckpoint(CONFIG, name, "not a mapping")
    if config["weight_format"] not in ("float32", "float16"):
        raise BadCheckpoint(CONFIG, "weight_format", f"{config['weight_format']!r} is neither float32 nor float16")
    return config


def _read_tokenizer(folder: Path, config: dict[str, Any], limits: Limits) -> bytes:
    data = _read(folder / TOKENIZER, limits.max_tokenizer_bytes)
    if hashlib.sha256(data).hexdigest() != config["tokenizer_sha256"]:
        raise BadCheckpoint(TOKENIZER, "tokenizer_sha256", "the file is not the one that config.json names")
    return data


def _read_weights(path: Path, settings: ModelSettings, weight_format: str, limits: Limits) -> dict[str, Tensor]:
    _check_size(path, limits.max_weights_bytes)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in LanguageModel(settings).state_dict().items()}
    weights: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as stream:
            names = set(stream.keys())
            for name in sorted(names ^ set(expected)):
                raise BadCheckpoint(WEIGHTS, name, "unexpected tensor" if name in names else "tensor missing")
            for name, shape in expected.items():
                found = tuple(stream.get_slice(name).get_shape())
                if found != shape:
                    raise BadCheckpoint(WEIGHTS, name, f"shape {found} where config.json implies {shape}")
                tensor = stream.get_tensor(name)
                if str(tensor.dtype) != f"torch.{weight_format}":
                    raise BadCheckpoint(WEIGHTS, name, f"{tensor.dtype} where config.json says {weight_format}")
                if not bool(torch.isfinite(tensor).all()):
                    raise BadCheckpoint(WEIGHTS, name, "holds values that are not finite numbers")
                weights[name] = tensor.float()
    except SafetensorError as error:
        raise BadCheckpoint(WEIGHTS, "header", f"not a safetensors file ({error})") from None
    return weights


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().to("cpu")
    if dtype == torch.float16:
        # A weight beyond the range of fp16 would become infinite and the checkpoint unreadable.
        limit = torch.finfo(torch.float16).max
        tensor = tensor.clamp(-limit, limit)
    return tensor.to(dtype).contiguous()


def _json(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _check_size(path: Path, max_bytes: int) -> None:
    if not path.is_file():
        raise BadCheckpoint(path.name, "file", "missing")
    _check_link(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise BadCheckpoint(path.name, "size", f"{size} bytes, more than the {max_bytes} allowed")


def _check_link(path: Path) -> None:
    """Refuses a file outside its folder, which somebody else may have filled: it could be anything on this machine."""
    folder, target = path.parent.resolve(), path.resolve()
    # The cache of Hugging Face has snapshots/REVISION/file → ../../blobs/HASH.
    in_cache = folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"
    if not target.is_relative_to(folder) and not in_cache:
        raise BadCheckpoint(path.name, "link", "leads out of the folder")


def _read(path: Path, max_bytes: int) -> bytes:
    _check_size(path, max_bytes)
    return path.read_bytes()


def _read_json(path: Path, limits: Limits) -> dict[str, Any]:
    data = _read(path, limits.max_config_bytes)
    try:
        values = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise BadCheckpoint(path.name, "content", "not valid JSON") from None
    if not isinstance(values, dict):
        raise BadCheckpoint(path.name, "content", "not a JSON object")
    return values


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is no number that JSON has")
    return value


def _checked(kind: type[Any], values: dict[str, Any], file: str, prefix: str) -> Any:
    assert issubclass(kind, Settings)
    try:
        return parse_settings(kind, values)
    except InvalidSetting as error:
        name = ".".join(part for part in (prefix, str(error.params["field"])) if part)
        problem = f"{error.params['given']} was found; allowed: {error.params['allowed']}"
        raise BadCheckpoint(file, name, problem) from None
