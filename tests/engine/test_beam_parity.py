"""The same searches by `transformers` with our own model, token for token and score for score."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import CausalLMOutput

from tests.engine.beam_reference import Scored, assert_same, search
from tests.engine.helpers import BOS, EOS, VOCAB, request
from textgen.engine.requests import GenerationRequest, Hypothesis
from textgen.model import LanguageModel

PROMPT = (BOS, 7, 3, 9, 3)
EARLY_STOPPING: dict[str, bool | str] = {"no": False, "yes": True, "never": "never"}


class Wrapped(PreTrainedModel, GenerationMixin):
    """Our model as one of theirs, without a cache: every step reads each text from its beginning."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, model: LanguageModel, eos_bias: float) -> None:
        config: Any = PretrainedConfig()
        config.vocab_size = model.settings.vocab_size
        super().__init__(config)
        self.model = model
        self.eos_bias = eos_bias

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
        logits, _state = self.model(input_ids, self.model.initial_state(input_ids.shape[0]))
        # A copy: a tensor of inference mode may not be written to outside of it.
        logits = logits[:, -1:].clone()
        logits[..., EOS] += self.eos_bias
        return CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return {"input_ids": input_ids}


class Stops(StoppingCriteria):
    def __init__(self, wanted: GenerationRequest) -> None:
        self._wanted = wanted

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        assert self._wanted.stop_condition is not None
        return torch.tensor([self._wanted.stop_condition(row[len(PROMPT) :]) for row in input_ids.tolist()])


def theirs(wrapped: Wrapped, wanted: GenerationRequest, batch: int = 1) -> list[Scored]:
    """`generate()` with the settings of `wanted`, their other defaults switched off: (score, new tokens)."""
    settings = wanted.settings
    config = GenerationConfig(
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return,
        length_penalty=settings.length_penalty,
        early_stopping=EARLY_STOPPING[settings.early_stopping],
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        repetition_penalty=settings.repetition_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        sequence_bias=[[[token_id], bias] for token_id, bias in settings.logit_bias.items()] or None,
        suppress_tokens=sorted(wanted.forbidden_ids) or None,
        do_sample=settings.beam_sampling,
        temperature=settings.temperature if settings.beam_sampling else None,
        top_k=settings.top_k if settings.beam_sampling else None,
        top_p=settings.top_p if settings.beam_sampling else None,
        eos_token_id=wanted.eos_id,
        pad_token_id=VOCAB,  # outside, as is -1, which it takes without an end token: to tell what was filled up
        output_scores=True,
        return_dict_in_generate=True,
        use_cache=False,
    )
    untyped: Any = wrapped  # their types do not allow for models made outside
    found = untyped.generate(
        torch.tensor([wanted.prompt_ids] * batch),
        attention_mask=torch.ones(batch, len(wanted.prompt_ids), dtype=torch.int64),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([] if wanted.stop_condition is None else [Stops(wanted)]),
    )
    new_ids = found.sequences[:, len(wanted.prompt_ids) :].tolist()
    texts = [tuple(token for token in row if 0 <= token < VOCAB) for row in new_ids]
    return list(zip(found.sequences_scores.tolist(), texts, strict=True))


def ours(wrapped: Wrapped, wanted: GenerationRequest, seeds: Iterable[int] = (0,)) -> list[list[Hypothesis]]:
    """Our search with each of `seeds`."""

    @functools.cache
    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        return wrapped(torch.tensor([[*wanted.prompt_ids, *tokens]])).logits[0, -1].numpy()

    return [search(logits_of, wanted, seed)[1] for seed in seeds]


@pytest.fixture(scope="module", params=[0.0, 4.0], ids=["ends seldom", "ends often"])
def wrapped(request: pytest.FixtureRequest, model: LanguageModel) -> Wrapped:
    return Wrapped(model, eos_bias=request.param)


