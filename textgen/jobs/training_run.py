"""Carries out one training run in a run folder: text → corpus → trainer → files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock

from textgen.config import DeviceName, GenerationSettings, RunSettings, update_settings
from textgen.engine import Engine, FinishedEvent, GenerationRequest
from textgen.errors import BadCorpus, InvalidSetting
from textgen.jobs.card import model_card
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.progress import ProgressCallback, ignore_progress
from textgen.text.corpus import Corpus, StreamBatches, build_corpus, open_corpus
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.training.device import DeviceChoice, choose_device, choose_precision
from textgen.training.events import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    StartEvent,
    StepEvent,
)
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import HeldOut, Sampler, Trainer

_SAMPLE_TOKENS = 120
_STATUS_SECONDS = 1.0


class TrainingRun:
    """A run that is ready to train: the corpus is built, the model made or loaded.

    It holds the `lock` of its folder until `events` ends.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: RunSettings,
        corpus: Corpus,
        trainer: Trainer,
        lock: BaseFileLock,
        *,
        lineage: dict[str, Any],
        figures: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.corpus = corpus
        self.trainer = trainer
        self._lock = lock
        self._lineage = lineage
        self._figures = figures

    def stop(self) -> None:
        self.trainer.stop()

    def events(self) -> Iterator[Event]:
        """Trains and keeps the folder's files true; each event is written before it is passed on."""
        status_due = 0.0
        try:
            for event in self.trainer.events():
                self._record(event)
                if isinstance(event, StepEvent) and event.elapsed_seconds >= status_due:
                    status_due = event.elapsed_seconds + _STATUS_SECONDS
                    self.folder.write_status("running", step=event.step, progress=event.progress)
                yield event
        except Exception as error:
            self.folder.write_failure(error)
            raise
        finally:
            self._lock.release()

    def _record(self, event: Event) -> None:
        if isinstance(event, StartEvent):
            self.folder.cut_back(event.step)
            self.folder.write_status("running", step=event.step)
        elif isinstance(event, StepEvent):
            self.folder.append_step(event)
        elif isinstance(event, EvaluationEvent):
            self._figures = {"step": event.step, **event.evaluation.as_dict()}
            self.folder.append_evaluation(event)
        elif isinstance(event, SampleEvent):
            self.folder.append_samples(event)
        elif isinstance(event, CheckpointEvent):
            self._save(event)
        elif isinstance(event, EndEvent):
            self.folder.write_status(event.reason, step=event.step)

    def _save(self, event: CheckpointEvent) -> None:
        figures = {**self._figures, "elapsed_seconds": round(self.trainer.elapsed_seconds, 1)}
        checkpoint = Checkpoint(
            model=self.trainer.average,
            tokenizer_bytes=self.corpus.tokenizer.to_bytes(),
            generation=GenerationSettings(),
            lineage=self._lineage,
            figures=figures,
            card=model_card(self.folder.path.name, self.settings, self.corpus, figures),
        )
        # Nothing can be resumed from "best" alone, if the process is killed before the first "last".
        if event.kind == "last" or not self.folder.last.exists():
            save_checkpoint(self.folder.last, checkpoint, extra=self.trainer.snapshot().save)
        if event.kind == "best":
            save_checkpoint(self.folder.best, checkpoint)


def start_run(
    path: Path,
    settings: RunSettings,
    *,
    device: DeviceName = "auto",
    progress: ProgressCallback = ignore_progress,
) -> TrainingRun:
    """Makes a new run folder and prepares training; raises errors of ours for bad text or settings."""
    folder = RunFolder(path)
    if not settings.files:
        raise InvalidSetting("files", "none", "at least one text file")
    # What can be wrong without reading the text is found out before there is a folder.
    settings.training.check_budget()
    chosen = choose_device(device)
    base = _open_base(settings)
    folder.check_unused()
    with _released_on_failure(folder.lock("out")) as lock:
        folder.create(settings)
        return _prepare(folder, settings, chosen, base, lock, None, progress)


def resume_run(path: Path, *, device: DeviceName = "auto", progress: ProgressCallback = ignore_progress) -> TrainingRun:
    """Takes up a run from its last checkpoint; the continuation is the one that an uninterrupted run would have had.

    A run that was killed before its first checkpoint begins anew, if need be from the text. Raises `InvalidSetting`
    when the folder is no run or another process trains it, `BadCorpus` or `BadCheckpoint` when it is damaged.
    """
    folder = RunFolder(path)
    folder.settings()  # what is no run is told before a lock is left in it
    chosen = choose_device(device)
    with _released_on_failure(folder.lock("resume")) as lock:
        settings = folder.settings()
        if not is_checkpoint(folder.last) and not is_checkpoint(folder.best):
            corpus = _whole_corpus(folder)
            return _prepare(folder, settings, chosen, _open_base(settings), lock, corpus, progress)
        corpus = open_corpus(folder.corpus)
        saved = load_checkpoint(folder.last)
        trainer = _trainer(settings, corpus, LanguageModel(settings.model).to(chosen))
        trainer.restore(saved.model.state_dict(), TrainingSnapshot.load(folder.last))
        return TrainingRun(folder, settings, corpus, trainer, lock, lineage=saved.lineage, figures=saved.figures)


