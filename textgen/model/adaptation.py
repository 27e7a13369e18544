"""Dynamic evaluation: a private copy of a model goes on learning from the text that it reads.

Krause et al. 2018, Dynamic Evaluation of Neural Sequence Models (https://arxiv.org/abs/1709.07432). The text is read in
windows, the state carried on; each window is predicted first and then learned from with one gradient step, through time
as far back as the window goes. What differs from the paper: there each weight's step is divided by the root mean square
of its gradients over the training text, which a checkpoint does not know. Here there is one such scale for each weight
tensor, estimated from the windows read so far; scales for single weights, estimated so, did no better.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from textgen.config import AdaptationSettings
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState

# What targets hold where nothing is to be predicted; the loss function's own default.
_IGNORE = -100
_MEAN_SQUARE_DECAY = 0.999
# Gradients below it are of text that the model knows already; divided by their own size they would be noise.
_LEAST_SCALE = 1e-8


class OnlineLearner:
    """A copy of a model that learns from each window as soon as it has predicted it.

    `model` is the copy: fp32, on the device of the original, which is neither changed nor kept. All weights learn. A
    step goes against the gradient of the mean loss over the window, each weight tensor's gradient divided by its own
    root mean square so far, so that `settings.learning_rate` is about how far the entries of any tensor of any cell
    move, and then `settings.decay` of the way back to the original weights. A window whose gradient is not a number
    teaches nothing.
    """

    def __init__(self, model: LanguageModel, settings: AdaptationSettings) -> None:
        self._settings = settings
        # Tensors made in inference mode, which the caller may be in, could never learn.
        with torch.inference_mode(False):
            self.model = copy.deepcopy(model).float().requires_grad_(True)
            self._weights: list[Tensor] = list(self.model.parameters())
            self._original = [weight.detach().clone() for weight in self._weights] if settings.decay else []
        self._mean_squares = [0.0] * len(self._weights)
        self._steps = 0

    def read(self, inputs: Tensor, targets: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Predicts, then learns: inputs and targets [batch, time], the latter -100 where nothing is to be predicted.

        Returns the logits [batch, time, vocab] and the state after the last step, both as the weights had it that had
        not yet learned from this window.
        """
        with torch.inference_mode(False), torch.enable_grad():
            logits, after = self.model(inputs, state.detach())
            if bool((targets != _IGNORE).any()):
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORE)
                self._learn(list(torch.autograd.grad(loss, self._weights)))
        return logits.detach(), after.detach()

    @torch.no_grad()
    def _learn(self, gradients: list[Tensor]) -> None:
        # One look at the device for all tensors together.
        norms = torch.stack(torch._foreach_norm(gradients)).tolist()
        if not all(math.isfinite(norm) for norm in norms):
            return
        self._steps += 1
        steps: list[float] = []
        for number, (norm, gradient) in enumerate(zip(norms, gradients, strict=True)):
            present = norm * norm / gradient.numel()
            self._mean_squares[number] += (1 - _MEAN_SQUARE_DECAY) * (present - self._mean_squares[number])
            # The mean started at zero, far below any gradient (Kingma & Ba 2015).
            mean_square = self._mean_squares[number] / (1 - _MEAN_SQUARE_DECAY**self._steps)
            steps.append(-self._settings.learning_rate / (math.sqrt(mean_square) + _LEAST_SCALE))
        # Not in place: autograd hands out one tensor for the gradients of two that were only added up.
        torch._foreach_add_(self._weights, torch._foreach_mul(gradients, steps))
        if self._original:
            torch._foreach_lerp_(self._weights, self._original, self._settings.decay)


def adapt(
    model: LanguageModel,
    token_ids: NDArray[np.integer],
    settings: AdaptationSettings,
    *,
    wanted: Callable[[], bool] = lambda: True,
) -> LanguageModel:
    """A copy of `model` that has learned from token_ids [tokens], `settings.passes` times from beginning to end.

    The copy is fp32, on the same device, needs no gradients and belongs to the caller; `model` is left as it is and
    nothing is written anywhere. `wanted` is asked before every step: when it says no, the copy is returned as far as it
    got. Fewer than two tokens teach nothing. The same text gives the same weights on the same machine.
    """
    learner = OnlineLearner(model, settings)
    with torch.inference_mode(False):
        text = torch.from_numpy(np.asarray(token_ids, np.int64)).to(learner.model.embedding.device)
        for _ in range(settings.passes):
            state = learner.model.initial_state(1)
            for start in range(0, len(text) - 1, settings.window):
                if not wanted():
                    return learner.model.requires_grad_(False)
                window = text[None, start : start + settings.window + 1]  # [1, time + 1]
                _, state = learner.read(window[:, :-1], window[:, 1:], state)
    return learner.model.requires_grad_(False)
