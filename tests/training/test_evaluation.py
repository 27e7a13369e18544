from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from textgen.config import AdaptationSettings, ModelSettings
from textgen.errors import NoText
from textgen.model import LanguageModel
from textgen.model.adaptation import adapt
from textgen.progress import Progress
from textgen.training.evaluation import Evaluation, evaluate, evaluate_dynamically, padded_batch_loss

VOCAB = 30


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=VOCAB, embedding_size=8, hidden_size=10, num_layers=2))
    model.reset_parameters(0)
    with torch.no_grad():
        model.embedding.mul_(12)
    return model


def text(length: int, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(4, VOCAB, length).astype(np.uint16)
    ids[0] = 1
    return ids


def by_hand(model: LanguageModel, ids: np.ndarray) -> tuple[float, float, int]:
    """Token by token, the slow way."""
    state, total, correct, count = model.initial_state(1), 0.0, 0, 0
    with torch.no_grad():
        for current, following in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
            logits, state = model(torch.tensor([[current]]), state)
            if following != 1:
                total -= F.log_softmax(logits[0, 0].double(), -1)[following].item()
                correct += int(logits[0, 0].argmax().item() == following)
                count += 1
    return total, correct, count


def test_figures_agree_with_reading_token_by_token(model: LanguageModel) -> None:
    ids = text(700)
    ids[[300, 301]] = [2, 1]
    total, correct, count = by_hand(model, ids)
    result = evaluate(model, ids, chars=1500, bytes=1800)
    assert result.tokens == count == 698
    assert result.nats_per_token == pytest.approx(total / count, rel=1e-5)
    assert result.nats_per_char == pytest.approx(total / 1500, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / 1800, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)
    assert result.accuracy == pytest.approx(correct / count, abs=2 / count)
    assert Evaluation(**result.as_dict()) == result


@pytest.mark.parametrize("window", [1, 7, 256, 10_000])
def test_windows_do_not_matter(model: LanguageModel, window: int) -> None:
    ids = text(300)
    expected = evaluate(model, ids, chars=1, bytes=1)
    assert evaluate(model, ids, chars=1, bytes=1, window=window).nats_per_token == pytest.approx(
        expected.nats_per_token, rel=1e-6
    )


@settings(max_examples=40)
@given(length=st.integers(2, 400), streams=st.integers(1, 9), warmup=st.integers(0, 30), window=st.integers(1, 50))
def test_side_by_side_scores_every_token_once(length: int, streams: int, warmup: int, window: int) -> None:
    """A model whose prediction depends on the last token alone: any split must give the same figures."""
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))

    class Bigram(LanguageModel):
        def forward(self, token_ids, state, **_):  # type: ignore[no-untyped-def]
            return table[token_ids], state

    bigram = Bigram(ModelSettings(vocab_size=VOCAB, embedding_size=2, hidden_size=2))
    ids = text(length, seed=length)
    expected = F.cross_entropy(table[ids[:-1].astype(int)], torch.from_numpy(ids[1:].astype(int))).item()
    result = evaluate(bigram, ids, chars=1, bytes=1, streams=streams, warmup=warmup, window=window)
    assert result.tokens == length - 1
    assert result.nats_per_token == pytest.approx(expected, rel=1e-4)


def test_side_by_side_is_close_to_one_after_another(model: LanguageModel) -> None:
    ids = text(6000)
    exact = evaluate(model, ids, chars=1, bytes=1)
    fast = evaluate(model, ids, chars=1, bytes=1, streams=8, warmup=64)
    assert fast.nats_per_token == pytest.approx(exact.nats_per_token, rel=1e-4)


def test_text_without_a_beginning_mark_is_given_one(model: LanguageModel) -> None:
    ids = text(50)
    with_mark = evaluate(model, ids, chars=1, bytes=1)
    without = evaluate(model, ids[1:], chars=1, bytes=1)
    assert with_mark == without


def test_nothing_to_score_is_an_error(model: LanguageModel) -> None:
    for ids in (np.array([], np.uint16), np.array([1], np.uint16)):
        with pytest.raises(NoText):
            evaluate(model, ids, chars=0, bytes=0)


