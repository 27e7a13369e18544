"""A checkpoint: one self-describing folder, read without trusting it.

config.json             format, version, architecture, tokenizer hash, weight format, lineage, figures
model.safetensors       the weights; large ones may lie in several files, see `textgen.model.weight_files`
tokenizer.model         the SentencePiece model
generation_config.json  settings that suit the model
README.md               the model card
copy_index.safetensors          fingerprints of the training text's n-grams, see `textgen.text.copying`; may be missing

What a checkpoint says of itself is read without torch, which takes seconds to import; its weights are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.config import GenerationSettings, ModelSettings, Settings, parse_settings
from textgen.errors import BadCheckpoint, InvalidSetting
from textgen.files import is_file, recover_folder, replace_folder
from textgen.limits import Limits
from textgen.model.untrusted import read_file, read_json
from textgen.model.weight_files import WeightFormat

if TYPE_CHECKING:
    import torch

    from textgen.model.language_model import LanguageModel

FORMAT = "textgen-checkpoint"
FORMAT_VERSION = 1
CONFIG, TOKENIZER = "config.json", "tokenizer.model"
GENERATION, CARD, COPY_INDEX = "generation_config.json", "README.md", "copy_index.safetensors"


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
    max_file_bytes: int | None = None,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Replaces `folder` by the checkpoint, atomically; `extra` may write further files into it.

    Weights of more than `max_file_bytes` are spread over several files, see `write_weights`.
    Raises `CannotWrite`; what was there before then still is.
    """
    from textgen.model.weights import write_weights  # imports torch

    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": checkpoint.model.settings.model_dump(),
        "tokenizer_sha256": checkpoint.tokenizer_sha256,
        "weight_format": weight_format,
        "lineage": checkpoint.lineage,
        "figures": checkpoint.figures,
    }

    def fill(new: Path) -> None:
        (new / CONFIG).write_text(_json(config), encoding="utf-8")
        write_weights(new, checkpoint.model.state_dict(), weight_format, max_file_bytes=max_file_bytes)
        (new / TOKENIZER).write_bytes(checkpoint.tokenizer_bytes)
        (new / GENERATION).write_text(generation_json(checkpoint.generation), encoding="utf-8")
        (new / CARD).write_text(checkpoint.card, encoding="utf-8")
        if checkpoint.copy_index:
            (new / COPY_INDEX).write_bytes(checkpoint.copy_index)
        if extra is not None:
            extra(new)

    replace_folder(folder, fill)


def load_checkpoint(folder: Path, *, device: torch.device | str = "cpu", limits: Limits | None = None) -> Checkpoint:
    """Reads a checkpoint folder; weights become float32 on `device`.

    Raises `BadCheckpoint` naming file and field when anything in it is missing, damaged or contradicts the rest,
    and `MissingFile` where a file goes meanwhile or may not be read, as all that reads a checkpoint does.
    """
    from textgen.model.weights import read_model  # imports torch

    limits = limits or Limits()
    folder = recover_folder(folder)
    config = _read_config(folder, limits)
    settings = _checked(ModelSettings, config["model"], CONFIG, "model")
    tokenizer_bytes = _read_tokenizer(folder, config, limits)
    generation = GenerationSettings()
    if (folder / GENERATION).exists():
        values = read_json(folder / GENERATION, limits.max_config_bytes)
        generation = _checked(GenerationSettings, values, GENERATION, "")
    model = read_model(folder, settings, config["weight_format"], limits, device)
    copy_index = folder / COPY_INDEX
    return Checkpoint(
        model=model,
        tokenizer_bytes=tokenizer_bytes,
        generation=generation,
        lineage=config["lineage"],
        figures=config["figures"],
        card=read_card(folder, limits=limits),
        copy_index=read_file(copy_index, limits.max_copy_indexes_bytes) if copy_index.exists() else b"",
    )


def generation_json(generation: GenerationSettings) -> str:
    """What generation_config.json holds."""
    return _json(generation.model_dump(mode="json"))


def read_model_settings(folder: Path, *, limits: Limits | None = None) -> tuple[ModelSettings, dict[str, Any]]:
    """The architecture and the whole of config.json, without reading weights; raises `BadCheckpoint`.

    What config.json leaves out of the architecture stands there with its default.
    """
    config = _read_config(recover_folder(folder), limits or Limits())
    settings: ModelSettings = _checked(ModelSettings, config["model"], CONFIG, "model")
    return settings, {**config, "model": settings.model_dump()}


def read_tokenizer(folder: Path, *, limits: Limits | None = None) -> tuple[ModelSettings, bytes]:
    """The architecture and the tokenizer, without reading weights; raises `BadCheckpoint`."""
    limits, folder = limits or Limits(), recover_folder(folder)
    config = _read_config(folder, limits)
    return _checked(ModelSettings, config["model"], CONFIG, "model"), _read_tokenizer(folder, config, limits)


def read_card(folder: Path, *, limits: Limits | None = None) -> str:
    """The model card; empty where there is none. Raises `BadCheckpoint`."""
    card = recover_folder(folder) / CARD
    if not card.exists():
        return ""
    return read_file(card, (limits or Limits()).max_config_bytes).decode("utf-8", "replace")


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder claims to be a checkpoint."""
    return is_file(recover_folder(folder) / CONFIG)


def _read_config(folder: Path, limits: Limits) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadCheckpoint(str(folder), "folder", "there is no such folder")
    config = read_json(folder / CONFIG, limits.max_config_bytes)
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
    data = read_file(folder / TOKENIZER, limits.max_tokenizer_bytes)
    if hashlib.sha256(data).hexdigest() != config["tokenizer_sha256"]:
        raise BadCheckpoint(TOKENIZER, "tokenizer_sha256", "the file is not the one that config.json names")
    return data


def _json(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _checked(kind: type[Any], values: dict[str, Any], file: str, prefix: str) -> Any:
    assert issubclass(kind, Settings)
    try:
        return parse_settings(kind, values)
    except InvalidSetting as error:
        name = ".".join(part for part in (prefix, str(error.params["field"])) if part)
        problem = f"{error.params['given']} was found; allowed: {error.params['allowed']}"
        raise BadCheckpoint(file, name, problem) from None
