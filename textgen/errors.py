"""Every error a person can meet. Each is one sentence; `code` and `params` let the page say it in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class TextgenError(Exception):
    """Base of all errors of ours. `str()` is a sentence for people, in English."""

    code: ClassVar[str] = "error"
    template: ClassVar[str] = "{message}"

    def __init__(self, message: str = "", **params: object) -> None:
        self.params: dict[str, object] = {"message": message, **params}
        super().__init__(self.template.format(**self.params))


class InvalidSetting(TextgenError, ValueError):
    """A value outside what a setting allows."""

    code = "invalid_setting"
    template = "{field}: {given} was given; allowed: {allowed}."

    def __init__(self, field: str, given: object, allowed: str) -> None:
        super().__init__(field=field, given=_shown(given), allowed=allowed)


class UnreadableText(TextgenError, ValueError):
    """A file whose bytes are not text in the encoding asked for or guessed."""

    code = "unreadable_text"
    template = "{file}: byte {offset} is not valid {encoding}; choose another encoding for this file."

    def __init__(self, file: str, offset: int, encoding: str) -> None:
        super().__init__(file=file, offset=offset, encoding=encoding)


class NotText(TextgenError, ValueError):
    """A file that is something else than text."""

    code = "not_text"
    template = "{file} does not look like text; if it is, name its encoding."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class MissingFile(TextgenError, OSError):
    """A file that cannot be opened."""

    code = "missing_file"
    template = "{file} cannot be read: {reason}."

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file=file, reason=reason)


class NoText(TextgenError, ValueError):
    """Too little text to do what was asked."""

    code = "no_text"
    template = "{what}: {given} found; at least {needed} needed."

    def __init__(self, what: str, given: str, needed: str) -> None:
        super().__init__(what=what, given=given, needed=needed)


class BadTokenizer(TextgenError, ValueError):
    """A tokenizer file that is damaged or not made for lossless text."""

    code = "bad_tokenizer"
    template = "{file}: {problem}."

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file=file, problem=problem)


class BadCorpus(TextgenError, ValueError):
    """A folder of token ids that is incomplete or damaged."""

    code = "bad_corpus"
    template = "{file}: {problem}; build the corpus anew from the text."

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file=file, problem=problem)


class BadCheckpoint(TextgenError, ValueError):
    """A checkpoint folder that is incomplete, damaged or lies about itself."""

    code = "bad_checkpoint"
    template = "{file}, {field}: {problem}."

    def __init__(self, file: str, field: str, problem: str) -> None:
        super().__init__(file=file, field=field, problem=problem)


class NotFound(TextgenError, LookupError):
    """Something asked for by name that is not there."""

    code = "not_found"
    template = "{what} “{name}” was not found; there is: {known}."

    def __init__(self, what: str, name: str, known: str) -> None:
        super().__init__(what=what, name=name, known=known or "none")


class CannotWrite(TextgenError, OSError):
    """A file or folder that could not be written: a full disk, missing rights."""

    code = "cannot_write"
    template = "{path} could not be written: {reason}. What was there before is unchanged."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path=path, reason=reason)


class NoRoom(TextgenError, OSError):
    """Too little room on the disk to begin anything."""

    code = "no_room"
    template = "Only {free} MB are free on the disk; {needed} MB must be free to begin. Delete runs or models first."

    def __init__(self, free_bytes: int, needed_bytes: int) -> None:
        super().__init__(free=f"{free_bytes / 1e6:,.0f}", needed=f"{needed_bytes / 1e6:,.0f}")


class CannotStart(TextgenError, OSError):
    """A training process that could not be started."""

    code = "cannot_start"
    template = "The training process could not be started: {reason}."

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)


class Busy(TextgenError):
    """More requests than the queue holds."""

    code = "busy"
    template = "{waiting} requests are already waiting; please try again in a moment."

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting=waiting)


class LearningElsewhere(TextgenError):
    """More requests that adapt the model than may run at once."""

    code = "learning_elsewhere"
    template = "The model is already learning from {count} other texts; please try again in a moment."

    def __init__(self, count: int) -> None:
        super().__init__(count=count)


class BrokenModel(TextgenError, ArithmeticError):
    """A model whose logits are not numbers."""

    code = "broken_model"
    template = "The model's output at new token {index} is not a number; its weights are damaged."

    def __init__(self, index: int) -> None:
        super().__init__(index=index)


class EngineClosed(TextgenError):
    """A request to an engine whose model is being unloaded."""

    code = "engine_closed"
    template = "The model is being unloaded; please try again in a moment."


class DeadlineExceeded(TextgenError, TimeoutError):
    """A question to the engine that was not answered in time."""

    code = "deadline_exceeded"
    template = "There was no answer within {seconds} seconds; please try again with less text."

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds=f"{seconds:g}")


class BackendUnavailable(TextgenError):
    """A way of running the model that this machine or this model does not allow."""

    code = "backend_unavailable"
    template = "The backend {backend} is not available here: {reason}."

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(backend=backend, reason=reason)
        self.reason = reason


class TrainingDiverged(TextgenError, ArithmeticError):
    """The loss stopped being a number."""

    code = "training_diverged"
    template = "The loss became {loss} at step {step}; the last saved checkpoint is kept. Try a smaller learning rate."

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step=step, loss=loss)


class OutOfMemory(TextgenError, RuntimeError):
    """Not even one row of a batch fits in memory."""

    code = "out_of_memory"
    template = (
        "There is not enough memory to train even one of {rows} streams at a time, {window} tokens each; "
        "try a smaller window or model."
    )

    def __init__(self, rows: int, window: int) -> None:
        super().__init__(rows=rows, window=window)


class Abandoned(TextgenError, RuntimeError):
    """Another rank met an error of ours, tells it, and lets the others end too."""

    code = "abandoned"
    template = "Another of the processes that train this run has given up; it says why."


class Cancelled(TextgenError, RuntimeError):
    """Somebody has cancelled the work; nothing of it is kept but what another try can go on with."""

    code = "cancelled"
    template = "Cancelled."


class ProcessesEnded(TextgenError, RuntimeError):
    """`torchrun` gave up on the processes that train a run together."""

    code = "processes_ended"
    template = "The processes that train this run ended before they were done; what they saved last is kept."


class HoldsNoText(TextgenError, ValueError):
    """A file without one visible character."""

    code = "holds_no_text"
    template = "{file} holds no text."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class PicturesOfText(TextgenError, ValueError):
    """A document of scanned pages."""

    code = "pictures_of_text"
    template = "{file} holds no text; its pages are pictures. Run text recognition (OCR) over it first."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class DamagedFile(TextgenError, ValueError):
    """A file that is not what its name or its beginning says. `kind` is a format's name."""

    code = "damaged_file"
    template = "{file} is damaged, or no {kind} file."

    def __init__(self, file: str, kind: str) -> None:
        super().__init__(file=file, kind=kind)


