"""Gradients of one optimizer step, whatever memory there is: a batch that does not fit is read in parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.config import TrainingSettings
from textgen.errors import OutOfMemory
from textgen.model.language_model import LanguageModel
from textgen.model.regularization import Dropout
from textgen.model.state import RecurrentState
from textgen.text.corpus import Batch, StreamBatches
from textgen.training.device import DeviceChoice, autocast

# What PyTorch's allocator for processors says; it has no exception of its own.
_ALLOCATOR_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that there was too little memory, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _ALLOCATOR_WORDS)


class WindowGradients:
    """Reads windows of `batches`, the state carried on, and adds up the gradients of `accumulation` of them.

    `parts` is in how many groups of rows each batch is read, one after the other. Their gradients add up to those of
    the whole batch but for rounding: every part's loss is its share of the mean over all targets, rows have states of
    their own, and dropout masks are those of the whole batch.
    """

    def __init__(
        self, model: LanguageModel, batches: StreamBatches, settings: TrainingSettings, choice: DeviceChoice
    ) -> None:
        self.parts = 1
        self.state = model.initial_state(batches.batch_size)
        self.generator = torch.Generator(device=choice.device).manual_seed(settings.seed)
        self._model = model
        self._batches = batches
        self._settings = settings
        self._choice = choice

    @property
    def rows_per_part(self) -> int:
        """Rows of the largest part."""
        return -(-self._batches.batch_size // self.parts)

    def add(self) -> Tensor:
        """Adds the gradients of one optimizer step to the model's; returns the mean loss in nats per token.

        Where memory does not suffice `parts` is doubled and the step begins anew. Raises `OutOfMemory` when single rows
        do not fit either.
        """
        while True:
            position, state, generator_state = self._batches.position, self.state, self.generator.get_state()
            try:
                return self._add()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Not within `except`: the error's traceback holds on to what could not be paid for.
            self._batches.position, self.state = position, state
            self.generator.set_state(generator_state)
            self._split()

    def _add(self) -> Tensor:
        total = torch.zeros((), device=self._choice.device)
        for _ in range(self._settings.accumulation):
            total += self._add_window(self._batches.next())
        return total

    def _split(self) -> None:
        self._model.zero_grad(set_to_none=True)
        if self._choice.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = self._batches.batch_size
        if self.parts >= rows:
            raise OutOfMemory(rows, self._batches.window)
        self.parts = min(rows, 2 * self.parts)

    def _add_window(self, batch: Batch) -> Tensor:
        rows = len(batch.inputs)
        if batch.fresh:
            self.state = self._model.initial_state(rows)
        if self.parts == 1:
            dropout = Dropout(self._settings, self.generator)
            loss, self.state = self._backward(batch, self.state, dropout, slice(None), None)
            return loss
        targets = int((batch.targets != StreamBatches.IGNORE).sum())
        masks = self.generator.get_state()
        losses: list[Tensor] = []
        states: list[RecurrentState] = []
        for part in np.array_split(np.arange(rows), self.parts):
            # Each part draws the masks of all rows and takes its own.
            self.generator.set_state(masks)
            dropout = Dropout(self._settings, self.generator, first_row=int(part[0]), batch_size=rows)
            index = slice(int(part[0]), int(part[-1]) + 1)
            loss, state = self._backward(batch, self.state.rows(index), dropout, index, targets)
            losses.append(loss)
            states.append(state)
        self.state = RecurrentState.join(states)
        return torch.stack(losses).sum()

    def _backward(
        self, batch: Batch, state: RecurrentState, dropout: Dropout, rows: slice, targets: int | None
    ) -> tuple[Tensor, RecurrentState]:
        """Loss and state of some rows; their loss is a mean over `targets`, or over those that they have."""
        device = self._choice.device
        inputs, wanted = (torch.from_numpy(ids[rows]).to(device) for ids in (batch.inputs, batch.targets))
        resets = None if batch.resets is None else torch.from_numpy(batch.resets[rows]).to(device)
        with autocast(device, self._choice.precision):
            logits, after = self._model(inputs, state, dropout=dropout, resets=resets)
        flat, ignored = logits.flatten(0, 1).float(), StreamBatches.IGNORE
        if targets is None:
            loss = F.cross_entropy(flat, wanted.flatten(), ignore_index=ignored)
        else:
            loss = F.cross_entropy(flat, wanted.flatten(), ignore_index=ignored, reduction="sum") / max(1, targets)
        loss = loss / self._settings.accumulation
        loss.backward()
        return loss.detach(), after.detach()
