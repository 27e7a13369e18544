from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from tests.engine.helpers import BOS, VOCAB, request
from textgen.engine import BeamsEvent, Engine, FinishedEvent, GenerationRequest, Hypothesis
from textgen.engine.beam import BeamSearch
from textgen.errors import BrokenModel
from textgen.model import LanguageModel

LogitsOf = Callable[[tuple[int, ...]], np.ndarray]


def random_model(seed: int, vocab_size: int, spread: float = 2.0) -> LogitsOf:
    """Logits that are a fixed random function of all tokens so far."""

    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([seed, len(tokens), *tokens])
        return (rng.standard_normal(vocab_size) * spread).astype(np.float32)

    return logits_of


def log_softmax(logits: np.ndarray) -> list[float]:
    values = [float(value) for value in logits]
    highest = max(values)
    norm = highest + math.log(math.fsum(math.exp(value - highest) for value in values))
    return [value - norm for value in values]


def search(logits_of: LogitsOf, wanted: GenerationRequest) -> tuple[str, list[Hypothesis], list[BeamsEvent]]:
    """Drives a `BeamSearch` as the scheduler does, but re-reads each hypothesis from its beginning."""
    decoder = BeamSearch(wanted)
    prefixes: list[tuple[int, ...]] = [()]
    events: list[BeamsEvent] = []
    while True:
        advance = decoder.advance(np.stack([logits_of(prefix) for prefix in prefixes]))
        assert isinstance(advance.event, BeamsEvent)
        events.append(advance.event)
        if advance.reason is not None:
            return advance.reason, list(decoder.hypotheses()), events
        assert advance.parents is not None
        assert len(advance.parents) <= decoder.rows
        pairs = zip(advance.parents, advance.token_ids.tolist(), strict=True)
        prefixes = [(*prefixes[parent], token) for parent, token in pairs]


def plain_beam_search(logits_of: LogitsOf, wanted: GenerationRequest, vocab_size: int) -> list[tuple[float, tuple]]:
    """The definitions of FACTS.md written down with lists, dead beams at -1e9 included: (score, tokens), best first."""
    settings = wanted.settings
    beams, penalty = settings.num_beams, settings.length_penalty
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(-1e9, ())] * (beams - 1)]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, settings.max_new_tokens + 1):
        grown = []
        for total, tokens in running:
            for token, logprob in enumerate(log_softmax(logits_of(tokens))):
                early_end = token == wanted.eos_id and length <= settings.min_new_tokens
                if token not in wanted.forbidden_ids and not early_end:
                    grown.append((total + logprob, (*tokens, token)))
        grown = sorted(grown, key=lambda beam: -beam[0])[: 2 * beams]
        ends = [
            tokens[-1] == wanted.eos_id
            or (wanted.stop_condition is not None and wanted.stop_condition(tokens))
            or length == settings.max_new_tokens
            for _, tokens in grown
        ]
        for (total, tokens), end in list(zip(grown, ends, strict=True))[:beams]:
            if end:
                finished.append((total / length**penalty, tokens))
        finished = sorted(finished, key=lambda beam: -beam[0])[:beams]
        pairs = zip(grown, ends, strict=True)
        alive = [(total - 1e9 if end else total, tokens) for (total, tokens), end in pairs]
        running = sorted(alive, key=lambda beam: -beam[0])[:beams]
        worst = finished[-1][0] if len(finished) == beams else -math.inf
        if all(ends) or running[0][0] / length**penalty <= worst:
            break
    real = [(score, tokens) for score, tokens in finished if score * len(tokens) ** penalty > -1e8]
    return real[: settings.num_return]


def assert_same(found: Sequence[Hypothesis], expected: Sequence[tuple[float, tuple[int, ...]]]) -> None:
    assert [hypothesis.token_ids for hypothesis in found] == [tokens for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("num_beams", [2, 3, 5, 9])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.5])
