"""What is known to be wrong with a run before its text is read."""

from __future__ import annotations

from pathlib import Path

from textgen.config import ModelSettings, RunSettings, update_settings
from textgen.errors import BadTokenizer, InvalidSetting
from textgen.jobs.checkpoints import open_tokenizer
from textgen.limits import Limits
from textgen.model.size import count_parameters
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import RESERVED_PIECES, check_vocab_size
from textgen.text.vocabulary import tokenizer_kind


def check_run(settings: RunSettings, limits: Limits) -> None:
    """Looks at the settings and, where there is one, at the shape and the vocabulary of the base.

    Raises `InvalidSetting` for a vocabulary that cannot be made and for a model beyond `max_model_parameters`,
    `BadCheckpoint` and `BadTokenizer` for a damaged base.
    """
    choice = settings.text.base_vocabulary if settings.base is not None else "new"
    if choice != "keep":
        check_vocab_size(settings.text.vocab_size)
    shape = update_settings(settings.model, vocab_size=settings.text.vocab_size)
    if settings.base is not None:
        base, tokenizer = open_tokenizer(Path(settings.base), limits=limits)
        if choice == "extend":
            _check_can_be_extended(tokenizer)
        shape = update_settings(base, vocab_size=_most_pieces(base, settings))
    parameters = count_parameters(shape)
    if parameters > limits.max_model_parameters:
        raise InvalidSetting("parameters", f"{parameters:,}", f"at most {limits.max_model_parameters:,}")


def _check_can_be_extended(tokenizer: Tokenizer) -> None:
    try:
        tokenizer_kind(tokenizer)
    except BadTokenizer:
        allowed = "keep or new, as the vocabulary of this model cannot be extended"
        raise InvalidSetting("base_vocabulary", "extend", allowed) from None


def _most_pieces(base: ModelSettings, settings: RunSettings) -> int:
    """How many pieces the vocabulary has when the text supports as many as are asked for."""
    new = settings.text.vocab_size
    return {"keep": base.vocab_size, "extend": base.vocab_size + new - RESERVED_PIECES, "new": new}[
        settings.text.base_vocabulary
    ]
