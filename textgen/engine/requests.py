"""What goes into the engine and what comes out of it: a request, events, hypotheses. Token ids only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from textgen.config import AdaptationSettings, GenerationSettings
from textgen.engine.snapshots import Snapshot
from textgen.errors import InvalidSetting
from textgen.limits import Limits

FinishReason = Literal["eos", "length", "stop", "cancelled", "deadline"]
StopCondition = Callable[[Sequence[int]], bool]
ForbiddenNext = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class GenerationRequest:
    """One wish to continue a prompt.

    `start` stands for text that has been read before; `prompt_ids` follow it and may then be empty. `stop_condition`
    gets the new token ids of a hypothesis (to read, not to change) after each token and says whether it ends there;
    `forbidden_next` gets the same and names the token ids that must not come next, `avoided_next` those that must not
    unless nothing else is left. All are called in the engine's thread, between the steps of all requests, and should be
    quick. `forbidden_ids` are never generated. `eos_id` ends a hypothesis; None: only length and `stop_condition` do.
    `settings.stop`, `settings.banned`, `settings.avoid_copying` and `settings.ignore_eos` are about text and none of
    the engine's business. `adaptation`: learn from the prompt first, in a private copy of the model. What is not
    `counted` does not show in the figures of the engine.
    """

    prompt_ids: tuple[int, ...]
    settings: GenerationSettings = GenerationSettings()
    stop_condition: StopCondition | None = None
    forbidden_next: ForbiddenNext | None = None
    avoided_next: ForbiddenNext | None = None
    forbidden_ids: frozenset[int] = frozenset()
    eos_id: int | None = None
    start: Snapshot | None = None
    adaptation: AdaptationSettings | None = None
    counted: bool = True

    @property
    def rows(self) -> int:
        """Rows of state it needs while it generates."""
        return max(self.settings.num_beams, self.settings.num_samples)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """Everything that comes before the first new token."""
        return self.prompt_ids if self.start is None else self.start.token_ids + self.prompt_ids

    def check(self, *, vocab_size: int, limits: Limits) -> None:
        """Raises `InvalidSetting` for what a model of `vocab_size` pieces or a host with `limits` cannot do."""
        if not self.context_ids:
            raise InvalidSetting("prompt", "an empty prompt", "at least one token")
        named = {
            "prompt_ids": self.prompt_ids,
            "forbidden_ids": self.forbidden_ids,
            "eos_id": () if self.eos_id is None else (self.eos_id,),
            "logit_bias": self.settings.logit_bias,
        }
        for field, ids in named.items():
            wrong = [number for number in ids if not 0 <= number < vocab_size]
            if wrong:
                raise InvalidSetting(field, wrong[0], f"token ids from 0 to {vocab_size - 1}")
        never = self.forbidden_ids | (frozenset() if self.eos_id is None else {self.eos_id})
        if len(never) >= vocab_size:
            raise InvalidSetting("forbidden_ids", f"all {vocab_size} tokens", "at least one token beside the end token")
        if self.settings.max_new_tokens < 1:  # settings that were copied are not checked
            raise InvalidSetting("max_new_tokens", self.settings.max_new_tokens, "at least 1")
        most_beams = min(limits.max_beams, limits.max_rows)
        for field, given, most in (
            ("max_new_tokens", self.settings.max_new_tokens, limits.max_new_tokens),
            ("num_beams", self.settings.num_beams, most_beams),
            ("num_samples", self.settings.num_samples, most_beams),
        ):
            if given > most:
                raise InvalidSetting(field, given, f"at most {most}")


@dataclass(frozen=True)
class Hypothesis:
    """A continuation, without the prompt and with the end token where there is one.

    `score` is Σ log p / length^length_penalty, where length counts `token_ids` and p are probabilities of the unwarped
    model; in a beam search those after the processors, when it samples after the warpers too, and in groups less the
    diversity penalties. `finished` is false while it may still grow, and for ever if the request was cut short;
    `reason` says why it ended.
    """

    token_ids: tuple[int, ...]
    score: float
    finished: bool
    reason: FinishReason | None = None


class Alternative(NamedTuple):
    """A token that might have been chosen. `warped_logprob` is -inf when it could not be drawn."""

    token_id: int
    logprob: float
    warped_logprob: float


class TokenEvent(NamedTuple):
    """A token was chosen: the `index`-th new one of its sample, both from 0. The end token has its event too.

    `logprob` is its natural log-probability under the model itself, before any penalty, temperature or ban;
    `warped_logprob` that with which it was drawn. `alternatives` are the `top_logprobs` likeliest tokens under the
    model, the chosen one among them if it belongs there, by falling `logprob`.
    """

    token_id: int
    logprob: float
    index: int  # type: ignore[assignment]  # hides a method of tuples
    sample: int = 0
    warped_logprob: float = 0.0
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class BeamsEvent:
    """The best hypotheses after one more step of a beam search, running and finished, by falling score."""

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A token that a beam search took at some step.

    `parent` is the place of its predecessor in the tree (-1 at the prompt), `logprob_sum` the Σ log p up to here, and
    `finished` whether the hypothesis ended with it.
    """

    token_id: int
    parent: int
    logprob_sum: float
    finished: bool


@dataclass(frozen=True)
class FinishedEvent:
    """The last event of every stream that did not fail.

    A beam search gives `num_return` hypotheses, or as many as exist, by falling score, and in `tree` every token that
    it took, parents before children; sampling gives one hypothesis for each sample, in their order. `reason` is that
    of the first.
    """

    reason: FinishReason
    hypotheses: tuple[Hypothesis, ...]
    tree: tuple[TreeNode, ...] = ()


Event = TokenEvent | BeamsEvent | FinishedEvent


@dataclass(frozen=True)
class TokenScore:
    """What the model thought of a given token: its log-probability after all that came before, and the likeliest."""

    token_id: int
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


def hypothesis_score(logprob_sum: float, length: int, length_penalty: float) -> float:
    """Σ log p / length^length_penalty (Wu et al. 2016 in the form of `transformers`); 0 for an empty hypothesis."""
    return logprob_sum / float(length) ** length_penalty if length else 0.0