def test_beams_are_those_of_the_plain_definition(num_beams: int, length_penalty: float) -> None:
    for seed, (eos_id, options) in enumerate(
        itertools.product(
            (2, None),
            (
                {},
                {"min_new_tokens": 4},
                {"forbidden_ids": frozenset({0, 5})},
                {"stop_condition": lambda tokens: sum(tokens) % 7 == 6},
            ),
        )
    ):
        wanted = request(
            eos_id=eos_id,
            num_beams=num_beams,
            num_return=num_beams,
            length_penalty=length_penalty,
            max_new_tokens=9,
            **options,
        )
        logits_of = random_model(seed, vocab_size=7)
        _, found, _ = search(logits_of, wanted)
        assert_same(found, plain_beam_search(logits_of, wanted, 7))
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
    reason, found, _ = search(logits_of, wanted)
    assert_same(found, every)
    assert reason == ("eos" if every[0][1][-1] == eos_id else "length")


def test_one_return_is_the_first_of_many_and_ties_are_broken_the_same_way_every_time() -> None:
    def tied(tokens: tuple[int, ...]) -> np.ndarray:
        return np.zeros(6, dtype=np.float32)

    many = search(tied, request(num_beams=4, num_return=4, max_new_tokens=3, length_penalty=0.0))[1]
    assert [h.token_ids for h in many] == [(2,), (0, 2), (0, 0, 0), (0, 0, 1)]
    assert search(tied, request(num_beams=4, num_return=1, max_new_tokens=3, length_penalty=0.0))[1] == many[:1]


def test_every_step_shows_the_best_hypotheses_running_and_finished() -> None:
    logits_of = random_model(4, vocab_size=7)
    reason, found, events = search(logits_of, request(num_beams=3, num_return=3, max_new_tokens=8, length_penalty=0.0))
    for event in events:
        assert len(event.hypotheses) == 3
        scores = [hypothesis.score for hypothesis in event.hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in event.hypotheses:
            assert hypothesis.finished == (hypothesis.token_ids[-1] == 2 or len(hypothesis.token_ids) == 8)
    assert [len(event.hypotheses[0].token_ids) for event in events][:1] == [1]
    assert tuple(h for h in events[-1].hypotheses if h.finished) == tuple(found)
    assert reason == "eos"


def test_stop_conditions_are_asked_about_new_tokens_only_and_end_a_hypothesis() -> None:
    asked: list[tuple[int, ...]] = []

    def stop(tokens: Sequence[int]) -> bool:
        asked.append(tuple(tokens))
        return len(tokens) == 2

    reason, found, _ = search(
        random_model(5, 7), request(num_beams=3, num_return=3, eos_id=None, max_new_tokens=9, stop_condition=stop)
    )
    assert reason == "stop"
    assert {len(hypothesis.token_ids) for hypothesis in found} == {2}
    assert {len(tokens) for tokens in asked} == {1, 2}


def test_logits_that_are_no_numbers_are_an_error() -> None:
    decoder = BeamSearch(request(num_beams=2))
    with pytest.raises(BrokenModel):
        decoder.advance(np.array([[0, math.nan, 0]], dtype=np.float32))
    decoder = BeamSearch(request(num_beams=2, forbidden_ids=frozenset({1})))
    with pytest.raises(BrokenModel):
        decoder.advance(np.array([[0, math.nan, 0]], dtype=np.float32))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_the_engines_beams_are_those_of_the_model_read_from_the_start(
    model: LanguageModel, engine: Engine, length_penalty: float
) -> None:
    """State rows follow their hypotheses: the same search without any carried state finds the same."""
    prompt = (BOS, 7, 3)

    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            logits, _ = model(torch.tensor([[*prompt, *tokens]]), model.initial_state(1))
        return logits[0, -1].numpy()

    wanted = request(*prompt, num_beams=4, num_return=3, length_penalty=length_penalty, max_new_tokens=10)
    *steps, finished = list(engine.submit(wanted))
    assert isinstance(finished, FinishedEvent)
    assert_same(finished.hypotheses, plain_beam_search(logits_of, wanted, VOCAB))
    assert all(isinstance(step, BeamsEvent) for step in steps)
    _, _, expected = search(logits_of, wanted)
    for step, other in zip(steps, expected, strict=True):
        assert [h.token_ids for h in step.hypotheses] == [h.token_ids for h in other.hypotheses]  # type: ignore[union-attr]
