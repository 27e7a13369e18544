"""Carries out one training run in a run folder: text → corpus → trainer → files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock

from textgen.config import (
    DeviceName,
    GenerationSettings,
    RunSettings,
    TrainingBudget,
    update_settings,
)
from textgen.engine import Engine, FinishedEvent, GenerationRequest
from textgen.errors import BadCorpus, InvalidSetting, TextgenError
from textgen.jobs.base import Base, open_base, read_kept, write_kept
from textgen.jobs.card import model_card
from textgen.jobs.copy_index import run_copy_index
from textgen.jobs.estimate import RunEstimate
from textgen.jobs.ingredients import held_out_part, make_batches, make_model
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.jobs.teachers import Teacher, given_vocabulary, open_teachers, read_teachers, write_teachers
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.progress import ProgressCallback, ignore_progress
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.corpus import Corpus, build_corpus, open_corpus
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.training.allocator import keep_freed_memory
from textgen.training.device import DeviceChoice, choose_device, choose_precision, emulates_bf16
from textgen.training.distillation import with_teachers
from textgen.training.distributed import Ranks
from textgen.training.estimate import estimate_training
from textgen.training.events import (
    BatchSplitEvent,
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    Samples,
    StartEvent,
    StepEvent,
)
from textgen.training.memorization import measure_memorization
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import Sampler, Trainer

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
        copy_index: bytes,
        lineage: dict[str, Any],
        figures: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.corpus = corpus
        self.trainer = trainer
        self._lock = lock
        self._copy_index = copy_index
        self._lineage = lineage
        self._figures = figures
        self._samples = folder.last_samples()
        self._stop_state: RunState = "stopped"

    def stop(self, state: RunState = "stopped") -> None:
        """Ends training after the current step; what was trained is saved, and the run is then in `state`.

        May be called from a signal handler or another thread.
        """
        self._stop_state = state
        self.trainer.stop()

    def estimate(self, *, max_seconds: float = 5.0) -> RunEstimate:
        """Times some real steps on a copy of the model, and says what the whole run will take; changes nothing."""
        part = held_out_part(self.corpus)
        training = estimate_training(
            self.trainer.model,
            self.trainer.batches,
            self.settings.training,
            self.trainer.choice,
            held_out=[part] if part else [],
            max_seconds=max_seconds,
            ranks=self.trainer.ranks,
        )
        free = shutil.disk_usage(self.folder.path).free
        return RunEstimate(training, str(self.trainer.choice), self.trainer.model.num_parameters, free)

    def extend(self, longer: TrainingBudget) -> None:
        """Trains for `longer` from where the run is; its folder says so from now on. To be called before `events`."""
        self.trainer.extend(longer)
        self._save(CheckpointEvent(self.trainer.step, "last"))
        budget = self.trainer.whole_budget().model_dump()
        training = update_settings(self.settings.training, **budget)
        self.settings = update_settings(self.settings, training=training.model_dump())
        self.folder.write_settings(self.settings)

    def events(self) -> Iterator[Event]:
        """Trains and keeps the folder's files true; each event is written before it is passed on."""
        status_due = 0.0
        try:
            for event in self.trainer.events():
                self._record(event)
                if isinstance(event, StepEvent) and event.elapsed_seconds >= status_due:
                    status_due = event.elapsed_seconds + _STATUS_SECONDS
                    self.folder.write_status(
                        "running", step=event.step, progress=event.progress, seconds_left=round(event.seconds_left, 1)
                    )
                yield event
        except Exception as error:
            if _is_final(error, self.trainer.ranks):
                self.folder.write_failure(error)
            raise
        finally:
            self._lock.release()

    def _record(self, event: Event) -> None:
        if isinstance(event, StartEvent):
            self.folder.cut_back(event.step, evaluated=event.step > 0 or self.trainer.best is not None)
            self.folder.write_status("running", step=event.step, progress=self.trainer.progress)
        elif isinstance(event, StepEvent):
            self.folder.append_metrics("step", asdict(event))
        elif isinstance(event, EvaluationEvent):
            self._figures = {"step": event.step, **event.evaluation.as_dict()}
            self.folder.append_metrics("evaluation", asdict(event))
        elif isinstance(event, SampleEvent):
            self._samples = event.samples
            self.folder.append_samples(asdict(event))
        elif isinstance(event, BatchSplitEvent):
            self.folder.append_metrics("split", asdict(event))
        elif isinstance(event, CheckpointEvent):
            self._save(event)
        elif isinstance(event, EndEvent):
            state: RunState = self._stop_state if event.reason == "stopped" else "finished"
            self.folder.write_status(state, step=event.step, progress=self.trainer.progress, early=event.early)

    def _save(self, event: CheckpointEvent) -> None:
        figures = {**self._figures, "elapsed_seconds": round(self.trainer.elapsed_seconds, 1)}
        checkpoint = Checkpoint(
            model=self.trainer.average,
            tokenizer_bytes=self.corpus.tokenizer.to_bytes(),
            generation=GenerationSettings(),
            lineage=self._lineage,
            figures=figures,
            card=model_card(
                self.folder.path.name,
                self.settings,
                self.corpus,
                figures,
                lineage=self._lineage,
                samples=self._samples,
                about=self.folder.read_about(),
            ),
            copy_index=self._copy_index,
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
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
    ranks: Ranks | None = None,
    process: ProcessIdentity | None = None,
) -> TrainingRun:
    """Makes a new run folder and prepares training; raises errors of ours for bad text or settings.

    Of several `ranks` rank 0 calls this, and the others `follow_run`; its folder then names the `process` that started
    them all.
    """
    folder, ranks = RunFolder(path, process=process), ranks or Ranks()
    if not settings.files:
        raise InvalidSetting("files", "none", "at least one text file")
    # What can be wrong without reading the text is found out before there is a folder.
    settings.training.check_budget()
    ranks.check_batch(settings.training.batch_size)
    chosen = choose_device(device)
    base = open_base(settings, limits=limits)
    teachers = open_teachers(settings, base, limits=limits)
    folder.check_unused()
    with _released_on_failure(folder.lock("out")) as lock:
        folder.create(settings)
        return _prepare(folder, settings, chosen, base, teachers, lock, None, limits, progress, ranks)


