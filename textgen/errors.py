"""Every error a person can meet. Each is one sentence; `code` and `params` let the page say it in another language."""

from __future__ import annotations

from typing import ClassVar


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


class Busy(TextgenError):
    """More requests than the queue holds."""

    code = "busy"
    template = "{waiting} requests are already waiting; please try again in a moment."

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting=waiting)


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


class TrainingDiverged(TextgenError, ArithmeticError):
    """The loss stopped being a number."""

    code = "training_diverged"
    template = "The loss became {loss} at step {step}; the last saved checkpoint is kept. Try a smaller learning rate."

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step=step, loss=loss)


def _shown(value: object, limit: int = 61) -> str:
    """`value` in one short line; of a long one both ends, since a path tells most at its end."""
    text = value if isinstance(value, str) and value and value.isprintable() else repr(value)
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
