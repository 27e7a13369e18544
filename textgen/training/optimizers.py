"""The optimizer, the rates of its groups and the moving average of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textgen.config import TrainingSettings
from textgen.model.language_model import LanguageModel


def build_optimizer(model: LanguageModel, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101); only matrices decay.

    Each group's "scale" is its share of the learning rate, see `rate_scales`. Where all are 1 there are two groups.
    """
    scales = rate_scales(model, settings)
    groups: list[dict[str, Any]] = []
    for scale in sorted(set(scales.values()), reverse=True):
        scaled = [parameter for name, parameter in model.named_parameters() if scales[name] == scale]
        for decay, wanted in ((settings.weight_decay, True), (0.0, False)):
            parameters = [parameter for parameter in scaled if (parameter.dim() >= 2) == wanted]
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "scale": scale})
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=fused)


def rate_scales(model: LanguageModel, settings: TrainingSettings) -> dict[str, float]:
    """The share of the learning rate by parameter name: discriminative fine-tuning (Howard & Ruder 2018, section 3.2).

    The projection above the last recurrent layer learns at the full rate, each layer at `layer_decay` times the rate of
    what lies above it (the paper's 1/2.6), the embedding, which is also the softmax, at `embedding_rate`.
    """
    layers, members = model.settings.num_layers, model.settings.members
    scales: dict[str, float] = {}
    for name, _ in model.named_parameters():
        section, _, rest = name.partition(".")
        if section == "layers":
            scales[name] = settings.layer_decay ** (layers - int(rest.partition(".")[0]) // members)
        else:
            scales[name] = settings.embedding_rate if section == "embedding" else 1.0
    return scales


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clip_gradients(model: nn.Module, most: float) -> Tensor:
    """Makes the gradients of `model` no longer than `most` altogether; the norm that they had, still on the device.

    As `torch.nn.utils.clip_grad_norm_`, which on a processor would take its time to multiply by one what is short
    enough.
    """
    parameters = list(model.parameters())
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
    if norm.device.type != "cpu" or not norm <= most:  # a norm that is no number goes on to all of them
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


@torch.no_grad()
def update_average(
    average: nn.Module,
    model: nn.Module,
    *,
    decay: float,
    step: int,
    anchors: Sequence[Tensor] = (),
    anchor_share: float = 0.0,
) -> None:
    """Moves `average` towards `model` after optimizer step `step` (from 1): Polyak & Juditsky 1992, exponential form.

    Early on the decay is held down to (1 + step) / (10 + step), so that the random start is soon forgotten.

    With `anchors`, the weights that training and `average` began with, these have `anchor_share` of the average: in
    between the weights of a model and those it was tuned from lie weights that are often better than both on the new
    text, and lose less of the old (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    sources: list[Tensor] = list(model.parameters())
    if anchors:
        # An average of such mixtures is the mixture of the average.
        sources = list(torch._foreach_lerp(sources, list(anchors), anchor_share))
    targets: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(targets, sources, weight)