def resume_run(
    path: Path,
    *,
    longer: TrainingBudget | None = None,
    device: DeviceName = "auto",
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
    ranks: Ranks | None = None,
    process: ProcessIdentity | None = None,
) -> TrainingRun:
    """Takes up a run from its last checkpoint; the continuation is the one that an uninterrupted run would have had.

    With `longer` the run, finished or stopped, is trained on for that much more instead, see `Trainer.extend`. That is
    written down at once: who resumes it after an interruption does so without `longer`.

    In bf16, though, only where every processor has such instructions; elsewhere it goes on in fp32, which is as good.

    A run that was killed before its first checkpoint begins anew, if need be from the text. Raises `InvalidSetting`
    when the folder is no run or another process trains it, or `longer` is no budget or has nothing to go on from;
    `BadCorpus` or `BadCheckpoint` when the folder is damaged.

    It may be trained by another number of processes than before: see `start_run` for `ranks` and `process`.
    """
    folder, ranks = RunFolder(path, process=process), ranks or Ranks()
    # What is no run is told before a lock is left in it.
    ranks.check_batch(folder.settings().training.batch_size)
    if longer is not None:
        longer.check_budget()
    chosen = choose_device(device)
    with _released_on_failure(folder.lock("resume")) as lock:
        settings = folder.settings()
        if not is_checkpoint(folder.last) and not is_checkpoint(folder.best):
            if longer is not None:
                raise InvalidSetting("resume", str(path), "a run that has trained, to be trained longer")
            corpus = _whole_corpus(folder)
            base = open_base(settings, limits=limits)
            teachers = open_teachers(settings, base, limits=limits)
            return _prepare(folder, settings, chosen, base, teachers, lock, corpus, limits, progress, ranks)
        corpus = open_corpus(folder.corpus)
        saved = load_checkpoint(folder.last, limits=limits)
        model = LanguageModel(settings.model).to(chosen)
        _, _, emulating = ranks.exchange(1.0, float(longer is not None), float(emulates_bf16(chosen)))
        trainer = make_trainer(folder, settings, corpus, model, saved.lineage, ranks, without_bf16=emulating > 0)
        trainer.restore(saved.model.state_dict(), TrainingSnapshot.load(folder.last))
        ranks.exchange()  # all have read before one writes
        index = run_copy_index(folder, corpus, limits=limits, progress=progress)
        run = TrainingRun(
            folder, settings, corpus, trainer, lock, copy_index=index, lineage=saved.lineage, figures=saved.figures
        )
        if longer is not None:
            run.extend(longer)
        return run


