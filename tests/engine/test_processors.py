from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from tests.engine.helpers import EOS, request
from textgen.engine.processors import Processors

VOCAB = 24
USED = 9  # texts are made of so few tokens that they repeat themselves, and bans never cover all


def random_texts(random: np.random.Generator, rows: int, most: int) -> list[list[int]]:
    length = int(random.integers(0, most))
    return random.integers(0, USED, (rows, length)).tolist()


def apply(scores: np.ndarray, new_ids: list[list[int]], *context: int, **settings: Any) -> np.ndarray:
    return Processors(request(*context, **settings)).apply(scores, new_ids)


def reference(scores: np.ndarray, new_ids: list[list[int]], context: list[int], settings: dict[str, Any]) -> np.ndarray:
    """The processors of transformers, in its order."""
    bias = [[[token_id], value] for token_id, value in settings["logit_bias"].items()]
    processors = hf.LogitsProcessorList()
    if bias:
        processors.append(hf.SequenceBiasLogitsProcessor(bias))
    processors.append(hf.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if settings["no_repeat_ngram_size"]:
        processors.append(hf.NoRepeatNGramLogitsProcessor(settings["no_repeat_ngram_size"]))
    processors.append(hf.SuppressTokensLogitsProcessor(sorted(settings["forbidden_ids"])))
    processors.append(hf.MinNewTokensLengthLogitsProcessor(len(context), settings["min_new_tokens"], EOS))
    texts = torch.LongTensor([context + ids for ids in new_ids])
    return processors(texts, torch.from_numpy(scores)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parity_with_transformers(dtype: Any) -> None:
    random = np.random.default_rng(5)
    repeated = 0
    for _ in range(400):
        rows = int(random.integers(1, 5))
        context, new_ids = random.integers(0, USED, random.integers(1, 30)).tolist(), random_texts(random, rows, 30)
        biased = random.choice(VOCAB, random.integers(0, 5), replace=False).tolist()
        settings: dict[str, Any] = {
            "logit_bias": dict(zip(biased, random.normal(0, 5, len(biased)).tolist(), strict=True)),
            "repetition_penalty": float(random.choice([1.0, 0.7, 1.3, 5.0])),
            "no_repeat_ngram_size": int(random.integers(0, 5)),
            "min_new_tokens": int(random.integers(0, 20)),
            "forbidden_ids": frozenset(random.choice(VOCAB, random.integers(1, 4), replace=False).tolist()),
        }
        scores = random.normal(0, 4, (rows, VOCAB)).astype(dtype)
        expected = reference(scores, new_ids, context, settings)
        before = scores.copy()
        processed = apply(scores, new_ids, *context, max_new_tokens=40, **settings)
        assert processed.dtype == dtype
        np.testing.assert_array_equal(scores, before)
        np.testing.assert_allclose(processed, expected, rtol=1e-5, atol=1e-5)
        repeated += int(np.isneginf(processed).sum() > len(settings["forbidden_ids"]) * rows)
    assert repeated > 100


def test_frequency_and_presence_penalty_are_those_of_openai() -> None:
    random = np.random.default_rng(6)
    for _ in range(200):
        context, (new_ids,) = random.integers(0, USED, 10).tolist(), random_texts(random, 1, 30)
        frequency, presence = random.uniform(-2, 2, 2).tolist()
        scores = random.normal(0, 4, (1, VOCAB)).astype(np.float32)
        processed = apply(scores, [new_ids], *context, frequency_penalty=frequency, presence_penalty=presence)
        for token_id in range(VOCAB):
            count = new_ids.count(token_id)
            expected = scores[0, token_id] - count * frequency - float(count > 0) * presence
            assert processed[0, token_id] == pytest.approx(expected, abs=1e-5)


def plain_dry(text: list[int], multiplier: float, base: float, allowed: int) -> dict[int, float]:
    """What DRY takes from each token, straight from its definition."""
    penalties: dict[int, float] = {}
    for token_id in range(VOCAB):
        longer = [*text, token_id]
        longest = 0
        for length in range(allowed, len(text)):
            end = longer[-length - 1 :]
            if any(text[start : start + length + 1] == end for start in range(len(text) - length)):
                longest = length
        if longest:
            penalties[token_id] = multiplier * base ** (longest - allowed)
    return penalties


def test_dry_is_its_definition() -> None:
    random = np.random.default_rng(7)
    most = 0.0
    for _ in range(300):
        context, (new_ids,) = random.integers(0, 3, random.integers(1, 12)).tolist(), random_texts(random, 1, 12)
        new_ids = [token_id % 3 for token_id in new_ids]
        multiplier, base, allowed = (
            float(random.uniform(0.1, 2)),
            float(random.uniform(1, 2)),
            int(random.integers(1, 4)),
        )
        scores = random.normal(0, 4, (1, VOCAB))
        dry = {"dry_multiplier": multiplier, "dry_base": base, "dry_allowed_length": allowed}
        processed = apply(scores, [new_ids], *context, **dry)
        penalties = plain_dry(context + new_ids, multiplier, base, allowed)
        expected = [scores[0, token_id] - penalties.get(token_id, 0.0) for token_id in range(VOCAB)]
        np.testing.assert_allclose(processed[0], expected, rtol=1e-9)
        most = max(most, *penalties.values(), 0.0)
    assert most > 4


def test_order_is_bias_repetition_counts_dry() -> None:
    scores = np.zeros((1, 8))
    scores[0, 5] = 3.0
    settings: dict[str, Any] = {
        "logit_bias": {5: -1.0},
        "repetition_penalty": 2.0,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.5,
        "dry_multiplier": 1.5,
        "dry_allowed_length": 1,
    }
    # (3 - 1) / 2 - 2 · 0.25 - 0.5 = 0; then "6 5" stood before, and the text ends with 6.
    processed = apply(scores, [[5, 6, 5, 6]], 6, **settings)
    # The longest repeat before a 5 is of "6 5 6", two tokens longer than allowed.
    assert processed[0, 5] == pytest.approx(-1.5 * 1.75**2)
    assert processed[0, 6] == pytest.approx(-2 * 0.25 - 0.5)
    assert processed[0, [0, 1, 2, 3, 4, 7]].tolist() == [0.0] * 6


def test_a_growing_text_gives_what_a_new_one_gives() -> None:
    """Whatever was asked before: rows that go on, fork, swap, vanish and start anew."""
    random = np.random.default_rng(8)
    settings: dict[str, Any] = {
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.3,
        "dry_multiplier": 0.7,
        "no_repeat_ngram_size": 4,
        "max_new_tokens": 100,
    }
    processors = Processors(request(3, 1, 4, 1, 5, **settings))
    rows: list[tuple[int, ...]] = [()]
    for _ in range(60):
        scores = random.normal(0, 4, (len(rows), VOCAB)).astype(np.float32)
        fresh = apply(scores, [list(ids) for ids in rows], 3, 1, 4, 1, 5, **settings)
        np.testing.assert_array_equal(processors.apply(scores, rows), fresh)
        parents = random.integers(0, len(rows), random.integers(1, 5)).tolist()
        rows = [(*rows[parent], int(random.integers(0, 4))) for parent in parents]
        if random.random() < 0.1:
            rows[0] = tuple(random.integers(0, 4, 7).tolist())


def test_one_token_repeated_as_an_ngram_is_any_token_seen() -> None:
    processed = apply(np.zeros((1, 6)), [[4]], 1, 3, no_repeat_ngram_size=1)
    assert np.isneginf(processed[0]).tolist() == [False, True, False, True, True, False]


def test_the_text_says_what_must_not_come_next() -> None:
    asked: list[list[int]] = []

    def forbidden_next(new_ids: Any) -> list[int]:
        asked.append(list(new_ids))
        return [0, 2] if new_ids else []

    wanted = replace(request(1), forbidden_next=forbidden_next)
    processed = Processors(wanted).apply(np.zeros((2, 4), dtype=np.float32), [[], [3]])
    assert processed.tolist() == [[0.0] * 4, [-math.inf, 0.0, -math.inf, 0.0]]
    assert asked == [[], [3]]


def test_a_row_with_nothing_left_gets_first_its_ngrams_back_and_then_what_the_text_forbade() -> None:
    banned = frozenset({0})
    common: dict[str, Any] = {"forbidden_ids": banned, "min_new_tokens": 9, "no_repeat_ngram_size": 1}
    scores = np.arange(5, dtype=np.float32)[None]
    # 0 is forbidden, EOS = 2 comes too early; 1, 3 and 4 were all written.
    assert apply(scores, [[3, 4]], 1, **common).tolist() == [[-math.inf, 1, -math.inf, 3, 4]]
    # The text forbids 3 and 4: only the n-gram is lifted.
    wanted = replace(request(1, **common), forbidden_next=lambda ids: [3, 4])
    assert Processors(wanted).apply(scores, [[3, 4]]).tolist() == [[-math.inf, 1, -math.inf, -math.inf, -math.inf]]
    # The text forbids all that is left: it cannot have that, but n-grams still count where they leave something.
    wanted = replace(request(1, **common), forbidden_next=lambda ids: [1, 3, 4])
    assert Processors(wanted).apply(scores, [[3]]).tolist() == [[-math.inf, -math.inf, -math.inf, -math.inf, 4]]


def test_what_is_avoided_is_allowed_before_what_is_forbidden() -> None:
    scores = np.arange(5, dtype=np.float32)[None]
    wanted = replace(request(1), forbidden_next=lambda ids: [3, 4], avoided_next=lambda ids: [1, 2])
    assert Processors(wanted).active
    assert np.isneginf(Processors(wanted).apply(scores, [[]])[0]).tolist() == [False, True, True, True, True]
    wanted = replace(wanted, avoided_next=lambda ids: [0, 1, 2])
    assert np.isneginf(Processors(wanted).apply(scores, [[]])[0]).tolist() == [False, False, False, True, True]
    assert Processors(replace(request(1), avoided_next=lambda ids: [])).active


def test_values_beyond_all_measure_stay_finite() -> None:
    scores = np.array([[3.0, -3.0, 0.0, 5.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        for settings in (
            {"logit_bias": {0: 1e300, 1: -1e300}},
            {"repetition_penalty": 1e-300},
            {"dry_multiplier": 10.0, "dry_base": 10.0, "dry_allowed_length": 1},
        ):
            processed = apply(scores, [[0] * 500], 0, max_new_tokens=1000, **settings)
            assert np.isfinite(processed).all()
            assert processed[0].tolist() != scores[0].tolist()


def test_what_the_model_rules_out_stays_out() -> None:
    scores = np.array([[-math.inf, 1.0, 2.0]], dtype=np.float32)
    processed = apply(
        scores, [[0, 0, 0]], 0, logit_bias={0: 9.0}, repetition_penalty=1.5, frequency_penalty=-2.0, dry_multiplier=1.0
    )
    assert processed.tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("wanted", "active"),
    [
        ({}, False),
        ({"temperature": 0.3, "top_k": 5, "dry_base": 3.0, "num_samples": 4}, False),
        ({"min_new_tokens": 3, "eos_id": None}, False),
        ({"min_new_tokens": 3}, True),
        ({"forbidden_ids": frozenset({3})}, True),
        ({"logit_bias": {3: 1.0}}, True),
        ({"repetition_penalty": 1.1}, True),
        ({"frequency_penalty": -0.1}, True),
        ({"presence_penalty": 0.1}, True),
        ({"no_repeat_ngram_size": 3}, True),
        ({"dry_multiplier": 0.8}, True),
    ],
)
def test_active_tells_whether_there_is_anything_to_do(wanted: dict[str, Any], active: bool) -> None:
    assert Processors(request(**wanted)).active is active
    assert Processors(replace(request(**wanted), forbidden_next=lambda ids: [])).active
