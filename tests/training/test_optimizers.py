from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from textgen.config import ModelSettings, TrainingSettings
from textgen.model.language_model import LanguageModel
from textgen.training.optimizers import build_optimizer, clip_gradients, rate_scales, set_learning_rate, update_average


def test_only_matrices_decay() -> None:
    model = LanguageModel(ModelSettings(vocab_size=9, embedding_size=3, hidden_size=4))
    optimizer = build_optimizer(model, TrainingSettings(steps=1, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(p): 0.3 if p.dim() == 2 else 0.0 for p in model.parameters()}


def test_lower_layers_and_the_embedding_learn_more_slowly() -> None:
    model = LanguageModel(ModelSettings(vocab_size=9, embedding_size=3, hidden_size=4, num_layers=3))
    settings = TrainingSettings(steps=1, layer_decay=0.5, embedding_rate=0.2, weight_decay=0.3)
    scales = rate_scales(model, settings)
    assert {name.split(".")[0]: scales[name] for name in scales if not name.startswith("layers")} == {
        "embedding": 0.2,
        "projection": 1.0,
        "output_bias": 1.0,
    }
    assert [scales[f"layers.{number}.fused.weight_hh_l0"] for number in range(3)] == [0.125, 0.25, 0.5]
    ensemble = LanguageModel(ModelSettings(vocab_size=9, embedding_size=3, hidden_size=4, num_layers=2, members=2))
    shared = rate_scales(ensemble, settings)
    assert [shared[f"layers.{number}.fused.weight_hh_l0"] for number in range(4)] == [0.25, 0.25, 0.5, 0.5]
    optimizer = build_optimizer(model, settings)
    set_learning_rate(optimizer, 2.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == {id(p): 2.0 * scales[name] for name, p in model.named_parameters()}
    assert decay == {id(p): 0.3 if p.dim() == 2 else 0.0 for p in model.parameters()}


def test_the_average_is_the_exponential_mean() -> None:
    model, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    expected, decay = 0.0, 0.9
    with torch.no_grad():
        average.weight.zero_()
        for step in range(1, 200):
            model.weight.fill_(float(step))
            update_average(average, model, decay=decay, step=step)
            kept = min(decay, (1 + step) / (10 + step))
            expected = kept * expected + (1 - kept) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_what_training_began_with_keeps_its_share_of_the_average() -> None:
    start = nn.Linear(3, 2, bias=False)
    model, plain, shared = (copy.deepcopy(start) for _ in range(3))
    anchors = [start.weight.detach().clone()]
    with torch.no_grad():
        for step in range(1, 50):
            model.weight.add_(torch.randn(2, 3))
            update_average(plain, model, decay=0.9, step=step)
            update_average(shared, model, decay=0.9, step=step, anchors=anchors, anchor_share=0.3)
    expected = 0.7 * plain.weight + 0.3 * start.weight
    assert torch.allclose(shared.weight, expected, atol=1e-5)
    assert not torch.allclose(shared.weight, plain.weight, atol=1e-2)


def with_gradients() -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=9, embedding_size=3, hidden_size=4))
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    model.projection.bias.grad = None  # it has no part in it
    return model


def gradients_of(model: LanguageModel) -> list[Tensor]:
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("most", [1e-3, 1e3])
def test_gradients_are_clipped_as_by_pytorch(most: float) -> None:
    """Also where they are short enough, and nothing is computed."""
    ours, theirs = with_gradients(), with_gradients()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most)
    assert torch.equal(clip_gradients(ours, most), expected)
    assert all(map(torch.equal, gradients_of(ours), gradients_of(theirs)))


def test_a_norm_that_is_no_number_spoils_all() -> None:
    model = with_gradients()
    gradients_of(model)[0][0, 0] = float("nan")
    assert clip_gradients(model, 1.0).isnan()
    assert all(gradient.isnan().all() for gradient in gradients_of(model))