def _is_final(error: BaseException, ranks: Ranks) -> bool:
    """Whether a run has failed by this: where a rank has died the others fail too, and torchrun starts all again."""
    return ranks.alone or isinstance(error, TextgenError | KeyboardInterrupt)


def prepare_text(path: Path, *, limits: Limits | None = None, progress: ProgressCallback = ignore_progress) -> None:
    """Makes of a run's text what training needs, without training: whoever resumes the run finds it. Raises as that."""
    folder = RunFolder(path)
    lock = folder.lock("resume")
    try:
        settings = folder.settings()
        base = open_base(settings, limits=limits)
        teachers = open_teachers(settings, base, limits=limits)
        _read_text(folder, settings, base, teachers, _whole_corpus(folder), limits, progress)
    finally:
        lock.release()


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
    base: Base | None,
    teachers: Sequence[Teacher],
    lock: BaseFileLock,
    corpus: Corpus | None,
    limits: Limits | None,
    progress: ProgressCallback,
    ranks: Ranks,
) -> TrainingRun:
    """A run at its first step; without a `corpus` one is built from the files that the settings name."""
    folder.write_status("preparing")
    try:
        corpus, index = _read_text(folder, settings, base, teachers, corpus, limits, progress)
        return _begin(folder, settings, corpus, index, device, base, teachers, lock, ranks)
    except (Exception, KeyboardInterrupt) as error:
        if _is_final(error, ranks):
            folder.write_failure(error)
        raise


def _read_text(
    folder: RunFolder,
    settings: RunSettings,
    base: Base | None,
    teachers: Sequence[Teacher],
    corpus: Corpus | None,
    limits: Limits | None,
    progress: ProgressCallback,
) -> tuple[Corpus, bytes]:
    corpus = corpus or build_corpus(
        folder.corpus,
        [Path(file) for file in settings.files],
        settings.text,
        tokenizer=given_vocabulary(base, teachers),
        heldout_files=[Path(file) for file in settings.heldout_files],
        seed=settings.training.seed,
        progress=progress,
    )
    known = base.checkpoint if base else None
    return corpus, run_copy_index(folder, corpus, base=known, limits=limits, progress=progress)


