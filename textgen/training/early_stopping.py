"""The best evaluation so far, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from textgen.training.evaluation import Evaluation


@dataclass
class BestSoFar:
    """Keeps the best evaluation, in nats per character, and counts those after it that went the wrong way.

    `patience` is how many of these may come (Prechelt 1998, “Early stopping – but when?”); 0: any number. One that is
    better than the one before it does not count: a tuned model often gets worse at first and then better than it was.
    """

    patience: int
    evaluation: Evaluation | None = None
    step: int | None = None
    waited: int = 0
    latest: float = math.inf

    def add(self, step: int, evaluation: Evaluation) -> bool:
        """Takes note of an evaluation; whether it is the best so far."""
        nats = evaluation.nats_per_char
        better = self.evaluation is None or nats < self.evaluation.nats_per_char
        if better:
            self.evaluation, self.step, self.waited = evaluation, step, 0
        elif not nats < self.latest:
            self.waited += 1
        self.latest = nats
        return better

    @property
    def exhausted(self) -> bool:
        """Whether patience is over."""
        return 0 < self.patience <= self.waited

    def wait_anew(self) -> None:
        """Gives a run that is trained longer its whole patience again."""
        self.waited = 0

    def values(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values."""
        best = self.evaluation.as_dict() if self.evaluation else None
        latest = self.latest if math.isfinite(self.latest) else None  # JSON knows no infinity
        return {"best": best, "best_step": self.step, "waited": self.waited, "latest": latest}

    def restore(self, values: dict[str, Any]) -> None:
        """Takes up what `values` of another one said."""
        self.evaluation = Evaluation(**values["best"]) if values["best"] else None
        self.step = values["best_step"]
        self.waited = int(values.get("waited", 0))
        latest = values.get("latest")
        self.latest = math.inf if latest is None else float(latest)
