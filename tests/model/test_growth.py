from __future__ import annotations

import pytest
import torch

from textgen.config import ModelSettings
from textgen.errors import InvalidSetting
from textgen.model import LanguageModel
from textgen.model.growth import with_vocabulary


@pytest.fixture(params=[1, 2])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=6, embedding_size=4, hidden_size=5, members=request.param))
    model.reset_parameters(1)
    with torch.no_grad():
        model.output_bias.copy_(torch.arange(6.0))
    return model


def test_new_pieces_start_as_the_mean_of_what_spelled_them(model: LanguageModel) -> None:
    grown = with_vocabulary(model, [(0,), (1,), (2,), (3,), (4,), (5,), (4, 5), ()])
    assert grown.settings.vocab_size == 8
    assert torch.equal(grown.embedding[:6], model.embedding)
    assert torch.allclose(grown.embedding[6], model.embedding[4:6].mean(0))
    assert torch.allclose(grown.embedding[7], model.embedding.mean(0))
    assert grown.output_bias.tolist() == [0, 1, 2, 3, 4, 5, 4.5, 2.5]
    for name, weight in model.state_dict().items():
        if name.startswith(("layers", "projection")):
            assert torch.equal(grown.state_dict()[name], weight)


def test_old_text_is_predicted_as_before_but_for_the_share_of_new_pieces(model: LanguageModel) -> None:
    ids = torch.tensor([[1, 4, 5, 4]])
    grown = with_vocabulary(model, [*((number,) for number in range(6)), (4, 5)])
    old, _ = model(ids, model.initial_state(1))
    new, _ = grown(ids, grown.initial_state(1))
    assert torch.allclose(new[..., :6], old, atol=1e-6)


def test_pieces_may_be_dropped_and_reordered(model: LanguageModel) -> None:
    other = with_vocabulary(model, [(5,), (0, 1, 2), (3,), (4,)])
    assert torch.equal(other.embedding[0], model.embedding[5])
    assert torch.allclose(other.embedding[1], model.embedding[:3].mean(0))
    assert other.embedding.requires_grad


def test_unknown_ids_are_refused(model: LanguageModel) -> None:
    with pytest.raises(InvalidSetting, match="token id: 6 was given; allowed: 0 to 5"):
        with_vocabulary(model, [(6,)])
