"""Fitting a model to another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from textgen.config import update_settings
from textgen.errors import InvalidSetting
from textgen.model.language_model import LanguageModel


def with_vocabulary(model: LanguageModel, spellings: Sequence[Sequence[int]]) -> LanguageModel:
    """A copy of `model` for a vocabulary whose piece n was spelled by the pieces `spellings[n]` so far.

    A piece that was there keeps its embedding and output bias; one that was spelled by several gets the mean of theirs
    (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html, takes the mean of all, which is what a piece
    without a spelling gets). Everything else is copied. Raises `InvalidSetting` for ids outside the old vocabulary.
    """
    size = model.settings.vocab_size
    wrong = next((number for spelling in spellings for number in spelling if not 0 <= number < size), None)
    if wrong is not None:
        raise InvalidSetting("token id", wrong, f"0 to {size - 1}")
    device = model.embedding.device
    grown = LanguageModel(update_settings(model.settings, vocab_size=len(spellings))).to(device)
    pieces = [torch.tensor(spelling, dtype=torch.long, device=device) for spelling in spellings]
    with torch.no_grad():
        weights = dict(model.state_dict())
        for name in ("embedding", "output_bias"):
            old = weights[name]
            mean = old.mean(0)
            weights[name] = torch.stack([old[ids].mean(0) if len(ids) else mean for ids in pieces])
        grown.load_state_dict(weights)
    return grown
