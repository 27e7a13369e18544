from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.helpers import BOS, EOS, request
from textgen.config import GenerationSettings
from textgen.engine.decoding import Choice
from textgen.engine.processors import Processors
from textgen.engine.randomness import UniformStream
from textgen.engine.requests import FinishReason, GenerationRequest, TokenEvent
from textgen.engine.sampling import SampledSequence, Sampler
from textgen.engine.warpers import warp
from textgen.errors import BrokenModel

# Whole numbers among them make ties; -inf is what a model may rule out.
logit = st.one_of(st.floats(-30, 30, width=32), st.integers(-3, 3).map(float), st.just(-math.inf))
logit_rows = st.lists(logit, min_size=1, max_size=40).filter(lambda row: any(math.isfinite(value) for value in row))


def as_row(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def step(sequence: SampledSequence, row: np.ndarray) -> TokenEvent:
    (choice,) = Sampler([sequence]).choose(row[None])
    assert isinstance(choice, Choice), choice
    return choice.event


def free(**settings: Any) -> GenerationRequest:
    """A request that nothing ends soon."""
    return request(0, eos_id=None, **{"max_new_tokens": 100_000, **settings})


def plain_draw(scores: np.ndarray, settings: GenerationSettings, uniform: float) -> tuple[int, np.ndarray]:
    """The token at `uniform` of scores [vocab] warped as a whole, and the log-probabilities [vocab] of all."""
    warped = warp(scores[None], settings)[0]
    # By falling score, and of equal ones the higher id first.
    order = np.lexsort((np.arange(scores.size), scores))[::-1]
    mass = np.exp(warped[order] - warped.max()).cumsum()
    token_id = order[mass.searchsorted(uniform * mass[-1], side="right")]
    return int(token_id), warped - warped.max() - math.log(mass[-1])


def random_settings(random: np.random.Generator) -> dict[str, Any]:
    """Each warper is on now and then, in all combinations."""
    ranges: dict[str, tuple[float, float]] = {
        "top_k": (1, 400),
        "top_p": (0.1, 0.99),
        "min_p": (0.001, 0.3),
        "typical_p": (0.2, 0.97),
        "epsilon_cutoff": (1e-4, 0.05),
        "eta_cutoff": (1e-4, 0.05),
    }
    settings = {name: float(random.uniform(*ends)) for name, ends in ranges.items() if random.random() < 0.3}
    if "top_k" in settings:
        settings["top_k"] = int(settings["top_k"])
    return {**settings, "temperature": float(random.choice([1e-9, 0.5, 0.8, 1.0, 1.4]))}


def random_row(random: np.random.Generator, vocab_size: int) -> np.ndarray:
    """Flat or peaked, with many ties or hardly any, with tokens ruled out or none."""
    row = random.normal(0, random.choice([0.5, 2.0, 5.0]), vocab_size)
    row[random.integers(0, vocab_size, 5)] += random.choice([0, 6])
    if random.random() < 0.4:
        row = np.round(row, 1)
    row[random.random(vocab_size) < random.choice([0.0, 0.3, 0.999])] = -math.inf
    row[random.integers(vocab_size)] = random.normal()
    return row.astype(np.float32)


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 63, 300, 1500, 5003])
def test_tokens_and_probabilities_are_those_of_warping_the_whole_vocabulary(vocab_size: int) -> None:
    """Token by token: the same can be drawn, with the same probabilities, and the same number draws the same one."""
    random = np.random.default_rng(vocab_size)
    for case in range(120):
        row, settings = random_row(random, vocab_size), random_settings(random)
        event = step(SampledSequence(free(**settings, top_logprobs=50), seed=case), row)
        expected, logprobs = plain_draw(row, free(**settings).settings, UniformStream(case).at(0))
        assert event.token_id == expected
        assert event.warped_logprob == pytest.approx(logprobs[expected], abs=1e-6)
        for other in event.alternatives:
            assert other.warped_logprob == pytest.approx(logprobs[other.token_id], rel=1e-6, abs=1e-6)