def random_wish(seed: int, **fixed: Any) -> GenerationRequest:
    rng = random.Random(seed)
    max_new_tokens = rng.choice([1, 2, 6, 11])
    settings: dict[str, Any] = {
        "length_penalty": rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": rng.choice([0, 0, min(3, max_new_tokens)]),
        "repetition_penalty": rng.choice([1.0, 0.8, 1.3, 3.0]),
        "no_repeat_ngram_size": rng.choice([0, 0, 1, 2, 3]),
        "logit_bias": {rng.randrange(VOCAB): rng.uniform(-3, 3) for _ in range(rng.choice([0, 3]))},
        "forbidden_ids": frozenset(rng.sample(range(3, VOCAB), rng.choice([0, 5]))),
        "eos_id": rng.choice([EOS, EOS, EOS, None]),
    }
    return request(*PROMPT, **{**settings, **fixed})


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", EARLY_STOPPING)
@pytest.mark.parametrize("num_beams", [2, 3, 4, 5, 6])
def test_beam_search_finds_what_generate_finds(wrapped: Wrapped, num_beams: int, early_stopping: str) -> None:
    for seed in range(3):
        wanted = random_wish(
            100 * num_beams + seed, num_beams=num_beams, num_return=1 + seed % num_beams, early_stopping=early_stopping
        )
        assert_same(ours(wrapped, wanted)[0], theirs(wrapped, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", EARLY_STOPPING)
@pytest.mark.parametrize("num_beams", [2, 3, 4, 5, 6])
def test_beam_search_finds_what_generate_finds_in_hundreds_of_cases(
    wrapped: Wrapped, num_beams: int, early_stopping: str
) -> None:
    for seed in range(20):
        wanted = random_wish(
            1000 * num_beams + seed, num_beams=num_beams, num_return=num_beams, early_stopping=early_stopping
        )
        assert_same(ours(wrapped, wanted)[0], theirs(wrapped, wanted))


def test_the_three_kinds_of_early_stopping_differ_as_they_do_there(model: LanguageModel) -> None:
    wrapped = Wrapped(model, eos_bias=4.0)
    kinds = set()
    for early_stopping in EARLY_STOPPING:
        wanted = request(*PROMPT, num_beams=3, num_return=3, max_new_tokens=12, early_stopping=early_stopping)
        (found,) = ours(wrapped, wanted)
        assert_same(found, theirs(wrapped, wanted))
        kinds.add(tuple(hypothesis.token_ids for hypothesis in found))
    assert len(kinds) == 3


@pytest.mark.parametrize("num_beams", [2, 4])
def test_stop_conditions_end_beams_as_stopping_criteria_do(wrapped: Wrapped, num_beams: int) -> None:
    wanted = request(
        *PROMPT,
        eos_id=None,
        num_beams=num_beams,
        num_return=num_beams,
        max_new_tokens=9,
        length_penalty=0.5,
        stop_condition=lambda token_ids: sum(token_ids) % 5 == 2,
    )
    (found,) = ours(wrapped, wanted)
    assert "stop" in {hypothesis.reason for hypothesis in found}
    assert_same(found, theirs(wrapped, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
def test_beam_sampling_draws_as_generate_does(model: LanguageModel, length_penalty: float) -> None:
    """The same texts come out equally often, with the same scores."""
    wrapped = Wrapped(model, eos_bias=3.0)
    searches = 800
    wanted = request(
        *PROMPT,
        num_beams=2,
        max_new_tokens=3,
        length_penalty=length_penalty,
        beam_sampling=True,
        temperature=1.4,
        top_k=6,
        top_p=0.9,
        repetition_penalty=1.2,
    )
    torch.manual_seed(1)
    of_theirs = theirs(wrapped, wanted, batch=searches)
    of_ours = [best for best, *_ in ours(wrapped, wanted, range(searches))]
    scores = {tokens: score for score, tokens in of_theirs}
    for hypothesis in of_ours:
        assert hypothesis.score == pytest.approx(scores.get(hypothesis.token_ids, hypothesis.score), abs=1e-5)
    counts = np.array(
        [
            [sum(tokens == text for _, tokens in of_theirs), sum(best.token_ids == text for best in of_ours)]
            for text in {tokens for _, tokens in of_theirs} | {best.token_ids for best in of_ours}
        ]
    )
    often = counts.sum(axis=1) >= 10
    counts = np.vstack([counts[often], counts[~often].sum(axis=0)])  # [texts, two]
    assert len(counts) > 10
    # Two samples of one distribution: about chi-square with a degree of freedom for each text but one.
    chi_square = ((counts[:, 0] - counts[:, 1]) ** 2 / counts.sum(axis=1)).sum()
    assert chi_square < len(counts) + 4 * (2 * len(counts)) ** 0.5
