from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from textgen.config import TrainingSettings
from textgen.training.optimizers import build_optimizer, learning_rate_factor, update_average


@given(progress=st.floats(0, 1), warmup=st.floats(0, 1))
def test_the_learning_rate_stays_between_zero_and_its_peak(progress: float, warmup: float) -> None:
    assert 0.0 <= learning_rate_factor(progress, warmup) <= 1.0


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    assert learning_rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, 0.1) == 1.0
    assert learning_rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.1) == pytest.approx(0.0)
    assert learning_rate_factor(0.0, 0.1) > 0


def test_only_matrices_decay() -> None:
    model = nn.Linear(3, 4)
    optimizer = build_optimizer(model, TrainingSettings(steps=1, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(model.weight): 0.3, id(model.bias): 0.0}


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
