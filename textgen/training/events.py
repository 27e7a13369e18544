"""What a trainer tells while it works. It knows nothing of who listens: files, a terminal, a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from textgen.training.memorization import Memorization

if TYPE_CHECKING:
    from textgen.training.evaluation import Evaluation


class Samples(NamedTuple):
    """What a sampler gives: see `SampleEvent`."""

    texts: tuple[str, ...]
    memorization: Memorization | None = None
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StartEvent:
    """Training begins (or goes on) at `step` of `total_steps` (None when the budget is time)."""

    step: int
    total_steps: int | None
    device: str
    parameters: int
    batch_size: int
    window: int
    tokens_per_epoch: int
    members: int = 1


@dataclass(frozen=True)
class StepEvent:
    """Some optimizer steps are done; `loss` is their mean in nats per token."""

    step: int
    epoch: float
    progress: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    elapsed_seconds: float
    seconds_left: float


@dataclass(frozen=True)
class EvaluationEvent:
    """The averaged weights were scored on the held-out text; `best` when never better before.

    `kept` is their score on held-out text of the base that training began with: what is left of its knowledge. With a
    base there is an evaluation at step 0, before anything is learned.
    """

    step: int
    elapsed_seconds: float
    evaluation: Evaluation
    best: bool
    kept: Evaluation | None = None


@dataclass(frozen=True)
class SampleEvent:
    """What the averaged weights write at this step, and how much of that is copied from the training text.

    `prompts` are what the samples begin with.
    """

    step: int
    samples: tuple[str, ...]
    memorization: Memorization | None = None
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointEvent:
    """A good moment to save: the listener takes `Trainer.average` and, for "last", `Trainer.snapshot()`."""

    step: int
    kind: Literal["last", "best"]


@dataclass(frozen=True)
class BatchSplitEvent:
    """Memory was short: from now on each batch is read in `parts` groups of at most `rows` rows, to the same effect."""

    step: int
    parts: int
    rows: int


@dataclass(frozen=True)
class EndEvent:
    """Training is over: the budget is spent, or `Trainer.stop` was called.

    `early`: finished before the budget was spent, since the held-out text had not been predicted better for so long.
    """

    step: int
    reason: Literal["finished", "stopped"]
    elapsed_seconds: float
    best_step: int | None
    best: Evaluation | None
    early: bool = False


Event = StartEvent | StepEvent | EvaluationEvent | SampleEvent | CheckpointEvent | BatchSplitEvent | EndEvent
