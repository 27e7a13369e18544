"""A model that learns: its weights, their moving average and the optimizer between them."""

from __future__ import annotations

import copy

from torch import Tensor

from textgen.config import TrainingSettings
from textgen.model.language_model import LanguageModel
from textgen.training.optimizers import build_optimizer, clip_gradients, set_learning_rate, update_average
from textgen.training.snapshot import TrainingSnapshot


class Learner:
    """Changes the weights of `model` by their gradients; `average` is the moving average of these weights.

    With `base_share` the weights that it begins with have that share of `average`, see `update_average`.
    """

    def __init__(self, model: LanguageModel, settings: TrainingSettings) -> None:
        self.model = model
        self.average = copy.deepcopy(model)
        self.step = 0
        self._settings = settings
        self._optimizer = build_optimizer(model, settings)
        self._anchors: dict[str, Tensor] = {}
        if settings.base_share:
            self._anchors = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @property
    def rate(self) -> float:
        """The learning rate, the largest of those of the parts of the model."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    @rate.setter
    def rate(self, rate: float) -> None:
        set_learning_rate(self._optimizer, rate)

    def update(self) -> Tensor:
        """One optimizer step by the gradients that `model` has; the norm that they had, still on the device."""
        settings = self._settings
        norm = clip_gradients(self.model, settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        update_average(
            self.average,
            self.model,
            decay=settings.average_decay,
            step=self.step,
            anchors=list(self._anchors.values()),
            anchor_share=settings.base_share,
        )
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """What, beside `average` and `step`, an identical continuation needs, by "GROUP.NAME"."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors.update({f"anchor.{name}": value for name, value in self._anchors.items()})
        for index, slots in self._optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{name}": value for name, value in slots.items()})
        return tensors

    def take(self, average: dict[str, Tensor], snapshot: TrainingSnapshot) -> None:
        """Goes on from what `tensors` gave; `KeyError` or `RuntimeError` where that was another model's."""
        device = self.model.embedding.device
        self.model.load_state_dict(snapshot.group("model", device))
        self.average.load_state_dict(average)
        self._take_optimizer(snapshot.group("optimizer", device))
        anchors = snapshot.group("anchor", device)
        self._anchors = {name: anchors[name].reshape(weight.shape) for name, weight in self._anchors.items()}
        self.step = int(snapshot.values["step"])

    def _take_optimizer(self, slots: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in slots.items():
            index, _, slot = name.partition(".")
            state.setdefault(int(index), {})[slot] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