def test_results_are_the_same_to_the_bit_alone_and_among_any_others() -> None:
    random = np.random.default_rng(4)
    count, vocab_size, steps = 60, 2_100, 4

    def sequences() -> list[SampledSequence]:
        random = np.random.default_rng(5)
        made = []
        for number in range(count):
            extra: dict[str, Any] = {"temperature": 0.0} if number % 7 == 0 else {}
            extra |= {"repetition_penalty": 1.3, "dry_multiplier": 0.5} if number % 5 == 0 else {}
            wanted = free(**{**random_settings(random), **extra}, top_logprobs=number % 4)
            made.append(SampledSequence(wanted, seed=number, sample=number % 3))
        return made

    together, alone, some = sequences(), sequences(), sequences()
    for _ in range(steps):
        logits = np.stack([random_row(random, vocab_size) for _ in range(count)])
        logits[11, 5] = math.nan
        one_by_one = [Sampler([sequence]).choose(row[None])[0] for sequence, row in zip(alone, logits, strict=True)]
        backwards = Sampler(together[::-1]).choose(logits[::-1])[::-1]
        odd = Sampler(some[1::2]).choose(logits[1::2])
        for number in range(count):
            if number == 11:
                assert isinstance(backwards[number], BrokenModel)
                assert isinstance(one_by_one[number], BrokenModel)
            else:
                assert backwards[number] == one_by_one[number]
        assert [choice for choice in odd if isinstance(choice, Choice)] == [
            choice for choice in one_by_one[1::2] if isinstance(choice, Choice)
        ]
    assert [sequence.hypothesis() for sequence in together] == [sequence.hypothesis() for sequence in alone]


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.97}, {"top_k": 9}, {"typical_p": 0.9}])
def test_tokens_follow_the_distribution(settings: dict[str, float]) -> None:
    """Chi-square over 8,000 draws, tokens expected less than 20 times together in one bin."""
    logits = np.random.default_rng(1).normal(0, 2, 600).astype(np.float32)  # so flat that few tokens do not do
    sequence = SampledSequence(free(temperature=0.7, **settings), seed=11)
    drawn = [step(sequence, logits).token_id for _ in range(8_000)]
    warped = warp(logits[None], sequence.settings)[0]
    expected = np.exp(warped - warped.max())
    expected *= 8_000 / expected.sum()
    observed = np.bincount(drawn, minlength=600)
    assert not observed[expected == 0].any()
    rare = expected < 20
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = expected.size - 1
    # The 0.1 % point of chi-square (Wilson and Hilferty 1931).
    most = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert float(((observed - expected) ** 2 / expected).sum()) < most


