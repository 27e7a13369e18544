"""What the model thinks of given text, token by token."""

from __future__ import annotations

import numpy as np

from textgen.engine.decoding import Logits, Scores, TokenIds
from textgen.engine.requests import Alternative, TokenScore
from textgen.errors import BrokenModel


def log_softmax(logits: Logits) -> Scores:
    """log p over the last axis of logits [..., vocab], in float64."""
    scores: Scores = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scores -= scores.max(axis=-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def token_scores(logits: Logits, token_ids: TokenIds, top_logprobs: int, *, first: int = 0) -> list[TokenScore]:
    """The log-probabilities of token_ids [time] where the model gave logits [time, vocab], and the likeliest tokens.

    Raises `BrokenModel`, counting tokens from `first`, for logits that are no numbers.
    """
    scores = log_softmax(logits)
    chosen = scores[np.arange(token_ids.size), token_ids]
    broken = np.flatnonzero(~np.isfinite(scores.max(axis=1)) | np.isnan(chosen))
    if broken.size:
        raise BrokenModel(first + int(broken[0]))
    likeliest = np.argsort(-scores, axis=1, kind="stable")[:, :top_logprobs]  # [time, top]; ties: the lowest id
    return [
        TokenScore(
            token_id, logprob, tuple(Alternative(other, float(row[other]), float(row[other])) for other in others)
        )
        for token_id, logprob, row, others in zip(
            token_ids.tolist(), chosen.tolist(), scores, likeliest.tolist(), strict=True
        )
    ]
