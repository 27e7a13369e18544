"""The façade of training: text comes in, runs are started and followed. What trains are processes of their own."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

from textgen.config import RunSettings, TrainingBudget, parse_settings, update_settings
from textgen.errors import InvalidSetting, NoText, NotFound, TextgenError, error_from_dict
from textgen.files import temporary_folder, write_atomically
from textgen.hub import pull, split_address
from textgen.jobs.attended import AttendedTraining, TrainSlice
from textgen.jobs.checkpoints import check_checkpoint, open_tokenizer
from textgen.jobs.manager import JobManager
from textgen.jobs.model_zip import unpack_model
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.preflight import check_run
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint, run_of
from textgen.jobs.run_history import HistoryReader, RunHistory
from textgen.jobs.run_view import RunView
from textgen.jobs.titles import tidy_title
from textgen.jobs.uploads import PASTED, Upload, UploadStore, size_of
from textgen.jobs.worker import train_slice
from textgen.limits import Limits
from textgen.model.checkpoint import is_checkpoint, read_model_settings
from textgen.progress import FINISHING, Progress, ProgressCallback, ignore_progress
from textgen.text.importing import FORMATS, ImportedText, VocabularyFit, vocabulary_fit
from textgen.text.readers import open_text
from textgen.training.presets import can_mogrify, preset_settings, survey_text
from textgen.training.verdict import Verdict, verdict

# The page knows this module only: what it shows of runs is had from here.
__all__ = [
    "EVERYBODY",
    "FINISHING",
    "FORMATS",
    "PASTED",
    "ImportedText",
    "Person",
    "Progress",
    "ProgressCallback",
    "RunHistory",
    "RunRequest",
    "RunView",
    "TrainSlice",
    "Upload",
    "Verdict",
    "VocabularyFit",
    "Workshop",
    "train_slice",
]

_ESTIMATE_SECONDS = 300.0
# Of less than that nothing can be learned and something be held out.
_FEWEST_CHARACTERS = 200
_FOLLOWED_RUNS = 64
_REMEMBERED = 64
_BUDGETS = TrainingBudget.model_fields.keys()
_LOOK_SECONDS = 0.5
# For so long all pages get the same drawing of a run that trains.
_DRAWING_SECONDS = 1.0
T = TypeVar("T")


@dataclass(frozen=True)
class RunRequest:
    """What somebody asks for: a preset, perhaps a base, and settings that differ from the preset's.

    `base` is a checkpoint or a run; None trains from nothing. `changes` are values of "text", "model" and "training".
    """

    preset: str = "quick"
    base: Path | None = None
    base_vocabulary: str = "keep"
    sample_prompts: tuple[str, ...] = ("",)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Workshop:
    """Uploads and runs in the folder `runs`, trained on `device`, as `JobManager` has it.

    `hub` is the address of another Hub than usual. With `train_slice` nothing trains a run but whoever follows it by
    `attend`. `shared_titles` tells what the models of everybody are called, by their names: they are seen beside runs.
    """

    def __init__(
        self,
        runs: Path,
        *,
        device: str | Callable[[], str],
        limits: Limits | None = None,
        threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        hub: str | None = None,
        train_slice: TrainSlice | None = None,
        shared_titles: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.limits = limits or Limits()
        self.attended = train_slice is not None
        self.jobs = JobManager(
            runs,
            device=device,
            limits=self.limits,
            threads=threads,
            attended=self.attended,
            shared_titles=shared_titles,
        )
        self._training = AttendedTraining(self.jobs, train_slice) if train_slice is not None else None
        self.uploads = UploadStore(self.jobs.root, limits=self.limits, kept_elsewhere=self.jobs.person_bytes)
        self.hub = hub
        self._readers: dict[str, HistoryReader] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = -_LOOK_SECONDS
        self._views: list[RunView] = []
        self._made: OrderedDict[Hashable, Any] = OrderedDict()
        self._versions: dict[str, tuple[float, list[tuple[int, int]]]] = {}

    def settings(self, upload: Upload, request: RunRequest) -> RunSettings:
        """The settings of the run that `request` asks for, as far as they can be checked without reading the text.

        Raises `InvalidSetting` naming what is wrong; `BadCheckpoint` or `BadTokenizer` for a damaged base; `NotFound`
        when a run has just taken the text away.
        """
        if not upload.files:
            raise InvalidSetting("files", "none that can be read", "at least one file with text")
        with _while_there(upload):
            total_bytes = sum(path.stat().st_size for path in upload.files)
            survey = survey_text(_blocks(upload), total_bytes=total_bytes)
        changes = request.changes.get("training", {})
        asked = _budget_of(changes)
        self._check_minutes(asked.get("minutes"))
        budget = parse_settings(TrainingBudget, asked)
        sections = preset_settings(
            request.preset,
            survey,
            base=request.base is not None,
            budget=budget,
            mogrifies=can_mogrify(changes, lambda: self.jobs.device),
        )
        training = sections["training"]
        training["minutes"] = min(training["minutes"], self.limits.max_run_minutes)
        # Rows of tables and pasted poems are documents; a few files are one text each.
        if upload.documents > 2 * len(upload.files):
            sections["text"] |= {"split": "blank-line", "heldout_by": "document"}
        elif len(upload.files) > 1:
            sections["text"] |= {"heldout_by": "file"}
        if request.base is not None:
            sections["text"] = {**sections["text"], "base_vocabulary": request.base_vocabulary}
        for section, values in request.changes.items():
            if _budget_of(values):
                # One budget replaces another.
                sections[section] = {name: sections[section][name] for name in sections[section].keys() - _BUDGETS}
            sections[section] = {**sections[section], **values}
        settings = parse_settings(
            RunSettings,
            {
                "files": [str(path) for path in upload.files],
                # Whoever trains may be in another folder.
                "base": str(request.base.absolute()) if request.base is not None else None,
                "sample_prompts": request.sample_prompts,
                **sections,
            },
        )
        check_run(settings, self.limits)
        return settings

    def start(self, upload_id: str, request: RunRequest, person: Person, *, title: str = "") -> str:
        """Queues a run on an upload, which becomes the run's own; returns its id. Raises errors of ours."""
        with self.uploads.using(upload_id, person) as upload:
            if upload.characters < _FEWEST_CHARACTERS:
                raise NoText("text", f"{upload.characters:,} characters", f"{_FEWEST_CHARACTERS} characters")
            about: dict[str, Any] = {"texts": [text.as_dict() for text in upload.texts], "preset": request.preset}
            if request.base is not None:
                about["lineage"] = _lineage(request.base)
            most = self.limits.max_run_title_chars
            try:
                settings = self.settings(upload, request)
                run_id = self.jobs.submit(
                    settings,
                    person=person,
                    title=title if title.strip() else tidy_title(upload.title, most, otherwise=""),
                    texts=upload.folder / "texts",
                    about=about,
                )
            except FileNotFoundError:  # another page of that person was quicker
                raise NotFound("upload", upload_id, "") from None
            self.uploads.remove(upload)
        self.forget()
        return run_id

    def attend(self, run_id: str, person: Person) -> Iterator[RunView]:
        """What training needs of whoever asked for it: nothing, but where it is `attended`, see `AttendedTraining`."""
        if self._training is not None:
            yield from self._training.follow(run_id, person)

    def estimate(self, upload_id: str, request: RunRequest, person: Person) -> dict[str, Any]:
        """Times some real steps in a process of its own: the figures of `textgen train --estimate --json`."""
        with self.uploads.using(upload_id, person) as upload:
            return self._estimate(self.settings(upload, request))

    def _estimate(self, settings: RunSettings) -> dict[str, Any]:
        with temporary_folder() as folder:
            config = folder / "config.json"
            write_atomically(config, settings.model_dump_json().encode())
            command = [sys.executable, "-m", "textgen", "train", "--config", str(config), "--device", self.jobs.device]
            command += ["--out", str(self.jobs.root / "estimate"), "--estimate", "--json"]
            try:
                done = self.jobs.run_beside(command, _ESTIMATE_SECONDS)
            except subprocess.TimeoutExpired:
                raise InvalidSetting(
                    "files", "a text that takes minutes to prepare", "start without an estimate"
                ) from None
        try:
            told = dict(json.loads(done.stdout.splitlines()[-1]))
            if "error" not in told:
                return told
            error = error_from_dict(told["error"])
        except (ValueError, TypeError, IndexError):
            error = TextgenError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer")
        raise error

    def fit(self, upload: Upload, base: Path) -> VocabularyFit:
        """How well the vocabulary of a base fits a text; `NotFound` when a run has just taken the text away."""
        _, tokenizer = open_tokenizer(base, limits=self.limits)
        with _while_there(upload):
            return vocabulary_fit(tokenizer, _blocks(upload))

    def history(self, view: RunView) -> RunHistory:
        """What a run has told so far."""
        with self._lock:
            if view.run_id not in self._readers and len(self._readers) >= _FOLLOWED_RUNS:
                self._readers.pop(next(iter(self._readers)))
            reader = self._readers.setdefault(view.run_id, HistoryReader(view.folder))
            return reader.read()

    def runs(self, person: Person) -> list[RunView]:
        """The runs of a person; many pages that look at the same moment share one look at the disk."""
        with self._lock:
            if self._clock() - self._looked >= _LOOK_SECONDS:
                self._views = self.jobs.runs(EVERYBODY)
                self._looked = self._clock()
            return [view for view in self._views if person.owns(view.owner)]

    def forget(self) -> None:
        """The next look is at the disk: somebody has changed something."""
        with self._lock:
            self._looked = -_LOOK_SECONDS
            self._versions.clear()

    def mark(self, views: Sequence[RunView], shown: Sequence[RunView], options: Hashable) -> str:
        """Changes whenever a page that shows these runs, one of them first, would look different."""
        listed = [(view.run_id, view.title, view.state, view.position) for view in views]
        files = [self._versions_of(view) for view in shown]
        return hashlib.blake2b(repr((listed, files, options)).encode(), digest_size=12).hexdigest()

    def _versions_of(self, view: RunView) -> list[tuple[int, int]]:
        """The versions of a run's files as they were lately: one that trains writes more often than pages look."""
        now = self._clock()
        with self._lock:
            if len(self._versions) >= _FOLLOWED_RUNS:
                self._versions.clear()
            looked, versions = self._versions.get(view.run_id, (-_DRAWING_SECONDS, []))
            if now - looked >= _DRAWING_SECONDS:
                versions = _versions(view)
                self._versions[view.run_id] = (now, versions)
            return versions

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all pages that show the same."""
        with self._lock:
            if key in self._made:
                return self._made[key]  # type: ignore[no-any-return]
        value = make()
        with self._lock:
            self._made[key] = value
            while len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        return value

    def longer(self, run_id: str, minutes: object, person: Person) -> None:
        """Trains a run for some minutes more."""
        self._check_minutes(minutes)
        budget = parse_settings(TrainingBudget, {"minutes": minutes})
        budget.check_budget()
        self.jobs.resume(run_id, person, longer={"minutes": budget.minutes})

    def _check_minutes(self, minutes: object) -> None:
        """`InvalidSetting` for more than this host allows; what is wrong otherwise `TrainingBudget` tells."""
        try:
            asked = float(str(minutes))
        except ValueError:
            return
        if asked > self.limits.max_run_minutes:
            raise InvalidSetting("minutes", minutes, f"at most {self.limits.max_run_minutes:g}")

    def verdict(self, history: RunHistory) -> Verdict:
        """Whether it is still getting better."""
        held_out = [(int(step), value) for step, value in history.held_out]
        # A verdict is on nats per token.
        losses = [(int(step), value / (history.tokens_per_char or 1.0)) for step, value in history.losses]
        return verdict(held_out, losses)

    def checkpoint(self, view: RunView) -> Path | None:
        """The checkpoint that a run has so far: the best, else the last; None when there is none."""
        found = resolve_checkpoint(view.folder.path)
        # A run's own folder has a config.json too, which is none of a checkpoint.
        return found if found != view.folder.path and is_checkpoint(found) else None

    def fetch(
        self,
        repo_id: str,
        person: Person,
        *,
        token: str | bool | None,
        revision: str | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> str:
        """Makes a model from the Hub the person's own, within what they may keep; returns its name here.

        `repo_id` may be the address of its page too. What they have already of that commit does not come again.
        Raises `InvalidSetting`, `NoRoom` and what `hub.pull` raises.
        """
        limits = self._limits_for_model(person)

        def get(folder: Path) -> str:
            return pull(
                repo_id,
                folder,
                downloads=self.jobs.fetched.downloads,
                revision=revision,
                token=token,
                endpoint=self.hub,
                limits=limits,
                check=lambda path: check_checkpoint(path, limits=self.limits),
                wanted=lambda commit: not self.jobs.fetched.is_there(source, commit, person),
                progress=progress,
            )

        source, _ = split_address(repo_id, self.hub)
        return self.jobs.fetched.add(
            source, person, get, title=lambda: self.jobs.free_title(source, person), progress=progress
        )

    def import_zip(self, archive: Path, name: str, person: Person, progress: ProgressCallback = ignore_progress) -> str:
        """Makes a model in a zip, which the person calls `name`, their own, within what they may keep.

        Returns its name here. Raises `InvalidSetting`, `NoRoom`, `MissingFile` and what `unpack_model` raises.
        """
        limits = self._limits_for_model(person)
        size = size_of(archive, name)
        if size > limits.max_upload_bytes:
            most = f"at most {limits.max_upload_bytes / 1e6:,.0f} MB at once"
            raise InvalidSetting("model", f"{size / 1e6:,.0f} MB", most)

        def unpack(folder: Path) -> None:
            unpack_model(archive, folder, name=name, limits=limits, progress=progress)

        title = tidy_title(PurePath(name).stem, limits.max_run_title_chars, otherwise="model")
        return self.jobs.fetched.add(
            name,
            person,
            unpack,
            origin="zip",
            title=lambda: self.jobs.free_title(title, person),
            progress=progress,
        )

    def _limits_for_model(self, person: Person) -> Limits:
        """The limits under which a person may bring one model more; raises `InvalidSetting` and `NoRoom`."""
        self.jobs.check_room(person)
        if person.is_admin:
            return self.limits
        room = self.limits.max_person_bytes - self.jobs.person_bytes(person)
        return replace(self.limits, max_hub_bytes=min(self.limits.max_hub_bytes, room))

    def command(self, view: RunView, *, own_machine: bool) -> tuple[str, str]:
        """The command that does the same from the terminal, and the config file that it reads.

        Whoever is not at their own machine gets the file's content to keep it, with the names of their own files.
        """
        where = view.folder.config if own_machine else "config.json"
        settings = view.folder.settings()
        content = settings.model_dump(mode="json", exclude_none=True)
        content["sample_prompts"] = list(view.folder.sample_prompts(settings))
        if not own_machine:
            texts = view.folder.read_about().get("texts")
            named = [str(text["name"]) for text in texts if text.get("path")] if isinstance(texts, list) else []
            content["files"] = named or [Path(file).name for file in content["files"]]
            content["base"] = run_of(Path(content["base"])).name if content.get("base") else None
            content["teachers"] = [run_of(Path(teacher)).name for teacher in settings.teachers]
        return f"textgen train --config {shlex.quote(str(where))} --out my-run", json.dumps(
            content, indent=2, ensure_ascii=False
        )

    def change_prompts(self, run_id: str, prompts: Sequence[str], person: Person) -> None:
        """What samples of a run begin with from its next evaluation on."""
        view = self.jobs.view(run_id, person)
        update_settings(view.folder.settings(), sample_prompts=list(prompts))
        view.folder.write_prompts(prompts)


def _blocks(upload: Upload) -> Iterator[str]:
    return (block for path in upload.files for block in open_text(path, "utf-8").blocks())


@contextmanager
def _while_there(upload: Upload) -> Iterator[None]:
    """What reading it raises, but `NotFound` where its texts have become those of a run meanwhile."""
    try:
        yield
    except OSError:  # MissingFile is one
        if all(path.exists() for path in upload.files):
            raise
        raise NotFound("upload", upload.upload_id, "") from None


def _lineage(base: Path) -> list[str]:
    """What a base is called, and what it came from itself, the latest first: its run may be gone when that is shown."""
    folder = run_of(base)
    about = RunFolder(folder).read_about()
    before = about.get("lineage")
    if not isinstance(before, list):
        before = []
        with suppress(TextgenError):
            _, config = read_model_settings(resolve_checkpoint(base))
            lineage = config["lineage"]
            while isinstance(lineage, dict) and isinstance(lineage.get("base"), dict):
                before.append(lineage["base"].get("name"))
                lineage = lineage["base"].get("lineage")
    return [str(about.get("title") or folder.name), *(str(name) for name in before if name)]


def _budget_of(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in _BUDGETS}


def _versions(view: RunView) -> list[tuple[int, int]]:
    folder = view.folder
    return [_version(path) for path in (folder.status, folder.metrics, folder.samples, folder.best, folder.last)]


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
