from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.helpers import VOCAB, read, request, text
from textgen.config import AdaptationSettings
from textgen.engine import Backend, Engine
from textgen.engine.requests import Alternative
from textgen.engine.scoring import log_softmax, token_scores
from textgen.errors import BrokenModel, InvalidSetting
from textgen.limits import Limits
from textgen.model import LanguageModel


def test_a_log_softmax_in_float64() -> None:
    logits = np.random.default_rng(0).normal(0, 20, (3, 5, 7)).astype(np.float32)
    expected = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-12)
    huge = np.array([[3e38, -3e38, 3e38]], dtype=np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(huge)), [[0.5, 0, 0.5]])
    assert logits.dtype == np.float32


def test_scores_and_alternatives_of_given_tokens() -> None:
    logits = np.array([[0, 2, 1, 2], [5, 0, 0, 0]], dtype=np.float32)
    first, second = token_scores(logits, np.array([2, 0]), 3)
    logprobs = log_softmax(logits)
    assert (first.token_id, first.logprob) == (2, logprobs[0, 2])
    assert first.alternatives == tuple(Alternative(i, logprobs[0, i], logprobs[0, i]) for i in (1, 3, 2))
    assert [one.token_id for one in second.alternatives] == [0, 1, 2]
    assert token_scores(logits, np.array([2, 0]), 0)[0].alternatives == ()


def test_an_impossible_token_has_no_probability() -> None:
    (score,) = token_scores(np.array([[0, -np.inf]], dtype=np.float32), np.array([1]), 2)
    assert score.logprob == -np.inf


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_reported_by_their_place(wrong: float) -> None:
    logits = np.zeros((4, 3), dtype=np.float32)
    logits[2, 1] = wrong
    with pytest.raises(BrokenModel, match="new token 12 "):
        token_scores(logits, np.array([0, 1, 2, 0]), 1, first=10)
    with pytest.raises(BrokenModel, match="new token 0 "):
        token_scores(np.full((1, 3), -np.inf, dtype=np.float32), np.array([0]), 0)


def test_new_tokens_of_a_stream_have_the_scores_that_they_have_in_the_whole_text(engine: Engine) -> None:
    context, new = text(1, size=40), text(2, size=9)
    with engine.submit(request(*context, max_new_tokens=1)) as stream:
        scores = stream.score(new, top_logprobs=3)
        assert stream.score(()) == ()
    atol = 1e-5 if engine.backend_name.startswith("PyTorch") else 0.0
    whole = engine.score((*context, *new), top_logprobs=3)[-len(new) :]
    assert [score.token_id for score in scores] == list(new)
    np.testing.assert_allclose([one.logprob for one in scores], [one.logprob for one in whole], atol=atol, rtol=0)
    assert [len(one.alternatives) for one in scores] == [3] * len(new)
    later = engine.submit(request(*new, max_new_tokens=1, start=engine.snapshot(context)))
    again = [one.logprob for one in later.score(text(3, size=2))]
    expected = [one.logprob for one in engine.score((*context, *new, *text(3, size=2)))[-2:]]
    np.testing.assert_allclose(again, expected, atol=atol, rtol=0)


def test_of_what_an_adapted_model_wrote_nothing_can_be_told(model: LanguageModel) -> None:
    with Engine(model) as engine:
        stream = engine.submit(request(*text(1, size=40), adaptation=AdaptationSettings(), max_new_tokens=2))
        assert stream.score(text(2, size=3)) == ()
        stream.cancel()


def test_a_text_has_the_references_log_probabilities(engine: Engine, model: LanguageModel) -> None:
    context = text(1, size=300)
    scores = engine.score(context, top_logprobs=2)
    with torch.inference_mode():
        logits, _ = model(torch.tensor([context]), model.initial_state(1))
    expected = logits[0, :-1].double().log_softmax(-1)  # [time, vocab]
    atol = 1e-4 if engine.backend_name.startswith("PyTorch") else 0.2
    assert [score.token_id for score in scores] == list(context[1:])
    found = np.array([score.logprob for score in scores])
    np.testing.assert_allclose(found, expected[range(299), context[1:]].numpy(), atol=atol)
    for score, row in zip(scores, expected, strict=True):
        first, second = score.alternatives
        assert row.max().item() - atol <= first.logprob <= row.max().item() + atol
        assert first.logprob >= second.logprob == second.warped_logprob
    assert abs(found.mean() - expected[range(299), context[1:]].mean().item()) < 0.01
    assert engine.live_rows == 0


def test_a_greedy_text_scores_what_its_hypothesis_says(engine: Engine) -> None:
    prompt = (1, 5, 6)
    for settings in ({"temperature": 0.0}, {"temperature": 1.0}, {"num_beams": 3}):
        *_, finished = engine.submit(request(*prompt, eos_id=None, **settings))
        (hypothesis,) = finished.hypotheses  # type: ignore[union-attr]
        new = engine.score((*prompt, *hypothesis.token_ids))[2:]
        assert sum(score.logprob for score in new) / len(new) == pytest.approx(hypothesis.score, abs=1e-5)


def test_each_token_scores_as_when_it_was_written(engine: Engine) -> None:
    tokens, finished = read(engine.submit(request(1, 5, 6, eos_id=None, top_logprobs=3)))
    scores = engine.score((1, 5, 6, *finished.hypotheses[0].token_ids), top_logprobs=3)[2:]
    for token, score in zip(tokens, scores, strict=True):
        assert token.logprob == pytest.approx(score.logprob, abs=1e-5)
        found = [one.token_id for one in score.alternatives]
        assert [one.token_id for one in token.alternatives] == found


def test_the_same_scores_in_any_company(backend: Backend) -> None:
    """Also where others write and the text is read in shorter pieces."""
    context = text(2, size=400)
    with Engine(backend) as engine:
        alone = engine.score(context)
        streams = [engine.submit(request(1, seed=seed, max_new_tokens=4_000, eos_id=None)) for seed in range(3)]
        for stream in streams:
            next(stream)
        assert engine.score(context) == alone
        assert engine.live_rows == 3


def test_too_little_and_too_much_to_score(engine: Engine) -> None:
    assert engine.score((5,)) == ()
    with pytest.raises(InvalidSetting, match="at least one token"):
        engine.score(())
    with pytest.raises(InvalidSetting, match="prompt_ids"):
        engine.score((5, VOCAB))
    for wrong in (-1, 51):
        with pytest.raises(InvalidSetting, match="top_logprobs"):
            engine.score((5, 6), top_logprobs=wrong)


def test_limits_of_new_text_are_none_for_given_text(onnx_backend: Backend) -> None:
    with Engine(onnx_backend, limits=Limits(max_new_tokens=5)) as engine:
        assert len(engine.score((1, 5, 6))) == 2
        assert engine.snapshot((1, 5, 6)).token_ids == (1, 5, 6)