@given(logit_rows, st.integers(0, 2**63 - 1), st.floats(0.0, 5.0), st.integers(0, 5), st.floats(0.05, 1.0))
def test_the_logprob_is_the_models_own(
    row: list[float], seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    wanted = free(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=1.7)
    event = step(SampledSequence(wanted, seed), as_row(row))
    expected = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
    assert event.logprob == pytest.approx(float(expected[event.token_id]), abs=1e-5)


@pytest.mark.parametrize("shift", [-3e4, -70.0, 0.0, 49.0, 3e4])
def test_the_logprob_stays_exact_far_from_zero_and_in_a_long_tail(shift: float) -> None:
    row = np.full(300_000, shift - 17.5, dtype=np.float32)
    row[7] = shift
    event = step(SampledSequence(free(temperature=0.0), seed=0), row)
    tail = float(np.exp(row[0].astype(np.float64) - shift)) * 299_999
    assert event.token_id == 7
    assert event.logprob == pytest.approx(-math.log1p(tail), abs=1e-6)


@given(logit_rows, st.integers(1, 45), st.integers(0, 1000))
def test_alternatives_are_the_models_likeliest_tokens(row: list[float], count: int, seed: int) -> None:
    event = step(SampledSequence(free(temperature=1.0, top_logprobs=count, logit_bias={0: 2.0}), seed), as_row(row))
    possible = [token_id for token_id, value in enumerate(row) if value > -math.inf]
    expected = sorted(possible, key=lambda token_id: (-row[token_id], token_id))[:count]
    assert [other.token_id for other in event.alternatives] == expected
    reference = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
    biased = torch.tensor(row, dtype=torch.float64)
    biased[0] += 2.0
    drawn = torch.log_softmax(biased, -1)
    for other in event.alternatives:
        assert other.logprob == pytest.approx(float(reference[other.token_id]), abs=1e-5)
        assert other.warped_logprob == pytest.approx(float(drawn[other.token_id]), abs=1e-5)
    if event.token_id in expected:
        chosen = event.alternatives[expected.index(event.token_id)]
        assert chosen.logprob == pytest.approx(event.logprob)
        assert chosen.warped_logprob == pytest.approx(event.warped_logprob)


def test_what_cannot_be_drawn_is_an_alternative_at_minus_infinity() -> None:
    row = as_row([1, 4, 3, 2])
    greedy = step(SampledSequence(free(temperature=0.0, top_logprobs=3, logit_bias={1: -2.0}), seed=0), row)
    assert (greedy.token_id, greedy.warped_logprob) == (2, 0.0)
    assert [other.warped_logprob for other in greedy.alternatives] == [-math.inf, 0.0, -math.inf]
    drawn = step(SampledSequence(free(temperature=1.0, top_logprobs=3, top_k=2), seed=0), row)
    assert [math.isfinite(other.warped_logprob) for other in drawn.alternatives] == [True, True, False]


def test_greedy_takes_the_first_of_the_highest_and_leaves_the_logits_alone() -> None:
    sequence = SampledSequence(free(temperature=0.0, forbidden_ids=frozenset({0})), seed=0)
    row = as_row([9, 5, 0, 5, 2])
    assert step(sequence, row).token_id == 1
    assert row.tolist() == [9, 5, 0, 5, 2]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_bans_hold(temperature: float) -> None:
    row = as_row([9, 8, 9, 7, 6])
    wanted = request(temperature=temperature, forbidden_ids=frozenset({0, 3}), min_new_tokens=30, max_new_tokens=60)
    sequence = SampledSequence(wanted, seed=0)
    assert {step(sequence, row).token_id for _ in range(30)} <= {1, 4}
    later = [step(sequence, row).token_id for _ in range(20)]
    assert EOS in later
    assert set(later) <= {1, 2, 4}


def test_penalties_follow_the_text_token_by_token() -> None:
    """As if the processors read the whole text anew at each step."""
    random = np.random.default_rng(9)
    wanted = free(
        temperature=0.9,
        top_p=0.9,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        no_repeat_ngram_size=3,
        dry_multiplier=0.6,
    )
    sequence = SampledSequence(wanted, seed=3)
    for index in range(80):
        row = random.normal(0, 1, 12).astype(np.float32)
        processed = Processors(wanted).apply(row[None], [list(sequence.token_ids)])[0]
        expected, _ = plain_draw(processed, wanted.settings, UniformStream(3).at(index))
        assert step(sequence, row).token_id == expected


def test_samples_of_one_request_share_its_processors_and_nothing_else() -> None:
    wanted = free(temperature=1.0, no_repeat_ngram_size=1)
    shared = Processors(wanted)
    rows = np.random.default_rng(2).normal(0, 1, (6, 3, 30)).astype(np.float32)
    samples = [SampledSequence(wanted, 7, number, shared) for number in range(3)]
    apart = [SampledSequence(wanted, 7, number) for number in range(3)]
    for logits in rows:
        events = [choice.event for choice in Sampler(samples).choose(logits) if isinstance(choice, Choice)]
        assert [event.sample for event in events] == [0, 1, 2]
        assert [choice.event for choice in Sampler(apart).choose(logits) if isinstance(choice, Choice)] == events
    assert len({tuple(sample.token_ids) for sample in samples}) == 3
    assert all(len(set(sample.token_ids)) == 6 for sample in samples)


def test_a_sequence_ends_with_its_end_token_its_stop_condition_or_its_length() -> None:
    def run(wanted: GenerationRequest, *tokens: int) -> tuple[list[FinishReason | None], SampledSequence]:
        sequence = SampledSequence(wanted, seed=0)
        reasons: list[FinishReason | None] = []
        for token_id in tokens:
            row = np.zeros((1, 10), dtype=np.float32)
            row[0, token_id] = 9.0
            (choice,) = Sampler([sequence]).choose(row)
            assert isinstance(choice, Choice)
            assert choice.event.token_id == token_id
            reasons.append(choice.reason)
        return reasons, sequence

    greedy: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 3}
    reasons, sequence = run(request(BOS, length_penalty=2.0, **greedy), 5, EOS)
    assert reasons == [None, "eos"]
    hypothesis = sequence.hypothesis()
    assert (hypothesis.token_ids, hypothesis.finished, hypothesis.reason) == ((5, EOS), True, "eos")
    assert hypothesis.score == pytest.approx(2 * -math.log1p(9 * math.exp(-9)) / 2**2, abs=1e-6)
    assert run(request(stop_condition=lambda ids: ids == [5, 7], **greedy), 5, 7)[0] == [None, "stop"]
    reasons, sequence = run(request(eos_id=None, **greedy), EOS, 5, 7)
    assert reasons == [None, None, "length"]
    assert sequence.token_ids == [EOS, 5, 7]
    unfinished = run(request(**greedy), 5)[1].hypothesis()
    assert (unfinished.finished, unfinished.reason) == (False, None)
    assert SampledSequence(request(), seed=0).hypothesis().token_ids == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_of_their_row_alone(bad: float, temperature: float) -> None:
    # That a ban covers the bad number does not make the others good.
    for forbidden in (frozenset[int](), frozenset({3})):
        wanted = free(temperature=temperature, forbidden_ids=forbidden)
        sequences = [SampledSequence(wanted, seed=number) for number in range(3)]
        good = np.zeros((3, 5), dtype=np.float32)
        Sampler(sequences).choose(good)
        broken = good.copy()
        broken[1, 3] = bad
        first, second, third = Sampler(sequences).choose(broken)
        assert isinstance(first, Choice)
        assert isinstance(third, Choice)
        assert isinstance(second, BrokenModel)
        assert "new token 1 is not a number" in str(second)
        assert [len(sequence.token_ids) for sequence in sequences] == [2, 1, 2]
    (nothing,) = Sampler([SampledSequence(free(), seed=0)]).choose(np.full((1, 5), -math.inf, dtype=np.float32))
    assert isinstance(nothing, BrokenModel)
    # Nothing is left where the model itself rules out all that is allowed.
    narrow = SampledSequence(free(forbidden_ids=frozenset({0})), seed=0)
    (nothing,) = Sampler([narrow]).choose(as_row([1.0, -math.inf])[None])
    assert isinstance(nothing, BrokenModel)


def test_a_function_of_a_request_that_raises_fails_its_row_alone() -> None:
    def raises(token_ids: Any) -> Any:
        raise ValueError("mine")

    sequences = [
        SampledSequence(free(), seed=0),
        SampledSequence(free(stop_condition=raises), seed=0),
        SampledSequence(replace(free(), forbidden_next=raises), seed=0),
        SampledSequence(free(), seed=0),
    ]
    kinds = [type(choice) for choice in Sampler(sequences).choose(np.zeros((4, 9), dtype=np.float32))]
    assert kinds == [Choice, ValueError, ValueError, Choice]


def test_no_rows_are_no_trouble() -> None:
    assert Sampler([]).choose(np.zeros((0, 9), dtype=np.float32)) == []
