"""A training run as the ranks beside rank 0 see it: they train with it, and write nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from textgen.config import DeviceName, TrainingBudget, TrainingSettings
from textgen.errors import Abandoned, InvalidSetting, OutOfMemory, TrainingDiverged
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.jobs.training_run import make_trainer
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.text.corpus import Corpus, open_corpus
from textgen.training.device import choose_device, emulates_bf16
from textgen.training.distributed import Ranks
from textgen.training.estimate import estimate_training
from textgen.training.events import Event
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import Trainer


class FollowingRun:
    """Does what `TrainingRun` does, where that takes all ranks."""

    def __init__(self, settings: TrainingSettings, corpus: Corpus, trainer: Trainer) -> None:
        self.corpus = corpus
        self.trainer = trainer
        self._settings = settings

    def stop(self, _state: RunState = "stopped") -> None:
        """Lets all ranks end after the current step. May be called from a signal handler or another thread."""
        self.trainer.stop()

    def estimate(self) -> None:
        """Takes part in what rank 0 times."""
        estimate_training(
            self.trainer.model,
            self.trainer.batches,
            self._settings,
            self.trainer.choice,
            ranks=self.trainer.ranks,
        )

    def events(self) -> Iterator[Event]:
        """Trains; rank 0 keeps the files true."""
        try:
            yield from self.trainer.events()
        except (TrainingDiverged, OutOfMemory) as error:
            # Rank 0 meets the same, and says so.
            self.trainer.ranks.abandon()
            raise Abandoned from error


def follow_run(
    path: Path,
    ranks: Ranks,
    *,
    longer: TrainingBudget | None = None,
    device: DeviceName = "auto",
    limits: Limits | None = None,
) -> FollowingRun:
    """Waits until rank 0 has prepared the run in the folder `path`, and joins it.

    Raises `Abandoned` when rank 0 gave up, `InvalidSetting` when the folder is not to be seen from here, `BadCorpus` or
    `BadCheckpoint` when it is damaged.
    """
    chosen = choose_device(device)
    restores, extends, emulating = ranks.exchange(0.0, 0.0, float(emulates_bf16(chosen)))
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise InvalidSetting("out", str(path), "a folder that all hosts share under the same name")
    settings = folder.settings()
    corpus = open_corpus(folder.corpus)
    model = LanguageModel(settings.model).to(chosen)
    lineage = {} if settings.base is None else {"base": settings.base}
    trainer = make_trainer(folder, settings, corpus, model, lineage, ranks, without_bf16=emulating > 0)
    if restores:
        saved = load_checkpoint(folder.last, limits=limits)
        trainer.restore(saved.model.state_dict(), TrainingSnapshot.load(folder.last))
        ranks.exchange()  # all have read before rank 0 writes
    if extends and longer is not None:
        trainer.extend(longer)
    return FollowingRun(settings.training, corpus, trainer)