class EncryptedFile(TextgenError, ValueError):
    """A file that only opens with a password or a key."""

    code = "encrypted_file"
    template = "{file} is encrypted; save it without a password first."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class UnsupportedFile(TextgenError, ValueError):
    """A file of a format that is known and not read. `kind` is a format's name."""

    code = "unsupported_file"
    template = "{file}: files of the kind {kind} are not read; allowed: {allowed}."

    def __init__(self, file: str, kind: str, allowed: str) -> None:
        super().__init__(file=file, kind=kind, allowed=allowed)


class NestedArchive(TextgenError, ValueError):
    """An archive within an archive."""

    code = "nested_archive"
    template = "{file} is an archive within an archive; unpack it and give its files."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class UnsafeMember(TextgenError, ValueError):
    """Something in an archive that is no plain file inside it: a link, or a name that leads out of it."""

    code = "unsafe_member"
    template = "{file} is a link or leads out of its archive; it was left out."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class ArchiveBomb(TextgenError, ValueError):
    """An archive, or a document that is one inside, that unpacks to far more than honest ones do."""

    code = "archive_bomb"
    template = "{file} would unpack to more than {ratio} times its size, as no honest file does; it was not read."

    def __init__(self, file: str, ratio: float) -> None:
        super().__init__(file=file, ratio=f"{ratio:g}")


class FileTooLarge(TextgenError, ValueError):
    """A file, or the text in it, beyond the size that is read."""

    code = "file_too_large"
    template = "{file} is too large: at most {allowed} MB of one file are read."

    def __init__(self, file: str, max_bytes: int) -> None:
        super().__init__(file=file, allowed=f"{max_bytes / 1e6:,.6g}")


class ImportTooLarge(TextgenError, ValueError):
    """A file that comes after as many bytes as one import reads."""

    code = "import_too_large"
    template = "{file} was not read: one import reads at most {allowed} MB, after unpacking."

    def __init__(self, file: str, max_bytes: int) -> None:
        super().__init__(file=file, allowed=f"{max_bytes / 1e6:,.6g}")


class TooManyFiles(TextgenError, ValueError):
    """A file that comes after as many as one import reads."""

    code = "too_many_files"
    template = "{file} was not read: one import reads at most {allowed} files."

    def __init__(self, file: str, allowed: int) -> None:
        super().__init__(file=file, allowed=allowed)


class EndlessField(TextgenError, ValueError):
    """A table with a field that swallows the rows after it."""

    code = "endless_field"
    template = "{file}: a field of the row in line {line} has no end within {allowed} characters; is a quote missing?"

    def __init__(self, file: str, line: int, max_chars: int) -> None:
        super().__init__(file=file, line=line, allowed=f"{max_chars:,}")


class BadLines(TextgenError, ValueError):
    """Lines that are no JSON; `line` is the first of them."""

    code = "bad_lines"
    template = "{file}: lines that are no JSON were left out: {count}, the first of them line {line}."

    def __init__(self, file: str, count: int, line: int) -> None:
        super().__init__(file=file, count=count, line=line)


