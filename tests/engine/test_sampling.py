from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.helpers import EOS, request
from textgen.engine.sampling import SampledSequence, UniformStream, candidates, draw, log_normalizer
from textgen.errors import BrokenModel

# Whole numbers among them make ties; -inf is what a ban leaves behind.
logit = st.one_of(
    st.floats(-30, 30, width=32),
    st.integers(-3, 3).map(float),
    st.just(-math.inf),
)
logit_rows = st.lists(logit, min_size=1, max_size=40).filter(lambda row: any(math.isfinite(value) for value in row))


def plain_candidates(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Temperature, top-k, top-p one after the other, as one would write them down."""
    scaled = {token: value / temperature for token, value in enumerate(logits) if value > -math.inf}
    if top_k and top_k < len(scaled):
        kth = sorted(scaled.values(), reverse=True)[top_k - 1]
        scaled = {token: value for token, value in scaled.items() if value >= kth}
    highest = max(scaled.values())
    weights = {token: math.exp(value - highest) for token, value in scaled.items()}
    total = math.fsum(weights.values())
    probabilities = {token: weight / total for token, weight in weights.items()}
    if top_p < 1.0:
        ascending = sorted(probabilities, key=lambda token: probabilities[token])
        cumulative = accumulate(probabilities[token] for token in ascending)
        kept = [token for token, mass in zip(ascending, cumulative, strict=True) if mass > 1 - top_p]
        kept = kept or ascending[-1:]
        total = math.fsum(probabilities[token] for token in kept)
        probabilities = {token: probabilities[token] / total for token in sorted(kept)}
    return probabilities


def as_row(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@given(logit_rows, st.floats(0.05, 5.0), st.integers(0, 45), st.floats(0.01, 1.0))
def test_candidates_are_those_of_the_plain_definition(
    row: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    ids, probabilities = candidates(as_row(row), temperature=temperature, top_k=top_k, top_p=top_p)
    expected = plain_candidates(row, temperature, top_k, top_p)
    assert ids.tolist() == list(expected)
    np.testing.assert_allclose(probabilities, list(expected.values()), rtol=1e-9, atol=1e-15)


def test_ties_with_the_kth_value_are_kept_and_banned_tokens_never_come_back_as_ties() -> None:
    ids, _ = candidates(as_row([1, 3, 1, 2, 1, 0]), temperature=1.0, top_k=3)
    assert ids.tolist() == [0, 1, 2, 3, 4]
    ids, _ = candidates(as_row([-math.inf, 3, -math.inf, 2]), temperature=1.0, top_k=3)
    assert ids.tolist() == [1, 3]


def test_top_p_keeps_the_fewest_tokens_that_exceed_it_and_always_one() -> None:
    row = np.log(np.array([0.1, 0.5, 0.15, 0.25])).astype(np.float32)
    for top_p, kept in ((0.001, [1]), (0.49, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        assert candidates(row, temperature=1.0, top_p=top_p)[0].tolist() == kept
    rows = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    for other in rows:  # some of these masses sum to no more than 1
        assert candidates(other, temperature=1.0, top_p=1e-20)[0].tolist() == [int(other.argmax())]
    # All alike: as many as needed, not all that tie.
    assert candidates(np.zeros(8, dtype=np.float32), temperature=1.0, top_p=0.5)[0].tolist() == [4, 5, 6, 7]


def test_top_p_counts_the_mass_that_top_k_left_and_temperature_comes_first() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    # Of the two that top-k leaves, the first has 4/7 = 0.571.
    assert candidates(row, temperature=1.0, top_k=2, top_p=0.55)[0].tolist() == [0]
    assert candidates(row, temperature=1.0, top_k=2, top_p=0.58)[0].tolist() == [0, 1]
    # At temperature 0.5 it has 16/25 = 0.64.
    assert candidates(row, temperature=0.5, top_k=2, top_p=0.63)[0].tolist() == [0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-308, 5e-324])
def test_a_temperature_near_zero_is_greedy_and_not_an_overflow(temperature: float) -> None:
    row = as_row([1.0, 9.0, -3.0, 8.0])
    ids, probabilities = candidates(row, temperature=temperature)
    assert probabilities.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert draw(ids, probabilities, 1 - 2**-53) == 1
    assert draw(ids, probabilities, 0.0) == 1


@given(
    st.lists(st.sampled_from([0.0, 1e-300, 0.1, 0.3, 7.0]), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True)
)
def test_draw_inverts_the_cumulative_distribution(weights: list[float], uniform: float) -> None:
    if not any(weights):
        weights.append(1.0)
    ids = np.arange(len(weights)) * 3
    place = draw(ids, np.array(weights), uniform) // 3
    below, total = sum(weights[:place]), sum(weights)
    assert weights[place] > 0
    assert below <= uniform * total + 1e-12
    assert below + weights[place] >= uniform * total - 1e-12


def test_uniform_numbers_depend_on_seed_and_index_only() -> None:
    forward = UniformStream(7)
    numbers = [forward.at(index) for index in range(300)]
    jumping = UniformStream(7)
    assert [jumping.at(index) for index in (299, 0, 130, 63, 64)] == [numbers[i] for i in (299, 0, 130, 63, 64)]
    alone = [int(np.random.Philox(key=7, counter=index).random_raw()) for index in range(300)]
    assert numbers == [(word >> 11) / 2**53 for word in alone]
    assert UniformStream(8).at(0) != numbers[0]
    assert UniformStream(2**63 - 1).at(2**40) == UniformStream(2**63 - 1).at(2**40)
    assert all(0 <= number < 1 for number in numbers)


def test_sampled_tokens_follow_the_models_distribution() -> None:
    """Chi-square over 20,000 draws; 27.88 is exceeded once in a thousand seeds with 9 degrees of freedom."""
    row = np.linspace(-1.5, 1.5, 10, dtype=np.float32)
    sequence = SampledSequence(request(temperature=0.7, max_new_tokens=20_000, eos_id=None), seed=11)
    drawn = [int(sequence.advance(row[None]).token_ids[0]) for _ in range(20_000)]
    observed = np.bincount(drawn, minlength=10)
    expected = np.exp(row.astype(np.float64) / 0.7)
    expected *= 20_000 / expected.sum()
    assert float(((observed - expected) ** 2 / expected).sum()) < 27.88


def test_neighbouring_seeds_are_as_good_as_far_ones() -> None:
    """The first number of 20,000 consecutive seeds fills 20 bins evenly; 43.82 is the 0.1 % point of chi-square(19)."""
    first = np.array([UniformStream(seed).at(0) for seed in range(4_000)])
    observed = np.histogram(first, bins=20, range=(0, 1))[0]
    assert float(((observed - 200) ** 2 / 200).sum()) < 43.82


@given(logit_rows, st.integers(0, 2**63 - 1), st.floats(0.0, 5.0), st.integers(0, 5), st.floats(0.05, 1.0))
def test_the_logprob_is_the_models_own(
    row: list[float], seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    event = SampledSequence(request(eos_id=None, **settings), seed).advance(as_row(row)[None]).event
    reference = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
    assert event.logprob == pytest.approx(float(reference[event.token_id]), abs=1e-5)  # type: ignore[union-attr]


def test_log_normalizer_stays_exact_far_from_zero() -> None:
    rows = np.array([[1e4, 1e4, -1e4], [-3e4, -3e4, -3e4], [0, -math.inf, -math.inf]], dtype=np.float32)
    assert log_normalizer(rows)[:, 0] == pytest.approx([1e4 + math.log(2), -3e4 + math.log(3), 0.0])


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_bans_hold(temperature: float) -> None:
    row = np.array([[9, 8, 9, 7, 6]], dtype=np.float32)
    wanted = request(temperature=temperature, forbidden_ids=frozenset({0, 3}), min_new_tokens=30, max_new_tokens=60)
    sequence = SampledSequence(wanted, seed=0)
    first = {int(sequence.advance(row).token_ids[0]) for _ in range(30)}
    assert first <= {1, 4}
    later = [sequence.advance(row) for _ in range(20)]
    assert EOS in {int(advance.token_ids[0]) for advance in later}
    assert {advance.reason for advance in later if advance.token_ids[0] == EOS} == {"eos"}


def test_greedy_takes_the_first_of_the_highest() -> None:
    sequence = SampledSequence(request(temperature=0.0), seed=0)
    row = np.array([[1, 5, 0, 5, 2]], dtype=np.float32)
    assert sequence.advance(row).token_ids.tolist() == [1]
    assert row.tolist() == [[1, 5, 0, 5, 2]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_with_a_sentence(bad: float, temperature: float) -> None:
    good = np.zeros((1, 5), dtype=np.float32)
    for forbidden in (frozenset[int](), frozenset({3})):
        sequence = SampledSequence(request(temperature=temperature, forbidden_ids=forbidden, eos_id=None), seed=0)
        sequence.advance(good)
        with pytest.raises(BrokenModel, match="new token 1 is not a number"):
            sequence.advance(np.array([[0, 0, 0, bad, 0]], dtype=np.float32))
    with pytest.raises(BrokenModel):
        SampledSequence(request(), seed=0).advance(np.full((1, 5), -math.inf, dtype=np.float32))
