from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgen.engine.beam_candidates import best_candidates, drawn_candidates, log_softmax, narrowed


@st.composite
def scores_and_sums(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few different values, so that ties are common; bans; sizes on both sides of what sorts everything."""
    rows, vocab_size = draw(st.integers(1, 5)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarseness = draw(st.sampled_from([0.5, 8.0, 1e6]))
    scores = np.round(rng.standard_normal((rows, vocab_size)) * coarseness) / coarseness
    scores *= draw(st.sampled_from([1.0, 1e-20]))  # log p of what is nearly certain
    scores[rng.random(scores.shape) < draw(st.sampled_from([0.0, 0.2, 0.97, 1.0]))] = -math.inf
    # Far apart they drive the rounding of what is compared.
    sums = np.sort(rng.standard_normal(rows))[::-1] * draw(st.sampled_from([0.0, 1.0, 1e4]))
    return scores.astype(np.float32), sums


@settings(max_examples=200, deadline=None)
@given(scores_and_sums(), st.integers(1, 12))
def test_the_best_are_the_first_of_all_in_order(given_scores: tuple[np.ndarray, np.ndarray], count: int) -> None:
    scores, sums = given_scores
    totals = (scores.astype(np.float64) + sums[:, None]).ravel()
    order = np.lexsort((np.arange(totals.size), -totals))  # by total, then by place
    expected = [place for place in order.tolist() if totals[place] > -math.inf][:count]
    found = best_candidates(scores, sums, count)
    assert (found.rows * scores.shape[1] + found.token_ids).tolist() == expected
    assert found.totals.tolist() == totals[expected].tolist()


@settings(max_examples=100, deadline=None)
@given(scores_and_sums(), st.integers(1, 12), st.integers(0, 2**63 - 1))
def test_drawn_are_distinct_ones_that_may_be_drawn_and_as_many_as_there_are(
    given_scores: tuple[np.ndarray, np.ndarray], count: int, seed: int
) -> None:
    scores, sums = given_scores
    found = drawn_candidates(scores, sums, count, seed=seed, step=3, group=0)
    places = list(zip(found.rows.tolist(), found.token_ids.tolist(), strict=True))
    assert len(set(places)) == len(places) == min(count, np.count_nonzero(scores > -math.inf))
    np.testing.assert_array_equal(found.totals, scores[found.rows, found.token_ids] + sums[found.rows])
    assert np.isfinite(found.totals).all()
    again = drawn_candidates(scores, sums, count, seed=seed, step=3, group=0)
    np.testing.assert_array_equal(again.token_ids, found.token_ids)


def test_draws_are_those_of_one_after_the_other_without_replacement() -> None:
    scores = np.log(
        np.array([[0.4, 0.1, 0.0, 0.2], [0.5, 0.05, 0.3, 0.0]]),
        where=np.array([[1, 1, 0, 1], [1, 1, 1, 0]], bool),
        out=np.full((2, 4), -math.inf),
    )
    sums = np.array([0.3, -0.4])
    weights = {
        (row, token_id): math.exp(scores[row, token_id] + sums[row])
        for row, token_id in np.ndindex(*scores.shape)
        if scores[row, token_id] > -math.inf
    }
    draws = 6_000
    counts: Counter[tuple[tuple[int, int], ...]] = Counter()
    for seed in range(draws):
        found = drawn_candidates(scores, sums, 2, seed=seed, step=0, group=0)
        counts[tuple(zip(found.rows.tolist(), found.token_ids.tolist(), strict=True))] += 1
    whole = sum(weights.values())
    expected = {
        (first, second): weights[first] / whole * weights[second] / (whole - weights[first])
        for first, second in itertools.permutations(weights, 2)
    }
    assert set(counts) <= set(expected)
    chi_square = sum((counts[pair] - draws * share) ** 2 / (draws * share) for pair, share in expected.items())
    # 29 degrees of freedom: a right sampler goes above 58 once in a thousand choices of the seeds, which are fixed.
    assert chi_square < 58


def test_draws_differ_by_seed_step_and_group() -> None:
    scores, sums = np.zeros((2, 500), dtype=np.float32), np.zeros(2)
    found = [
        tuple(drawn_candidates(scores, sums, 5, seed=seed, step=step, group=group).token_ids.tolist())
        for seed in (0, 1, 2**63 - 1)
        for step in (0, 1, 2)
        for group in (0, 1)
    ]
    assert len(set(found)) == len(found)


@settings(max_examples=100, deadline=None)
@given(scores_and_sums(), st.integers(1, 12))
def test_narrowed_scores_are_the_highest_of_each_row_and_their_ties(
    given_scores: tuple[np.ndarray, np.ndarray], kept: int
) -> None:
    scores = given_scores[0].astype(np.float32)
    kept = min(kept, scores.shape[1])
    values, token_ids = narrowed(scores, kept)
    assert values.shape == token_ids.shape
    for row, (narrow, ids) in enumerate(zip(values, token_ids, strict=True)):
        lowest = sorted(scores[row], reverse=True)[kept - 1]
        expected = [token_id for token_id in np.flatnonzero(scores[row] >= lowest) if scores[row, token_id] > -math.inf]
        real = narrow > -math.inf
        assert ids[real].tolist() == expected
        assert narrow[real].tolist() == scores[row, expected].tolist()


def test_log_softmax_is_that_of_torch_and_tells_broken_rows_by_every_number() -> None:
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((4, 50)) * np.array([[0.1], [3.0], [40.0], [1e37]])).astype(np.float32)
    logits[1, :7] = -math.inf
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=1e-6, atol=1e-6)
    broken = np.repeat(logits[:1], 4, axis=0)
    broken[0, 3], broken[1, 3], broken[2] = math.nan, math.inf, -math.inf
    assert np.isnan(log_softmax(broken)).all(axis=1).tolist() == [True, True, True, False]
