"""Opening a checkpoint with its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textgen.config import ModelSettings
from textgen.errors import BadCheckpoint
from textgen.jobs.run_folder import resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import COPY_INDEX, Checkpoint, load_checkpoint, read_tokenizer
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


def open_checkpoint(
    path: Path, *, device: torch.device | str = "cpu", limits: Limits | None = None
) -> tuple[Checkpoint, Tokenizer]:
    """Reads a checkpoint (or the best one of a run) and its tokenizer; raises `BadCheckpoint` or `BadTokenizer`."""
    checkpoint = load_checkpoint(resolve_checkpoint(path), device=device, limits=limits)
    return checkpoint, _checked_tokenizer(checkpoint.tokenizer_bytes, checkpoint.model.settings.vocab_size)


def open_tokenizer(path: Path, *, limits: Limits | None = None) -> tuple[ModelSettings, Tokenizer]:
    """The shape and the tokenizer of a checkpoint, without its weights; raises `BadCheckpoint` or `BadTokenizer`."""
    settings, data = read_tokenizer(resolve_checkpoint(path), limits=limits)
    return settings, _checked_tokenizer(data, settings.vocab_size)


def _checked_tokenizer(data: bytes, expected: int) -> Tokenizer:
    tokenizer = Tokenizer.from_bytes(data)
    if tokenizer.vocab_size != expected:
        problem = f"{tokenizer.vocab_size} pieces where config.json says {expected}"
        raise BadCheckpoint("tokenizer.model", "vocab_size", problem)
    return tokenizer


def check_checkpoint(path: Path, *, limits: Limits | None = None) -> None:
    """Reads all of a checkpoint that somebody made elsewhere; raises `BadCheckpoint` or `BadTokenizer`."""
    checkpoint, _ = open_checkpoint(path, limits=limits)
    open_copy_index(checkpoint)


def open_copy_index(checkpoint: Checkpoint) -> CopyIndexes | None:
    """The checkpoint's indexes of what it has learned from; None where it has none. Raises `BadCheckpoint`."""
    if not checkpoint.copy_index:
        return None
    return CopyIndexes.from_bytes(checkpoint.copy_index, tokenizer_sha256=checkpoint.tokenizer_sha256, file=COPY_INDEX)


def sound_copy_index(checkpoint: Checkpoint) -> CopyIndexes | None:
    """The same, for whom a damaged one is as good as none."""
    try:
        return open_copy_index(checkpoint)
    except BadCheckpoint:
        return None