@contextmanager
def _released_on_failure(lock: BaseFileLock) -> Iterator[BaseFileLock]:
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _whole_corpus(folder: RunFolder) -> Corpus | None:
    try:
        return open_corpus(folder.corpus)
    except BadCorpus:
        return None


def _prepare(
    folder: RunFolder,
    settings: RunSettings,
    device: torch.device,
    base: tuple[Checkpoint, Tokenizer] | None,
    lock: BaseFileLock,
    corpus: Corpus | None,
    progress: ProgressCallback,
) -> TrainingRun:
    """A run at its first step; without a `corpus` one is built from the files that the settings name."""
    folder.write_status("preparing")
    try:
        corpus = corpus or build_corpus(
            folder.corpus,
            [Path(file) for file in settings.files],
            settings.text,
            tokenizer=base[1] if base else None,
            heldout_files=[Path(file) for file in settings.heldout_files],
            seed=settings.training.seed,
            progress=progress,
        )
        return _begin(folder, settings, corpus, device, base[0] if base else None, lock)
    except (Exception, KeyboardInterrupt) as error:
        folder.write_failure(error)
        raise


def _open_base(settings: RunSettings) -> tuple[Checkpoint, Tokenizer] | None:
    return open_checkpoint(Path(settings.base)) if settings.base is not None else None


def _begin(
    folder: RunFolder,
    settings: RunSettings,
    corpus: Corpus,
    device: torch.device,
    base: Checkpoint | None,
    lock: BaseFileLock,
) -> TrainingRun:
    lineage: dict[str, Any] = {"files": [Path(file).name for file in settings.files]}
    if base is not None and settings.base is not None:
        model = base.model
        lineage["base"] = {"name": Path(settings.base).name, "lineage": base.lineage}
    else:
        model = LanguageModel(update_settings(settings.model, vocab_size=corpus.tokenizer.vocab_size))
        model.reset_parameters(settings.training.seed, never_predicted=(UNK_ID, BOS_ID, PAD_ID))
    model.to(device)
    training = settings.training
    precision = choose_precision(training.precision, model, batch_size=training.batch_size, window=training.window)
    # What was measured is written down: a resumed run must not measure again and go on in another number format.
    training = update_settings(training, precision="fp32" if precision == torch.float32 else "bf16")
    settings = update_settings(settings, model=model.settings.model_dump(), training=training.model_dump())
    folder.write_settings(settings)
    return TrainingRun(folder, settings, corpus, _trainer(settings, corpus, model), lock, lineage=lineage, figures={})


def _trainer(settings: RunSettings, corpus: Corpus, model: LanguageModel) -> Trainer:
    training = settings.training
    batches = StreamBatches(
        corpus.train.ids,
        batch_size=training.batch_size,
        window=training.window,
        seed=training.seed,
        reset_at_document_ends=training.reset_at_document_ends,
    )
    device = model.embedding.device
    precision = choose_precision(training.precision, model, batch_size=batches.batch_size, window=batches.window)
    part = corpus.heldout
    return Trainer(
        model,
        batches,
        training,
        DeviceChoice(device, precision, torch.get_num_threads()),
        held_out=HeldOut(part.ids, part.characters, part.bytes) if part else None,
        sampler=text_sampler(corpus.tokenizer, settings.sample_prompts, seed=training.seed),
    )


def text_sampler(tokenizer: Tokenizer, prompts: tuple[str, ...], *, seed: int) -> Sampler:
    """A function that lets a model continue each prompt, always with the same seed."""
    generation = GenerationSettings(max_new_tokens=_SAMPLE_TOKENS, seed=seed)

    def sample(model: LanguageModel) -> tuple[str, ...]:
        with Engine(model, device=model.embedding.device, limits=Limits()) as engine:
            return tuple(prompt + _continuation(engine, tokenizer, prompt, generation) for prompt in prompts)

    return sample


def _continuation(engine: Engine, tokenizer: Tokenizer, prompt: str, generation: GenerationSettings) -> str:
    request = GenerationRequest(
        prompt_ids=(BOS_ID, *tokenizer.encode(prompt)),
        settings=generation,
        forbidden_ids=frozenset({UNK_ID, BOS_ID, PAD_ID}),
        eos_id=EOS_ID,
    )
    for event in engine.submit(request):
        if isinstance(event, FinishedEvent):
            return tokenizer.decode(event.hypotheses[0].token_ids)
    return ""
