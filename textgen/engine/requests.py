"""What goes into the engine and what comes out of it: a request, events, hypotheses. Token ids only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from textgen.config import GenerationSettings
from textgen.errors import InvalidSetting
from textgen.limits import Limits

FinishReason = Literal["eos", "length", "stop", "cancelled", "deadline"]
StopCondition = Callable[[Sequence[int]], bool]


@dataclass(frozen=True)
class GenerationRequest:
    """One wish to continue a prompt.

    `stop_condition` gets the new token ids of a hypothesis (to read, not to change) after each token and says whether
    it ends there; it is called in the engine's thread, between the steps of all requests, and should be quick.
    `forbidden_ids` are never generated. `eos_id` ends a hypothesis; None: only length and `stop_condition` do.
    `settings.stop` is text and therefore none of the engine's business. With more than one beam the search is
    deterministic: temperature, top-k, top-p and seed do not act.
    """

    prompt_ids: tuple[int, ...]
    settings: GenerationSettings = GenerationSettings()
    stop_condition: StopCondition | None = None
    forbidden_ids: frozenset[int] = frozenset()
    eos_id: int | None = None

    def check(self, *, vocab_size: int, limits: Limits) -> None:
        """Raises `InvalidSetting` for what a model of `vocab_size` pieces or a host with `limits` cannot do."""
        if not self.prompt_ids:
            raise InvalidSetting("prompt", "an empty prompt", "at least one token")
        named = {
            "prompt_ids": self.prompt_ids,
            "forbidden_ids": self.forbidden_ids,
            "eos_id": () if self.eos_id is None else (self.eos_id,),
        }
        for field, ids in named.items():
            wrong = [number for number in ids if not 0 <= number < vocab_size]
            if wrong:
                raise InvalidSetting(field, wrong[0], f"token ids from 0 to {vocab_size - 1}")
        never = self.forbidden_ids | (frozenset() if self.eos_id is None else {self.eos_id})
        if len(never) >= vocab_size:
            raise InvalidSetting("forbidden_ids", f"all {vocab_size} tokens", "at least one token beside the end token")
        most_beams = min(limits.max_beams, limits.max_rows)
        for field, given, most in (
            ("max_new_tokens", self.settings.max_new_tokens, limits.max_new_tokens),
            ("num_beams", self.settings.num_beams, most_beams),
        ):
            if given > most:
                raise InvalidSetting(field, given, f"at most {most}")


@dataclass(frozen=True)
class Hypothesis:
    """A continuation, without the prompt and with the end token where there is one.

    `score` is Σ log p / length^length_penalty, where p are probabilities of the unwarped model and length counts
    `token_ids`. `finished` is false while it may still grow, and for ever if the request was cut short.
    """

    token_ids: tuple[int, ...]
    score: float
    finished: bool


@dataclass(frozen=True)
class TokenEvent:
    """A token was chosen: the `index`-th new one, from 0. The end token has its event too.

    `logprob` is its natural log-probability under the model itself, before temperature, top-k, top-p or bans.
    """

    token_id: int
    logprob: float
    index: int


@dataclass(frozen=True)
class BeamsEvent:
    """The best hypotheses after one more step of a beam search, running and finished, by falling score."""

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True)
class FinishedEvent:
    """The last event of every stream that did not fail: `num_return` hypotheses, or as many as exist, by falling score.

    `reason` is that of the best one.
    """

    reason: FinishReason
    hypotheses: tuple[Hypothesis, ...]


Event = TokenEvent | BeamsEvent | FinishedEvent


def hypothesis_score(logprob_sum: float, length: int, length_penalty: float) -> float:
    """Σ log p / length^length_penalty (Wu et al. 2016 in the form of `transformers`); 0 for an empty hypothesis."""
    return logprob_sum / float(length) ** length_penalty if length else 0.0
