"""Knowledge distillation: a model learns from what other models say of the next token, and from text that they write.

Hinton et al. 2015 (https://arxiv.org/abs/1503.02531): a network is trained to give the probabilities that several
others give on average, and comes close to what these are worth together. Small texts are soon known by heart, by the
teachers too; there the text that the teachers write teaches most, since there is no end to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.config import TrainingSettings
from textgen.errors import InvalidSetting
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState
from textgen.text.corpus import Batch, StreamBatches
from textgen.text.tokenizer import BOS_ID, EOS_ID
from textgen.training.device import DeviceChoice, autocast


@dataclass(frozen=True, eq=False)
class TaughtBatch(Batch):
    """A batch with the probabilities that are to be learned; all zero where `targets` are ignored."""

    wanted: Tensor  # [batch, time, vocab]


class TaughtBatches:
    """What `texts` has, with what `teachers` say of it, and below it streams that the teachers write, token by token.

    At every place the teachers' probabilities, averaged, are what is to be learned; in the rows of text they make
    `share` of it, and the token that follows in the text the rest. In the `written_rows` the next token is drawn from
    the teachers' average. They begin anew, as everything does, with every pass over the text, and a text that ends is
    followed by another.

    The teachers see no dropout; their states are carried like the learner's.
    """

    def __init__(
        self,
        texts: StreamBatches,
        teachers: Sequence[LanguageModel],
        choice: DeviceChoice,
        *,
        share: float,
        written_rows: int,
        seed: int,
        reset_at_document_ends: bool = False,
    ) -> None:
        self.texts = texts
        self._readers = [_Reader(teacher, choice) for teacher in teachers]
        self._share = share
        self._written = written_rows
        self._reset = reset_at_document_ends
        self._choice = choice
        self.batch_size = texts.batch_size + written_rows
        # Its own: how much dropout draws must not change what is written.
        self._generator = torch.Generator(device=choice.device).manual_seed(seed)
        self._begin()

    @property
    def window(self) -> int:
        return self.texts.window

    @property
    def windows_per_epoch(self) -> int:
        return self.texts.windows_per_epoch

    @property
    def tokens_per_window(self) -> int:
        """Tokens in one batch, written ones too."""
        return self.batch_size * self.window

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, window) of the next batch."""
        return self.texts.position

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self.texts.position = position

    def mark(self) -> Any:
        """Where it is, for `go_back` to return to."""
        return self.texts.mark(), list(self._states), self._last, self._generator.get_state()

    def go_back(self, mark: Any) -> None:
        place, states, self._last, generator_state = mark
        self.texts.go_back(place)
        self._states = list(states)
        self._generator.set_state(generator_state)

    def tensors(self) -> dict[str, Tensor]:
        """What, beside the position, an identical continuation needs."""
        found = {"last": self._last, "generator": self._generator.get_state()}
        for number, state in enumerate(self._states):
            found.update({f"{number}.{name}": tensor for name, tensor in state.named_tensors()})
        return found

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from what `tensors` gave; `KeyError` or `InvalidSetting` for those of other teachers or rows."""
        if tensors["last"].shape != self._last.shape:
            raise InvalidSetting("teachers", f"{len(tensors['last'])} written rows", f"{self._written}")
        self._last = tensors["last"].to(self._choice.device)
        self._generator.set_state(tensors["generator"].cpu())
        for number in range(len(self._states)):
            group = {
                name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}.")
            }
            self._states[number] = RecurrentState.from_named_tensors(group).to(device=self._choice.device)

    @torch.no_grad()
    def next(self) -> TaughtBatch:
        """The batch at `position`, which moves on."""
        batch = self.texts.next()
        if batch.fresh:
            self._begin()
        text = torch.from_numpy(batch.inputs).to(self._choice.device)  # [text rows, time]
        read: list[Tensor] = []
        told: list[Tensor] = []
        with autocast(self._choice.device, self._choice.precision):
            for column in text.unbind(1):
                ids = torch.cat([column, self._last])
                probabilities = self._probabilities(ids)  # [batch, vocab]
                self._last = self._follow(self._last, probabilities[len(text) :])
                read.append(ids)
                told.append(probabilities)
        inputs = torch.stack(read, 1)
        following = torch.cat([inputs[len(text) :, 1:], self._last[:, None]], 1).cpu().numpy()
        targets = np.concatenate([batch.targets, np.where(following == BOS_ID, StreamBatches.IGNORE, following)])
        whole = inputs.cpu().numpy()
        wanted = self._mixed(torch.stack(told, 1), torch.from_numpy(targets).to(self._choice.device))
        return TaughtBatch(whole, targets, batch.fresh, whole == BOS_ID if self._reset else None, wanted)

    def _begin(self) -> None:
        device = self._choice.device
        self._last = torch.full((self._written,), BOS_ID, dtype=torch.int64, device=device)
        self._states = [reader.initial_state(self.batch_size) for reader in self._readers]

    def _probabilities(self, ids: Tensor) -> Tensor:
        """What follows each of `ids` [batch] by the teachers' average, [batch, vocab]; their states move on."""
        logs: list[Tensor] = []
        for number, reader in enumerate(self._readers):
            state = self._states[number]
            if self._reset:
                state = state.zeroed(ids == BOS_ID)
            log, self._states[number] = reader.step(ids, state)
            logs.append(log)
        return (torch.logsumexp(torch.stack(logs), 0) - math.log(len(logs))).exp()

    def _follow(self, last: Tensor, probabilities: Tensor) -> Tensor:
        """The tokens that the written rows go on with: a new text after an end, else one drawn by its probability."""
        drawn = torch.rand(len(last), generator=self._generator, device=last.device)
        sums = probabilities.cumsum(-1)
        chosen = torch.searchsorted(sums, drawn[:, None] * sums[:, -1:], right=True).squeeze(1)
        chosen = chosen.clamp(max=sums.shape[1] - 1)
        return torch.where(last == EOS_ID, BOS_ID, chosen)

    def _mixed(self, told: Tensor, targets: Tensor) -> Tensor:
        """What is to be learned, in place of `told` [batch, time, vocab]."""
        rows = self.texts.batch_size
        said = targets[:rows].clamp(min=0)[..., None]
        told[:rows] *= self._share
        told[:rows] = told[:rows].scatter_add(2, said, torch.full_like(said, 1.0 - self._share, dtype=told.dtype))
        return told.mul_((targets != StreamBatches.IGNORE)[..., None])


