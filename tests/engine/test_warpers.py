from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from textgen.config import GenerationSettings, parse_settings
from textgen.engine.warpers import warp

CHOICES: dict[str, list[float]] = {
    "temperature": [1.0, 0.3, 0.8, 1.7],
    "top_k": [0, 1, 3, 12, 500],
    "top_p": [1.0, 0.2, 0.7, 0.95, 1e-9],
    "min_p": [0.0, 0.02, 0.3, 1.0],
    "typical_p": [1.0, 0.1, 0.5, 0.95],
    "epsilon_cutoff": [0.0, 0.01, 0.1, 0.9],
    "eta_cutoff": [0.0, 0.01, 0.1, 0.9],
}


def settings_of(**values: Any) -> GenerationSettings:
    return parse_settings(GenerationSettings, values)


def reference(scores: np.ndarray, values: dict[str, Any], least: int) -> np.ndarray:
    """The warpers of transformers, in its order; each is left out where it would do nothing."""
    warpers = hf.LogitsProcessorList([hf.TemperatureLogitsWarper(values["temperature"])])
    if values["top_k"]:
        warpers.append(hf.TopKLogitsWarper(values["top_k"], min_tokens_to_keep=least))
    if values["top_p"] < 1:
        warpers.append(hf.TopPLogitsWarper(values["top_p"], min_tokens_to_keep=least))
    if values["min_p"]:
        warpers.append(hf.MinPLogitsWarper(values["min_p"], min_tokens_to_keep=least))
    if values["typical_p"] < 1:
        warpers.append(hf.TypicalLogitsWarper(values["typical_p"], min_tokens_to_keep=least))
    if values["epsilon_cutoff"]:
        warpers.append(hf.EpsilonLogitsWarper(values["epsilon_cutoff"], min_tokens_to_keep=least))
    if values["eta_cutoff"]:
        warpers.append(hf.EtaLogitsWarper(values["eta_cutoff"], min_tokens_to_keep=least))
    return warpers(torch.LongTensor([[0]] * len(scores)), torch.from_numpy(scores)).numpy()


def random_scores(random: np.random.Generator) -> np.ndarray:
    """Rows of a vocabulary of 40, flat or peaked, some with tokens ruled out."""
    scores = random.normal(0, random.choice([0.3, 2.0, 8.0]), (3, 40))
    scores[random.random(scores.shape) < random.choice([0.0, 0.4])] = -math.inf
    scores[:, 17] = random.normal(size=3)
    return scores


@pytest.mark.parametrize("field", CHOICES)
@pytest.mark.parametrize("least", [1, 2])
def test_parity_with_transformers_one_by_one(field: str, least: int) -> None:
    random = np.random.default_rng(1)
    off = {name: choices[0] for name, choices in CHOICES.items()}
    for value in CHOICES[field]:
        for _ in range(25):
            scores = random_scores(random)
            values = {**off, field: value}
            np.testing.assert_allclose(
                warp(scores, settings_of(**values), least), reference(scores, values, least), rtol=1e-5, atol=1e-5
            )


@pytest.mark.slow
@pytest.mark.parametrize("least", [1, 2])
def test_parity_with_transformers_all_together(least: int) -> None:
    random = np.random.default_rng(2)
    sizes = set()
    for _ in range(600):
        scores = random_scores(random)
        values = {name: random.choice([choices[0], choices[0], *choices]) for name, choices in CHOICES.items()}
        values = {name: type(CHOICES[name][0])(value) for name, value in values.items()}
        warped = warp(scores, settings_of(**values), least)
        np.testing.assert_allclose(warped, reference(scores, values, least), rtol=1e-5, atol=1e-5)
        sizes |= set(np.isfinite(warped).sum(axis=1).tolist())
    assert {least, 3, 5, 8, 12} <= sizes


def test_float32_scores_are_warped_in_float64_and_left_alone() -> None:
    scores = np.random.default_rng(3).normal(0, 3, (2, 30)).astype(np.float32)
    before = scores.copy()
    warped = warp(scores, settings_of(temperature=0.7, top_p=0.8))
    assert warped.dtype == np.float64
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_array_equal(warped, warp(scores.astype(np.float64), settings_of(temperature=0.7, top_p=0.8)))


def kept(scores: list[float], **values: Any) -> list[int]:
    warped = warp(np.array([scores]), settings_of(**{"temperature": 1.0, **values}))
    return np.flatnonzero(warped[0] > -math.inf).tolist()


def test_top_k_keeps_ties_and_never_what_is_ruled_out() -> None:
    assert kept([1, 3, 1, 2, 1, 0], top_k=3) == [0, 1, 2, 3, 4]
    assert kept([-math.inf, 3, -math.inf, 2], top_k=3) == [1, 3]


def test_top_p_keeps_the_fewest_tokens_that_exceed_it_and_always_one() -> None:
    row = np.log([0.1, 0.5, 0.15, 0.25]).tolist()
    for top_p, expected in ((0.001, [1]), (0.49, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        assert kept(row, top_p=top_p) == expected
    # All alike: as many as needed, not all that tie.
    assert kept([0.0] * 8, top_p=0.5) == [4, 5, 6, 7]


def test_top_p_counts_the_mass_that_top_k_left_and_temperature_comes_first() -> None:
    row = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    # Of the two that top-k leaves, the first has 4/7 = 0.571.
    assert kept(row, top_k=2, top_p=0.55) == [0]
    assert kept(row, top_k=2, top_p=0.58) == [0, 1]
    # At temperature 0.5 it has 16/25 = 0.64.
    assert kept(row, temperature=0.5, top_k=2, top_p=0.63) == [0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-308, 5e-324])
def test_a_temperature_near_zero_is_greedy_and_not_an_overflow(temperature: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        warped = warp(np.array([[1.0, 9.0, -3.0, 8.0]], dtype=np.float32), settings_of(temperature=temperature))
    assert np.isfinite(warped).all()
    assert np.exp(warped - warped.max())[0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_temperature_zero_keeps_the_first_of_the_highest_as_it_is() -> None:
    scores = np.array([[1.0, 5.0, 0.0, 5.0], [7.0, 2.0, -math.inf, 3.0]])
    for least in (1, 2):
        warped = warp(scores, settings_of(temperature=0.0, top_k=3, typical_p=0.2), least)
        assert warped.tolist() == [[-math.inf, 5.0, -math.inf, -math.inf], [7.0, *[-math.inf] * 3]]
