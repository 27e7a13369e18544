"""What a run will cost, before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from textgen.config import DeviceName, RunSettings
from textgen.jobs.base import Base
from textgen.jobs.ingredients import held_out_part, make_batches, make_model
from textgen.model.language_model import LanguageModel
from textgen.text.corpus import Corpus
from textgen.training.device import DeviceChoice, choose_device, choose_precision
from textgen.training.distillation import with_teachers
from textgen.training.estimate import TrainingEstimate, estimate_training


@dataclass(frozen=True)
class RunEstimate:
    """The cost of training, and the space that is free where the run is to be (None where nobody said where)."""

    training: TrainingEstimate
    device: str
    parameters: int
    free_bytes: int | None

    @property
    def fits_on_disk(self) -> bool:
        """Whether the run's checkpoints have room."""
        return self.free_bytes is None or self.training.disk_bytes < self.free_bytes


def estimate_run(
    settings: RunSettings,
    corpus: Corpus,
    base: Base | None = None,
    teachers: Sequence[LanguageModel] = (),
    device: DeviceName = "auto",
    *,
    out: Path | None = None,
    max_seconds: float = 5.0,
) -> RunEstimate:
    """Trains a throwaway model for some 20 steps, `max_seconds` at most, and reckons from that; writes nothing.

    `corpus` is what `build_corpus` made of the settings' files. Raises what `estimate_training` raises.
    """
    settings.training.check_budget()
    model = make_model(settings, corpus, base).to(choose_device(device))
    texts = make_batches(settings.training, corpus)
    precision = choose_precision(settings.training.precision, model, batch_size=texts.batch_size, window=texts.window)
    choice = DeviceChoice(model.embedding.device, precision, torch.get_num_threads())
    batches = with_teachers(texts, teachers, settings.training, choice)
    part = held_out_part(corpus)
    held_out = [part] if part else []
    estimate = estimate_training(model, batches, settings.training, choice, held_out=held_out, max_seconds=max_seconds)
    free = shutil.disk_usage(_existing(out)).free if out is not None else None
    return RunEstimate(estimate, str(choice), model.num_parameters, free)


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that there is."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
