"""The engine on a GPU: many at once, the same text for the same seed, searches, copies that learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.engine.helpers import BOS, VOCAB, ids, read, request, tiny_model
from textgen.config import AdaptationSettings
from textgen.engine import Engine, FinishedEvent, TorchBackend, open_backend
from textgen.engine.device_backend import DeviceBackend
from textgen.limits import Limits
from textgen.model import LanguageModel

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model(hidden_size=64, embedding_size=32)


@pytest.fixture
def engine(model: LanguageModel, cuda: torch.device) -> Iterator[Engine]:
    limits = Limits(max_waiting_requests=512)
    with Engine(open_backend(model, device=cuda), source=lambda: model, limits=limits) as engine:
        yield engine


@pytest.mark.parametrize(
    "changes", [{}, {"repetition_penalty": 1.2}, {"temperature": 0.0}, {"num_samples": 3}], ids=str
)
def test_the_same_seed_gives_the_same_text(engine: Engine, changes: dict) -> None:
    """Alone: among others the buckets differ, and with them the last bits."""
    wish = request(seed=7, max_new_tokens=60, **changes)
    texts = [[found.token_ids for found in read(engine.submit(wish))[1].hypotheses] for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]


def test_another_engine_of_the_same_model_gives_the_same_text(engine: Engine, model: LanguageModel) -> None:
    wish = request(seed=7, max_new_tokens=60, eos_id=None)
    with Engine(open_backend(model, device="cuda")) as other:
        assert ids(engine.submit(wish)) == ids(other.submit(wish))


def test_256_streams_at_once(engine: Engine) -> None:
    wishes = [
        request(BOS, 5 + seed % 30, seed=seed, max_new_tokens=40, eos_id=None, temperature=0.5 + seed % 3)
        for seed in range(256)
    ]
    streams = [engine.submit(wish) for wish in wishes]
    written = [ids(stream) for stream in streams]
    assert all(len(text) == 40 for text in written)
    assert all(0 <= token < VOCAB for text in written for token in text)
    assert len(set(map(tuple, written))) > 250
    assert engine.live_rows == 0
    # Most last bits decide nothing: most texts begin as they do alone.
    alone = [ids(engine.submit(wish)) for wish in wishes[:16]]
    same = sum(one[:10] == other[:10] for one, other in zip(alone, written[:16], strict=True))
    assert same >= 12


def test_greedy_text_is_about_as_likely_as_the_reference_s(engine: Engine, model: LanguageModel) -> None:
    found = ids(engine.submit(request(temperature=0.0, max_new_tokens=30, eos_id=None)))
    context = np.array([BOS, 5, 6, *found])
    logits = TorchBackend(model).open_pool(1).read_all(0, context)[2:-1]
    lost = logits.max(1) - logits[np.arange(30), found]
    assert lost.max() < 0.15 * logits.std()


def test_a_beam_search_in_fp32_is_that_of_the_reference(model: LanguageModel, cuda: torch.device) -> None:
    found = []
    for backend in (DeviceBackend(model, cuda, torch.float32), TorchBackend(model)):
        with Engine(backend) as engine:
            *_, finished = engine.submit(request(num_beams=4, num_return=2, max_new_tokens=15))
        assert isinstance(finished, FinishedEvent)
        found.append(finished.hypotheses)
    for one, other in zip(*found, strict=True):
        assert one.token_ids == other.token_ids
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_samples_searches_and_scores_side_by_side(engine: Engine) -> None:
    streams = [
        engine.submit(request(seed=number, max_new_tokens=50, **changes))
        for number in range(5)
        for changes in ({}, {"num_beams": 3}, {"top_logprobs": 2}, {"num_samples": 2}, {"dry_multiplier": 1.0})
    ]
    scores = engine.score([BOS, *range(4, 40)] * 5)
    assert len(scores) == 37 * 5 - 1
    for stream in streams:
        *_, finished = stream
        assert isinstance(finished, FinishedEvent)
        assert all(hypothesis.finished for hypothesis in finished.hypotheses)


def test_a_text_goes_on_from_where_it_was(engine: Engine) -> None:
    whole = ids(engine.submit(request(temperature=0.0, max_new_tokens=40, eos_id=None)))
    snapshot = engine.snapshot((BOS, 5, 6, *whole[:17]))
    assert ids(engine.submit(request(start=snapshot, temperature=0.0, max_new_tokens=5, eos_id=None))) == whole[17:22]


def test_a_copy_that_learns(engine: Engine, model: LanguageModel, cuda: torch.device) -> None:
    moved = tiny_model(hidden_size=64, embedding_size=32).to(cuda)
    with Engine(engine.backend, source=lambda: moved) as learning:
        wish = request(BOS, *range(5, 35), adaptation=AdaptationSettings(), max_new_tokens=12, eos_id=None)
        assert len(ids(learning.submit(wish))) == 12
