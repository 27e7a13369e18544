"""What a run's figures say: is it still getting better?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

VerdictKind = Literal["too_early", "improving", "flat", "overfitting", "diverged"]
Points = Sequence[tuple[int, float]]

# Shares of the held-out loss: below the first nobody could see a difference in the text; the second is no accident.
_FLAT = 0.003
_RISEN = 0.005
# Nats per token by which the training loss must have risen above its lowest for training to have gone wrong.
_DIVERGED = 1.0
# Nats per character that no guess at random costs, whatever the vocabulary.
_WORSE_THAN_CHANCE = 20.0
_SMOOTHED = 5


@dataclass(frozen=True)
class Verdict:
    """`since_step`: from when on it has been so; where there is no text held out only divergence is told.

    `best_step` and `best` are of the best evaluation, in nats per character, and `latest` is the last one.
    """

    kind: VerdictKind
    since_step: int | None = None
    best_step: int | None = None
    best: float | None = None
    latest: float | None = None


def verdict(evaluations: Points, losses: Points) -> Verdict:
    """Judges a run by (step, nats per character) of its evaluations and (step, nats per token) of its training.

    diverged: a loss is no number or worse than by chance, or the training loss (median of five reports) is a nat above
    its lowest. overfitting:
    the held-out loss has risen by half a percent from its best, over two evaluations at least, while the training loss
    did not rise. flat: it has moved by less than 0.3 % over the last three. too_early: fewer than two evaluations.
    """
    diverged_since = _diverged_since(losses)
    if diverged_since is None:
        diverged_since = next((step for step, value in evaluations if not value < _WORSE_THAN_CHANCE), None)
    finite = [(step, value) for step, value in evaluations if math.isfinite(value)]
    if not finite:
        return Verdict("too_early" if diverged_since is None else "diverged", diverged_since)
    best_step, best = min(finite, key=lambda point: point[1])
    latest = finite[-1][1]
    kind: VerdictKind = "improving"
    since: int | None = best_step
    after = [step for step, _ in finite if step > best_step]
    if diverged_since is not None:
        kind, since = "diverged", diverged_since
    elif len(finite) < 2:
        kind, since = "too_early", None
    elif len(after) >= 2 and latest > best * (1 + _RISEN) and not _rose(losses, best_step):
        kind = "overfitting"
    elif len(finite) >= 3 and _spread([value for _, value in finite[-3:]]) < _FLAT:
        kind, since = "flat", finite[-3][0]
    elif latest > best * (1 + _FLAT):
        kind = "flat"
    else:
        since = None
    return Verdict(kind, since, best_step, best, latest)


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / min(values) if min(values) > 0 else 0.0


def _rose(losses: Points, step: int) -> bool:
    """Whether the training loss is higher than it was at `step`: then it is not the text that was learned by heart."""
    before = [loss for at, loss in losses if at <= step][-_SMOOTHED:]
    after = [loss for at, loss in losses if at > step][-_SMOOTHED:]
    return bool(before and after) and _median(after) > _median(before) + 0.05 * abs(_median(before))


def _diverged_since(losses: Points) -> int | None:
    lowest = math.inf
    since: int | None = None
    recent: list[float] = []
    for step, loss in losses:
        if not math.isfinite(loss):
            return step
        recent = [*recent[-_SMOOTHED + 1 :], loss]
        if len(recent) < _SMOOTHED:
            continue
        smoothed = _median(recent)
        lowest = min(lowest, smoothed)
        if smoothed <= lowest + _DIVERGED:
            since = None
        elif since is None:
            since = step
    return since


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