class TestDynamicEvaluation:
    settings = AdaptationSettings(learning_rate=1e-2, decay=0.01, window=16)

    def score(self, model: LanguageModel, ids: np.ndarray, **changes: float) -> Evaluation:
        settings = self.settings.model_copy(update=changes)
        return evaluate_dynamically(model, ids, chars=1500, bytes=1800, settings=settings)

    @pytest.mark.parametrize("length", [2, 9, 17])
    def test_the_first_window_is_scored_by_the_model_as_it_was(self, model: LanguageModel, length: int) -> None:
        """Whatever the size of the steps: nothing is learned from a text before it is scored."""
        ids = text(length)
        static = evaluate(model, ids, chars=1500, bytes=1800)
        for result in (self.score(model, ids), self.score(model, ids, learning_rate=1.0)):
            assert result.as_dict() == pytest.approx(static.as_dict(), rel=1e-5)

    def test_each_window_is_scored_after_learning_from_those_before(self, model: LanguageModel) -> None:
        ids = text(40)
        total, state = 0.0, model.initial_state(1)
        for start in (0, 16, 32):
            # Learning is in order, so a model that has adapted to a text stands where reading that text left it.
            reader = adapt(model, ids[: start + 1], self.settings)
            for current, following in zip(ids[start:39].tolist()[:16], ids[start + 1 :].tolist(), strict=False):
                logits, state = reader(torch.tensor([[current]]), state)
                total -= F.log_softmax(logits[0, 0].double(), -1)[following].item()
        result = self.score(model, ids)
        assert result.tokens == 39
        assert result.nats_per_token == pytest.approx(total / 39, rel=1e-5)
        assert result.nats_per_char == pytest.approx(total / 1500, rel=1e-5)
        assert result.nats_per_token != pytest.approx(evaluate(model, ids, chars=1, bytes=1).nats_per_token, rel=1e-4)

    def test_a_text_that_repeats_itself_is_learned(self, model: LanguageModel) -> None:
        ids = np.concatenate([[1], np.tile(text(30)[1:], 20)]).astype(np.uint16)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        static = evaluate(model, ids, chars=1500, bytes=1800)
        dynamic = self.score(model, ids)
        assert dynamic.nats_per_char < 0.9 * static.nats_per_char
        assert dynamic.accuracy > static.accuracy
        assert (dynamic.tokens, dynamic.chars, dynamic.bytes) == (static.tokens, 1500, 1800)
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    def test_passes_do_not_count_since_the_text_is_read_once(self, model: LanguageModel) -> None:
        assert self.score(model, text(80), passes=20) == self.score(model, text(80))

    def test_marks_of_a_beginning_are_neither_scored_nor_learned(self, model: LanguageModel) -> None:
        ids = text(60)
        ids[[20, 21]] = [2, 1]
        assert self.score(model, ids).tokens == 58
        # A window of nothing but marks teaches nothing and scores nothing.
        marks = np.concatenate([text(17), np.ones(16, np.uint16)])
        assert self.score(model, marks).tokens == 16
        assert self.score(model, marks).nats_per_token == self.score(model, marks[:17]).nats_per_token

    def test_it_tells_how_far_it_is(self, model: LanguageModel) -> None:
        seen: list[Progress] = []
        evaluate_dynamically(model, text(40), chars=1, bytes=1, settings=self.settings, progress=seen.append)
        assert [(progress.done, progress.total) for progress in seen] == [(16, 39), (32, 39), (39, 39)]

    def test_nothing_to_score_is_an_error(self, model: LanguageModel) -> None:
        with pytest.raises(NoText):
            self.score(model, text(1))


class TestPaddedBatchLoss:
    sequences = (text(9, 1).tolist(), text(2, 2).tolist(), text(5, 3).tolist())

    def test_equals_the_sum_of_the_sequences_alone(self, model: LanguageModel) -> None:
        together, tokens = padded_batch_loss(model, self.sequences)
        alone = [padded_batch_loss(model, [sequence]) for sequence in self.sequences]
        assert tokens == sum(count for _, count in alone) == 8 + 1 + 4
        assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
        assert together.item() == pytest.approx(sum(by_hand(model, np.array(s))[0] for s in self.sequences), rel=1e-4)

    def test_padded_positions_contribute_no_gradient(self, model: LanguageModel) -> None:
        """The pad row of the embedding is read at every padded position; nothing may flow back through it."""
        loss, _ = padded_batch_loss(model, self.sequences)
        (together,) = torch.autograd.grad(loss, [model.embedding])
        alone = torch.zeros_like(together)
        for sequence in self.sequences:
            alone += torch.autograd.grad(padded_batch_loss(model, [sequence])[0], [model.embedding])[0]
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)

    def test_what_stands_at_padded_positions_does_not_matter(self, model: LanguageModel) -> None:
        before, _ = padded_batch_loss(model, self.sequences)
        other = LanguageModel(model.settings)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.embedding[3] = 1e4
            other.output_bias[3] = -1e9
            model_bias = model.output_bias[3].clone()
            model.output_bias[3] = -1e9
        try:
            expected, _ = padded_batch_loss(model, self.sequences)
        finally:
            with torch.no_grad():
                model.output_bias[3] = model_bias
        changed, _ = padded_batch_loss(other, self.sequences)
        assert changed.item() == expected.item()
        assert before.item() != expected.item()

    def test_too_short_sequences_are_refused(self, model: LanguageModel) -> None:
        with pytest.raises(NoText):
            padded_batch_loss(model, [[1, 5], [1]])
        with pytest.raises(NoText):
            padded_batch_loss(model, [])
