"""How the learning rate goes up and down over the budget, and what the budget is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from textgen.config import TrainingBudget

ScheduleName = Literal["cosine", "triangular", "trapezoidal"]

# ULMFiT's ratio of the highest to the lowest rate.
_TRIANGULAR_RATIO = 32.0
# The spent share of the budget from which a trapezoid falls.
_STABLE_UNTIL = 0.6


@dataclass(frozen=True)
class Horizon:
    """What training works through: `length` optimizer steps or seconds, counted on from `start`.

    `start` is 0 for a new run, and what was spent before for one that is trained longer.
    """

    unit: Literal["steps", "seconds"]
    start: float
    length: float

    @staticmethod
    def of(budget: TrainingBudget, *, steps_per_epoch: float, steps: int = 0, seconds: float = 0.0) -> Horizon:
        """The horizon of a `budget` that begins after `steps` steps and `seconds` seconds of training.

        Raises `InvalidSetting` when the budget is empty.
        """
        budget.check_budget()
        if budget.minutes is not None:
            return Horizon("seconds", seconds, 60.0 * budget.minutes)
        if budget.steps is not None:
            return Horizon("steps", steps, budget.steps)
        assert budget.epochs is not None
        return Horizon("steps", steps, max(1, math.ceil(budget.epochs * steps_per_epoch)))

    @property
    def total_steps(self) -> int | None:
        """The step at which training ends; None when that is a matter of time."""
        return int(self.start + self.length) if self.unit == "steps" else None

    def progress(self, *, steps: int, seconds: float) -> float:
        """Spent share, 0 to 1, after `steps` and `seconds` of training in all."""
        spent = steps if self.unit == "steps" else seconds
        return min(1.0, max(0.0, (spent - self.start) / self.length))

    def as_dict(self) -> dict[str, Any]:
        """What `Horizon(**values)` reads, as plain JSON values."""
        return asdict(self)


def learning_rate_factor(progress: float, warmup: float, schedule: ScheduleName = "cosine") -> float:
    """Linear rise over the first `warmup` of the budget, then a fall: the share of the peak rate.

    "cosine" falls along half a cosine down to zero (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983),
    "triangular" along a straight line down to 1/32 (slanted triangular rates, Howard & Ruder 2018,
    https://arxiv.org/abs/1801.06146). "trapezoidal" stays at the peak for 0.6 of the budget and then falls along a
    straight line down to zero (warm-up, stable, decay: Hu et al. 2024, https://arxiv.org/abs/2404.06395). `progress` is
    the spent share of the budget, whatever that is counted in.
    """
    if progress < warmup:
        # Never exactly zero, or the first step of a run measured in time would do nothing.
        return max(progress / warmup, 1e-3)
    if warmup >= 1.0:
        return 1.0
    if schedule == "trapezoidal":
        top = max(warmup, _STABLE_UNTIL)
        return min(1.0, max(0.0, (1.0 - progress) / (1.0 - top)))
    fallen = min(1.0, (progress - warmup) / (1.0 - warmup))
    if schedule == "triangular":
        return 1.0 - fallen * (1.0 - 1.0 / _TRIANGULAR_RATIO)
    return 0.5 * (1.0 + math.cos(math.pi * fallen))