Batches = StreamBatches | TaughtBatches


def with_teachers(
    texts: StreamBatches, teachers: Sequence[LanguageModel], settings: TrainingSettings, choice: DeviceChoice
) -> Batches:
    """`texts` with what `teachers`, if there are any, say of it and write themselves."""
    if not teachers:
        return texts
    return TaughtBatches(
        texts,
        teachers,
        choice,
        share=settings.teacher_share,
        written_rows=settings.written_rows,
        seed=settings.seed,
        reset_at_document_ends=settings.reset_at_document_ends,
    )


class _Reader:
    """A teacher that reads one token after the other: weights in the number format of the products, state in fp32."""

    def __init__(self, teacher: LanguageModel, choice: DeviceChoice) -> None:
        self._model = copy.deepcopy(teacher).to(choice.device, dtype=choice.precision).requires_grad_(False)
        self._layer_steps = self._model.fixed_steps()

    def initial_state(self, batch_size: int) -> RecurrentState:
        return self._model.initial_state(batch_size, dtype=torch.float32)

    def step(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Log-probabilities [batch, vocab] of what follows `ids` [batch]."""
        outputs, after = self._model.step(ids, state, self._layer_steps)
        logits = F.linear(outputs, self._model.embedding).float() + self._model.output_bias.float()
        return F.log_softmax(logits, -1), after
