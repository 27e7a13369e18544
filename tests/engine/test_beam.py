from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.engine.beam_reference import assert_same, log_softmax, plain_beam_search, random_model, search
from tests.engine.helpers import BOS, request
from textgen.engine import Backend, BeamsEvent, Engine, FinishedEvent
from textgen.engine.beam import BeamSearch
from textgen.engine.requests import TreeNode
from textgen.errors import BrokenModel

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"min_new_tokens": 4},
    {"forbidden_ids": frozenset({0, 5})},
    {"stop_condition": lambda tokens: sum(tokens) % 7 == 6},
)


@pytest.mark.parametrize("early_stopping", ["no", "yes", "never"])
@pytest.mark.parametrize("num_beams", [2, 4, 9])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 2.5])
def test_beams_are_those_of_the_plain_definition(num_beams: int, length_penalty: float, early_stopping: str) -> None:
    for seed, (eos_id, options) in enumerate(itertools.product((2, None), OPTIONS)):
        wanted = request(
            eos_id=eos_id,
            num_beams=num_beams,
            num_return=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=9,
            **options,
        )
        logits_of = random_model(seed, vocab_size=7)
        _, found, _, _ = search(logits_of, wanted)
        assert_same(found, plain_beam_search(logits_of, wanted))
        assert all(hypothesis.finished for hypothesis in found)


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_with_beams_enough_for_everything_it_is_exhaustive_search(length_penalty: float, min_new_tokens: int) -> None:
    vocab_size, length, eos_id = 4, 4, 2
    logits_of = random_model(17, vocab_size)
    every: list[tuple[float, tuple[int, ...]]] = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(vocab_size), repeat=size):
            ended = tokens[-1] == eos_id
            if eos_id in tokens[:-1] or (ended and size <= min_new_tokens) or (not ended and size < length):
                continue
            total = sum(log_softmax(logits_of(tokens[:i]))[token] for i, token in enumerate(tokens))
            every.append((total / size**length_penalty, tokens))
    every.sort(key=lambda beam: -beam[0])
    wanted = request(
        num_beams=vocab_size**length,
        num_return=vocab_size**length,
        max_new_tokens=length,
        min_new_tokens=min_new_tokens,
        length_penalty=length_penalty,
    )
    reason, found, _, _ = search(logits_of, wanted)
    assert_same(found, every)
    assert reason == found[0].reason == ("eos" if every[0][1][-1] == eos_id else "length")


def test_never_stopping_early_finds_the_longer_text_that_the_usual_rule_gives_up() -> None:
    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        if not tokens:
            return np.log(np.array([0.3, 0.29, 0.41], dtype=np.float32))
        # Whatever did not end at once is sure to run on.
        return np.array([30.0, 0.0, 0.0], dtype=np.float32)

    found = {}
    for early_stopping in ("no", "yes", "never"):
        wanted = request(num_beams=2, max_new_tokens=30, length_penalty=0.9, early_stopping=early_stopping)
        found[early_stopping] = search(logits_of, wanted)[1][0]
    assert found["never"].token_ids == (0,) * 30
    assert found["never"].score == pytest.approx(math.log(0.3) / 30**0.9)
    assert found["no"] == found["never"]  # one finished beam of two is no reason to stop, however good it is

    def ends(tokens: tuple[int, ...]) -> np.ndarray:
        logits = logits_of(tokens)
        return logits if len(tokens) != 1 else np.array([0.0, -9.0, 0.5 if tokens == (0,) else -9.0], dtype=np.float32)

    for early_stopping in ("no", "yes", "never"):
        wanted = request(num_beams=2, max_new_tokens=30, length_penalty=0.9, early_stopping=early_stopping)
        found[early_stopping] = search(ends, wanted)[1][0]
    assert found["yes"].token_ids == (2,)
    assert found["never"].token_ids == (1,) + (0,) * 29


def test_one_return_is_the_first_of_many_and_ties_are_broken_the_same_way_every_time() -> None:
    def tied(tokens: tuple[int, ...]) -> np.ndarray:
        return np.zeros(6, dtype=np.float32)

    many = search(tied, request(num_beams=4, num_return=4, max_new_tokens=3, length_penalty=0.0))[1]
    assert [h.token_ids for h in many] == [(2,), (0, 2), (0, 0, 0), (0, 0, 1)]
    assert search(tied, request(num_beams=4, num_return=1, max_new_tokens=3, length_penalty=0.0))[1] == many[:1]


