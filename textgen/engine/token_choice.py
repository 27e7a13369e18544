"""Which token comes next, for many rows at once: what is asked, what is answered, and the plain way to answer it.

`compiled_choice` has the fast way. A row's answer depends, to the bit, on the row and what is asked of it alone.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from textgen.config import GenerationSettings
from textgen.engine.decoding import Logits, Scores, TokenIds
from textgen.engine.warpers import LOWEST_TEMPERATURE, warp

_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What is to be chosen from rows of logits [rows, vocab], fp32.

    `settings` [rows, 8] are those of `settings_row`, `uniforms` [rows] the numbers in [0, 1) that decide. Of row r the
    ids `banned_ids`[`banned_ends`[r - 1] : `banned_ends`[r]] are not to be taken. `processed` [n, vocab], fp32, are the
    scores to choose by of the rows that `processed_rows` [rows] gives a place in it; -1: the logits less what is
    banned.
    """

    settings: Scores
    uniforms: Scores
    banned_ids: TokenIds
    banned_ends: TokenIds
    processed: Logits
    processed_rows: TokenIds


class Answer(NamedTuple):
    """What was chosen: (token id, log-probability, warped log-probability) of each row, and of others.

    `chosen` [rows, 3]: the id is -1 where the logits are no numbers or leave nothing to choose. Log-probabilities are
    natural ones, under the logits; warped ones those with which a token is drawn. `others` [rows, most of any row, 3]
    are the likeliest by the logits, by falling logit, then rising id; the id is -1 where there are no more. A chooser
    fills what it is given.
    """

    chosen: Scores
    others: Scores

    @staticmethod
    def room(settings: Scores) -> Answer:
        """For the answers to `Asked.settings` [rows, 8]."""
        rows = len(settings)
        return Answer(np.empty((rows, 3)), np.empty((rows, int(settings[:, -1].max(initial=0)), 3)))


Chooser = Callable[[Logits, Asked, Answer], None]

# The warpers that choosers know, in the order of a row of settings.
CHOSEN_BY = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# More tokens than any model has.
ANY_VOCABULARY = 2**31
# More functions than are compiled for a chooser.
_MOST_PARTS = 100


def settings_row(settings: GenerationSettings) -> tuple[float, ...]:
    """What of a request's settings decides on a token, of warpers the `CHOSEN_BY`."""
    return (
        max(settings.temperature, LOWEST_TEMPERATURE) if settings.temperature else 0.0,
        *(min(getattr(settings, name), ANY_VOCABULARY) for name in CHOSEN_BY),
        settings.top_logprobs,
    )


@functools.cache
def best_chooser() -> Chooser:
    """The compiled one, ready to be called, or where that cannot be, the plain one."""
    try:
        from textgen.engine.compiled_choice import choose_compiled

        _try(choose_compiled)
    except ImportError as error:
        _log.warning("%s is not installed: tokens are chosen more slowly.", error.name)
        return choose_plainly
    except Exception as error:  # numba's and LLVM's have no base class but this
        _log.warning("What chooses tokens fast cannot be compiled here, so they are chosen more slowly: %s", error)
        return choose_plainly
    return choose_compiled


@functools.cache
def prepare_chooser() -> None:
    """Has the best chooser compiled, where that is still to be done, without waiting for it."""
    # Not a daemon: a program that ends in the midst of compiling may crash.
    threading.Thread(target=best_chooser, name="textgen-compile").start()


def _try(chooser: Chooser, times: int = _MOST_PARTS) -> None:
    settings = np.array([settings_row(GenerationSettings())])
    nothing, places = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    asked = Asked(settings, np.zeros(1), nothing, places, np.zeros((0, 1), dtype=np.float32), places - 1)
    try:
        chooser(np.zeros((1, 1), dtype=np.float32), asked, Answer.room(settings))
    except OSError:  # a part was compiled but could not be kept: it is there, and the next is still to come
        if not times:
            raise
        _try(chooser, times - 1)


def choose_plainly(logits: Logits, asked: Asked, answer: Answer) -> None:
    """Chooses by warping and sorting the whole vocabulary, as `warpers` defines it.

    At temperature 0 the highest score is taken (ties: the lowest id). Else the tokens that the warpers leave stand in
    the order of falling scores, of equal ones the higher id first, and it is the one at the uniform number.
    """
    nothing = (-1.0, math.nan, math.nan)
    answer.chosen[:], answer.others[:] = nothing, nothing
    start = 0
    for row, end in enumerate(asked.banned_ends.tolist()):
        place = int(asked.processed_rows[row])
        scores = np.array(logits[row] if place < 0 else asked.processed[place], dtype=np.float64)
        scores[asked.banned_ids[start:end]] = -math.inf
        start = end
        if math.isfinite(logits[row].max()) and -math.inf < scores.max() < math.inf:
            chosen, others = _choose_one(logits[row].astype(np.float64), scores, asked, row)
            answer.chosen[row], answer.others[row, : len(others)] = chosen, others


def _choose_one(logits: Scores, scores: Scores, asked: Asked, row: int) -> tuple[Scores, Scores]:
    """From logits and scores [vocab]: an `Answer` of one row."""
    temperature, *values, count = asked.settings[row].tolist()
    warpers = dict(zip(CHOSEN_BY, values, strict=True))
    warpers["top_k"] = int(warpers["top_k"])
    settings = GenerationSettings.model_construct(temperature=temperature, **warpers)
    warped = warp(scores[None], settings)[0]
    warped -= warped.max()
    if temperature == 0.0:
        token_id = int(warped.argmax())
    else:
        order = np.lexsort((np.arange(scores.size), scores))[::-1]
        mass = np.exp(warped[order]).cumsum()
        warped -= math.log(mass[-1])
        token_id = int(order[mass.searchsorted(asked.uniforms[row] * mass[-1], side="right")])
    logits -= logits.max()
    logits -= math.log(np.exp(logits).sum())
    others = (-logits).argsort(kind="stable")[: int(count)]
    others = others[logits[others] > -math.inf]
    table = np.stack([np.arange(scores.size), logits, warped], axis=1)  # [vocab, 3]
    return table[token_id], table[others]