def _begin(
    folder: RunFolder,
    settings: RunSettings,
    corpus: Corpus,
    copy_index: bytes,
    device: torch.device,
    base: Base | None,
    teachers: Sequence[Teacher],
    lock: BaseFileLock,
    ranks: Ranks,
) -> TrainingRun:
    lineage: dict[str, Any] = {"files": [Path(file).name for file in settings.files]}
    model = make_model(settings, corpus, base)
    if base is not None:
        lineage["base"] = {"name": base.name, "lineage": base.checkpoint.lineage}
        own = CopyIndexes.from_bytes(copy_index, tokenizer_sha256=corpus.tokenizer.sha256).first
        write_kept(folder.corpus, base, corpus.tokenizer, own=own)
        folder.write_about(base_learned=round(base.learned_share(corpus.heldout, corpus.tokenizer, own), 3))
    if teachers:
        lineage["teachers"] = [teacher.as_lineage() for teacher in teachers]
        write_teachers(folder.teachers, teachers)
    model.to(device)
    training = settings.training
    precision = choose_precision(training.precision, model, batch_size=training.batch_size, window=training.window)
    # What was measured is written down: a resumed run must not measure again and go on in another number format.
    training = update_settings(training, precision="fp32" if precision == torch.float32 else "bf16")
    settings = update_settings(settings, model=model.settings.model_dump(), training=training.model_dump())
    folder.write_settings(settings)
    # The others find all that they need in the folder now.
    _, _, emulating = ranks.exchange(0.0, 0.0, float(emulates_bf16(device)))
    # Alone it is as was asked, or measured.
    without_bf16 = emulating > 0 and not ranks.alone
    trainer = make_trainer(folder, settings, corpus, model, lineage, ranks, without_bf16=without_bf16)
    return TrainingRun(folder, settings, corpus, trainer, lock, copy_index=copy_index, lineage=lineage, figures={})


def make_trainer(
    folder: RunFolder,
    settings: RunSettings,
    corpus: Corpus,
    model: LanguageModel,
    lineage: Mapping[str, Any],
    ranks: Ranks,
    *,
    without_bf16: bool = False,
) -> Trainer:
    """The trainer of a run. All ranks call it; raises `InvalidSetting` when there is not a row for each.

    `without_bf16`: a run in bf16 trains in fp32 here, where a processor would emulate it. What its folder says stays,
    for when it goes on elsewhere.
    """
    training = settings.training
    if without_bf16 and training.precision == "bf16":
        training = update_settings(training, precision="fp32")
    texts = make_batches(training, corpus)
    ranks.check_rows(texts.batch_size)
    device = model.embedding.device
    if device.type == "cpu":
        keep_freed_memory()
    precision = choose_precision(training.precision, model, batch_size=texts.batch_size, window=texts.window)
    choice = DeviceChoice(device, precision, torch.get_num_threads())
    teachers = read_teachers(folder.teachers, len(settings.teachers))
    return Trainer(
        model,
        with_teachers(texts, teachers, training, choice),
        training,
        choice,
        held_out=held_out_part(corpus),
        kept=read_kept(corpus.folder) if ranks.leads else None,
        tuned="base" in lineage,
        sampler=text_sampler(corpus, lambda: folder.sample_prompts(settings), seed=training.seed),
        ranks=ranks,
    )


def text_sampler(corpus: Corpus, prompts: Callable[[], tuple[str, ...]], *, seed: int) -> Sampler:
    """A function that lets a model continue each of the prompts that there are by then, and looks for copies in that.

    It always uses the same seed.
    """
    generation = GenerationSettings(max_new_tokens=_SAMPLE_TOKENS, seed=seed)
    tokenizer = corpus.tokenizer

    def sample(model: LanguageModel) -> Samples:
        with Engine(model, device=model.embedding.device, limits=Limits()) as engine:
            asked = prompts()
            new = [_continuation(engine, tokenizer, prompt, generation) for prompt in asked]
        texts = tuple(prompt + tokenizer.decode(ids) for prompt, ids in zip(asked, new, strict=True))
        copied = measure_memorization(new, corpus.train.ids, tokenizer.decode) if new else None
        return Samples(texts, copied, tuple(asked))

    return sample


def _continuation(engine: Engine, tokenizer: Tokenizer, prompt: str, generation: GenerationSettings) -> tuple[int, ...]:
    request = GenerationRequest(
        prompt_ids=(BOS_ID, *tokenizer.encode(prompt)),
        settings=generation,
        forbidden_ids=frozenset({UNK_ID, BOS_ID, PAD_ID}),
        eos_id=EOS_ID,
    )
    for event in engine.submit(request):
        if isinstance(event, FinishedEvent):
            return event.hypotheses[0].token_ids
    return ()