def test_every_step_shows_the_best_hypotheses_running_and_finished() -> None:
    wanted = request(num_beams=3, num_return=3, max_new_tokens=8, length_penalty=0.0)
    reason, found, events, _ = search(random_model(4, vocab_size=7), wanted)
    for event in events:
        assert len(event.hypotheses) == 3
        scores = [hypothesis.score for hypothesis in event.hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in event.hypotheses:
            assert hypothesis.finished == (hypothesis.token_ids[-1] == 2 or len(hypothesis.token_ids) == 8)
            assert (hypothesis.reason is not None) == hypothesis.finished
    assert {len(hypothesis.token_ids) for hypothesis in events[0].hypotheses} == {1}
    assert events[-1].hypotheses == tuple(found)
    assert reason == "eos"


def test_a_search_that_is_cut_short_has_what_it_came_to() -> None:
    logits_of = random_model(4, vocab_size=7)
    decoder = BeamSearch(request(num_beams=3, num_return=3, max_new_tokens=8), 0)
    (nothing,) = decoder.hypotheses()
    assert (nothing.token_ids, nothing.score, nothing.finished, nothing.reason) == ((), 0.0, False, None)
    assert decoder.tree() == ()
    advance = decoder.advance(logits_of(())[None])
    assert decoder.hypotheses() == advance.event.hypotheses
    assert {hypothesis.reason for hypothesis in decoder.hypotheses()} <= {None, "eos"}


def test_stop_conditions_are_asked_about_new_tokens_only_and_end_a_hypothesis() -> None:
    asked: list[tuple[int, ...]] = []

    def stop(tokens: Sequence[int]) -> bool:
        asked.append(tuple(tokens))
        return len(tokens) == 2

    reason, found, _, _ = search(
        random_model(5, 7), request(num_beams=3, num_return=3, eos_id=None, max_new_tokens=9, stop_condition=stop)
    )
    assert reason == "stop"
    assert {len(hypothesis.token_ids) for hypothesis in found} == {2}
    assert {hypothesis.reason for hypothesis in found} == {"stop"}
    assert {len(tokens) for tokens in asked} == {1, 2}


@pytest.mark.parametrize("options", [{}, {"forbidden_ids": frozenset({1})}, {"beam_sampling": True}])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(broken: float, options: dict[str, Any]) -> None:
    decoder = BeamSearch(request(num_beams=2, **options), 0)
    with pytest.raises(BrokenModel):
        decoder.advance(np.array([[0, broken, 0]], dtype=np.float32))


def test_the_logits_stay_as_they_were() -> None:
    """They may be the backend's own buffer."""
    logits = random_model(1, 9)(())[None]
    before = logits.copy()
    several: tuple[dict[str, Any], ...] = ({}, {"num_beam_groups": 2}, {"beam_sampling": True, "top_k": 4})
    for options in several:
        wanted = request(num_beams=4, repetition_penalty=2.0, forbidden_ids=frozenset({0}), **options)
        BeamSearch(wanted, 0).advance(logits)
    np.testing.assert_array_equal(logits, before)


def path(tree: Sequence[TreeNode], place: int) -> tuple[int, ...]:
    tokens: list[int] = []
    while place >= 0:
        tokens.append(tree[place].token_id)
        place = tree[place].parent
    return tuple(reversed(tokens))


@pytest.mark.parametrize("options", [{}, {"num_beam_groups": 2}, {"beam_sampling": True}])
def test_the_tree_holds_every_hypothesis_that_was_shown(options: dict[str, Any]) -> None:
    wanted = request(num_beams=4, num_return=4, max_new_tokens=7, length_penalty=0.0, **options)
    _, found, events, decoder = search(random_model(8, vocab_size=7), wanted, seed=3)
    tree = decoder.tree()
    assert all(-1 <= node.parent < place for place, node in enumerate(tree))
    assert not any(tree[node.parent].finished for node in tree if node.parent >= 0)
    ended = {path(tree, place): node for place, node in enumerate(tree) if node.finished}
    for hypothesis in found:
        # Without a length penalty a score is a sum.
        assert ended[hypothesis.token_ids].logprob_sum == hypothesis.score
    every = [path(tree, place) for place in range(len(tree))]
    shown = {hypothesis.token_ids for event in events for hypothesis in event.hypotheses}
    assert shown <= set(every)
    if not options.get("num_beam_groups"):  # two groups may come to the same
        assert len(every) == len(set(every))


@pytest.mark.parametrize(
    "options",
    [
        {"length_penalty": 0.0},
        {"early_stopping": "never"},
        {"num_beam_groups": 2, "diversity_penalty": 1.5},
        {"early_stopping": "yes", "num_beam_groups": 4},
    ],
)
def test_the_engines_beams_are_those_of_the_model_read_from_the_start(
    backend: Backend, engine: Engine, options: dict[str, Any]
) -> None:
    """State rows follow their hypotheses: the same search without any carried state finds the same."""
    prompt = (BOS, 7, 3)

    pool, slot = backend.open_pool(1), np.zeros(1, dtype=np.int64)

    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        pool.reset(slot)
        return pool.read_all(0, np.array([*prompt, *tokens], dtype=np.int64))[-1].copy()

    wanted = request(*prompt, num_beams=4, num_return=3, max_new_tokens=10, **options)
    *steps, finished = list(engine.submit(wanted))
    assert isinstance(finished, FinishedEvent)
    assert_same(finished.hypotheses, plain_beam_search(logits_of, wanted))
    _, _, expected, decoder = search(logits_of, wanted)
    for step, other in zip(steps, expected, strict=True):
        assert isinstance(step, BeamsEvent)
        assert [h.token_ids for h in step.hypotheses] == [h.token_ids for h in other.hypotheses]
    assert [node.token_id for node in finished.tree] == [node.token_id for node in decoder.tree()]
