"""The models that a run learns from beside its text: opened, and kept in its folder, so that it does without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen.config import RunSettings
from textgen.errors import InvalidSetting
from textgen.jobs.base import Base
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import run_of
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.text.tokenizer import Tokenizer
from textgen.text.vocabulary import same_pieces


@dataclass(frozen=True)
class Teacher:
    """An opened checkpoint to learn from."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    def as_lineage(self) -> dict[str, Any]:
        return {"name": self.name, "lineage": self.checkpoint.lineage}


def open_teachers(settings: RunSettings, base: Base | None = None, *, limits: Limits | None = None) -> list[Teacher]:
    """The teachers that `settings` name, none or more, all of one vocabulary: that of the `base`, if there is one.

    Raises `InvalidSetting`, `BadCheckpoint` or `BadTokenizer`.
    """
    teachers = [_open(Path(name), limits) for name in settings.teachers]
    if teachers and settings.text.base_vocabulary != "keep":
        given = f"base_vocabulary: {settings.text.base_vocabulary} beside them"
        raise InvalidSetting("teachers", given, "base_vocabulary: keep, as they bring theirs")
    expected = given_vocabulary(base, teachers)
    for teacher in teachers:
        if expected is not None and not same_pieces(teacher.tokenizer, expected):
            owner = "the base" if base else teachers[0].name
            raise InvalidSetting("teachers", teacher.name, f"models with the vocabulary of {owner}")
    return teachers


def given_vocabulary(base: Base | None, teachers: Sequence[Teacher]) -> Tokenizer | None:
    """The vocabulary that a run is given by its base or else by its teachers; None where it is to make its own."""
    return next((model.tokenizer for model in (base, *teachers) if model is not None), None)


def _open(path: Path, limits: Limits | None) -> Teacher:
    name = run_of(path).name
    if not path.exists():
        raise InvalidSetting("teachers", name, "checkpoints or runs that are there")
    return Teacher(name, *open_checkpoint(path, limits=limits))


def write_teachers(folder: Path, teachers: Sequence[Teacher]) -> None:
    """Keeps them in a folder; raises `CannotWrite`."""
    for number, teacher in enumerate(teachers, 1):
        save_checkpoint(folder / f"{number:02}", teacher.checkpoint)


def read_teachers(folder: Path, count: int, *, limits: Limits | None = None) -> list[LanguageModel]:
    """The `count` models that `write_teachers` left there; raises `BadCheckpoint`."""
    return [load_checkpoint(folder / f"{number:02}", limits=limits).model for number in range(1, count + 1)]
