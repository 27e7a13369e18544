from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.engine.beam_reference import assert_same, plain_beam_search, random_model, search
from tests.engine.helpers import request


@pytest.mark.parametrize(("num_beams", "num_beam_groups"), [(2, 2), (6, 2), (6, 3), (5, 5)])
@pytest.mark.parametrize("diversity_penalty", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("early_stopping", ["no", "yes", "never"])
def test_groups_are_those_of_the_plain_definition(
    num_beams: int, num_beam_groups: int, diversity_penalty: float, early_stopping: str
) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"eos_id": None, "length_penalty": 0.0},
        {"min_new_tokens": 3, "forbidden_ids": frozenset({4})},
        {"stop_condition": lambda tokens: sum(tokens) % 7 == 6, "length_penalty": 2.0},
    ]
    for seed, fixed in enumerate(options):
        wanted = request(
            num_beams=num_beams,
            num_return=num_beams,
            num_beam_groups=num_beam_groups,
            diversity_penalty=diversity_penalty,
            early_stopping=early_stopping,
            max_new_tokens=7,
            **fixed,
        )
        logits_of = random_model(seed, vocab_size=8)
        reason, found, _, decoder = search(logits_of, wanted)
        assert_same(found, plain_beam_search(logits_of, wanted))
        assert found[0].reason == reason
        assert len({hypothesis.token_ids for hypothesis in found}) == len(found)
        assert all(node.parent < place for place, node in enumerate(decoder.tree()))


def test_one_group_is_beam_search_whatever_the_penalty() -> None:
    logits_of = random_model(3, vocab_size=9)
    alone = search(logits_of, request(num_beams=4, num_return=4, max_new_tokens=6))
    penalized = search(logits_of, request(num_beams=4, num_return=4, max_new_tokens=6, diversity_penalty=9.0))
    assert alone[:3] == penalized[:3]


def test_groups_without_a_penalty_come_to_the_same_which_is_given_once() -> None:
    logits_of = random_model(3, vocab_size=9)
    _, alone, _, _ = search(logits_of, request(num_beams=2, num_return=2, max_new_tokens=6))
    _, found, events, _ = search(
        logits_of, request(num_beams=6, num_return=6, num_beam_groups=3, diversity_penalty=0.0, max_new_tokens=6)
    )
    assert found == alone
    for event in events:
        texts = [hypothesis.token_ids for hypothesis in event.hypotheses]
        assert len(texts) == len(set(texts))


def test_a_high_penalty_keeps_the_groups_apart_at_every_step() -> None:
    """In a world without an end token, groups of one beam then never share a token at the same place."""
    wanted = request(
        eos_id=None, num_beams=4, num_return=4, num_beam_groups=4, diversity_penalty=100.0, max_new_tokens=8
    )
    _, found, _, _ = search(random_model(5, vocab_size=9), wanted)
    assert len(found) == 4
    for one, other in itertools.combinations(found, 2):
        assert all(mine != yours for mine, yours in zip(one.token_ids, other.token_ids, strict=True))


def test_each_time_a_token_was_taken_counts() -> None:
    """Two beams of the first group take token 0: it costs the second group twice the penalty, log 16 - log 4."""

    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        first = not tokens
        return np.log(np.array([16.0, 15.0, 1e-6, 1e-6] if first else [16.0, 1e-3, 5.0, 1.1], dtype=np.float32))

    def second_tokens(penalty: float) -> set[int]:
        wanted = request(
            eos_id=None,
            num_beams=4,
            num_return=4,
            num_beam_groups=2,
            diversity_penalty=penalty,
            max_new_tokens=2,
            length_penalty=0.0,
        )
        return {hypothesis.token_ids[1] for hypothesis in search(logits_of, wanted)[1]}

    assert second_tokens(0.5) == {0}  # twice 0.5 is less than log 16 - log 5
    assert second_tokens(0.7) == {0, 2}  # twice 0.7 is more, once is not


@pytest.mark.parametrize("num_beam_groups", [1, 2])
def test_sampled_beams_depend_on_the_seed_alone(num_beam_groups: int) -> None:
    logits_of = random_model(6, vocab_size=9)
    wanted = request(
        num_beams=4,
        num_return=4,
        num_beam_groups=num_beam_groups,
        beam_sampling=True,
        temperature=1.5,
        max_new_tokens=8,
    )
    runs = [search(logits_of, wanted, seed)[:3] for seed in range(5)]
    assert runs == [search(logits_of, wanted, seed)[:3] for seed in range(5)]
    assert len({run[1][0].token_ids for run in runs}) > 1


@pytest.mark.parametrize("warper", [{"temperature": 0.0}, {"temperature": 0.01}])
def test_beam_sampling_without_chance_is_beam_search(warper: dict[str, Any]) -> None:
    logits_of = random_model(6, vocab_size=9)
    _, searched, _, _ = search(logits_of, request(num_beams=1 + 2, max_new_tokens=8))
    _, drawn, _, _ = search(logits_of, request(num_beams=1 + 2, max_new_tokens=8, beam_sampling=True, **warper))
    assert [hypothesis.token_ids for hypothesis in drawn] == [hypothesis.token_ids for hypothesis in searched]


@pytest.mark.parametrize("warpers", [{"top_p": 0.9}, {"typical_p": 0.7}, {"min_p": 0.1}, {"eta_cutoff": 0.05}])
def test_narrowing_by_top_k_first_changes_nothing(warpers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """top_k narrows the scores before they are warped; with all of them, warped, the same beams are drawn."""
    logits_of = random_model(7, vocab_size=30)
    wanted = request(num_beams=3, num_return=3, beam_sampling=True, top_k=6, max_new_tokens=8, **warpers)
    found = [search(logits_of, wanted, seed)[1] for seed in range(4)]

    def all_of_them(scores: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
        return scores, np.broadcast_to(np.arange(scores.shape[1]), scores.shape)

    monkeypatch.setattr("textgen.engine.beam.narrowed", all_of_them)
    for seed, narrow in enumerate(found):
        wide = search(logits_of, wanted, seed)[1]
        assert_same(narrow, [(hypothesis.score, hypothesis.token_ids) for hypothesis in wide])


def test_warpers_leave_something_beside_the_end_token() -> None:
    def sure_to_end(tokens: tuple[int, ...]) -> np.ndarray:
        return np.array([0.0, 1.0, 30.0, 0.5], dtype=np.float32)

    wanted = request(num_beams=2, num_return=2, beam_sampling=True, temperature=1.0, top_k=1, top_p=0.5)
    _, found, _, _ = search(sure_to_end, wanted)
    assert [hypothesis.token_ids for hypothesis in found] == [(2,), (1, 2)]