class NoSuchColumn(TextgenError, LookupError):
    """A column asked for that a table does not have."""

    code = "no_such_column"
    template = "{file} has no column “{column}”; there is: {known}."

    def __init__(self, file: str, column: str, columns: Sequence[str]) -> None:
        super().__init__(file=file, column=column, known=", ".join(columns[:20]) or "none")
        self.columns = tuple(columns)


class ImportTooSlow(TextgenError, TimeoutError):
    """A file that was not read in the time there is."""

    code = "import_too_slow"
    template = "{file} could not be read within {seconds} seconds; give a part of it, or save it as plain text."

    def __init__(self, file: str, seconds: float) -> None:
        super().__init__(file=file, seconds=f"{seconds:g}")


class ImportTooBig(TextgenError, RuntimeError):
    """A file that takes more memory to read than an import may have."""

    code = "import_too_big"
    template = "{file} takes more than {megabytes} MB of memory to read; give a part of it, or save it as plain text."

    def __init__(self, file: str, max_bytes: int) -> None:
        super().__init__(file=file, megabytes=f"{max_bytes / 1e6:,.6g}")


class ImportFailed(TextgenError, RuntimeError):
    """A file at which the process that reads files ended."""

    code = "import_failed"
    template = "{file} could not be read: the process that reads files ended over it. It may be damaged."

    def __init__(self, file: str) -> None:
        super().__init__(file=file)


class HubNotFound(TextgenError, LookupError):
    """A repository that is not on the Hub, or not for everybody's eyes."""

    code = "hub_not_found"
    template = "{repo} was not found at {host}; a private model needs a token that may read it."

    def __init__(self, repo: str, host: str) -> None:
        super().__init__(repo=repo, host=host)


class HubNoRevision(TextgenError, LookupError):
    """A branch, a tag or a commit that a repository on the Hub does not have."""

    code = "hub_no_revision"
    template = "{repo} has no revision {revision} at {host}."

    def __init__(self, repo: str, revision: str, host: str) -> None:
        super().__init__(repo=repo, revision=revision, host=host)


class HubForbidden(TextgenError, PermissionError):
    """Something that the Hub does not let this token do."""

    code = "hub_forbidden"
    template = "{host} does not allow this with {repo}: the token is missing, wrong, or may not do it."

    def __init__(self, repo: str, host: str) -> None:
        super().__init__(repo=repo, host=host)


class HubGated(TextgenError, PermissionError):
    """A repository whose terms are to be accepted first."""

    code = "hub_gated"
    template = "{repo} is gated: accept its terms at {host} first, and give a token of the same account."

    def __init__(self, repo: str, host: str) -> None:
        super().__init__(repo=repo, host=host)


class HubUnreachable(TextgenError, ConnectionError):
    """No answer from the Hub, or none that came to its end."""

    code = "hub_unreachable"
    template = "{host} could not be reached for {repo}: {reason}. Try again in a moment."

    def __init__(self, repo: str, host: str, reason: str) -> None:
        super().__init__(repo=repo, host=host, reason=reason)


class HubRefused(TextgenError, RuntimeError):
    """Any other answer of the Hub that is no success."""

    code = "hub_refused"
    template = "{host} did not do this with {repo}: {reason}."

    def __init__(self, repo: str, host: str, reason: str) -> None:
        super().__init__(repo=repo, host=host, reason=reason)


class GpuRefused(TextgenError, RuntimeError):
    """A GPU that is lent by the call and was not, or was taken back; the `reason` is the lender's."""

    code = "gpu_refused"
    template = "No GPU is lent: {reason}."

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason.strip().rstrip("."))


class JobFailed(TextgenError, RuntimeError):
    """A job on rented hardware that did not end well; `stage` is the last that the Hub names."""

    code = "job_failed"
    template = "The job ended as {stage}: {reason}. What it wrote is at {url}."

    def __init__(self, stage: str, reason: str, url: str) -> None:
        super().__init__(stage=stage, reason=reason, url=url)


def error_as_dict(error: TextgenError) -> dict[str, Any]:
    """`error` as what JSON can hold: its code and its params."""
    plain = (str, int, float, bool, type(None))
    params = {name: value if isinstance(value, plain) else str(value) for name, value in error.params.items()}
    return {"code": error.code, "params": params}


def error_from_dict(content: Mapping[str, Any]) -> TextgenError:
    """The error that `error_as_dict` wrote; raises `ValueError` for anything else."""
    kinds = {kind.code: kind for kind in TextgenError.__subclasses__()}
    try:
        kind = kinds[content["code"]]
        error = kind.__new__(kind)
        TextgenError.__init__(error, **content["params"])
    except (KeyError, TypeError, AttributeError, IndexError) as problem:
        raise ValueError(f"no error of ours: {problem}") from None
    return error


_MOST_ENTRIES = 3


def _shown(value: object, limit: int = 61) -> str:
    """`value` in one short line; of a long one both ends, since a path tells most at its end."""
    if isinstance(value, (tuple, list)) and len(value) > _MOST_ENTRIES:
        value = f"{len(value)} entries"
    text = value if isinstance(value, str) and value and value.isprintable() else repr(value)
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
