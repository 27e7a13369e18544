"""Gradients of one optimizer step, whatever memory there is: a batch that does not fit is read in parts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.config import DropoutSettings, TrainingSettings
from textgen.errors import OutOfMemory
from textgen.model.language_model import LanguageModel
from textgen.model.regularization import Dropout
from textgen.model.state import RecurrentState
from textgen.text.corpus import Batch, StreamBatches
from textgen.training.cross_entropy import cross_entropy
from textgen.training.device import DeviceChoice, autocast
from textgen.training.distillation import Batches, TaughtBatch
from textgen.training.distributed import Ranks

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

    With other `ranks` the same holds for their rows: each reads its share of every batch, in as many parts, and
    gradients are then those of the whole batch everywhere. `state` is that of this rank's rows.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        settings: TrainingSettings,
        choice: DeviceChoice,
        ranks: Ranks | None = None,
    ) -> None:
        self.parts = 1
        self._ranks = ranks or Ranks()
        self._share = self._ranks.share(batches.batch_size)
        self.state = model.initial_state(len(self._share))
        self.generator = torch.Generator(device=choice.device).manual_seed(settings.seed)
        self._model = model
        self._replica = self._ranks.distribute(model)
        self._batches = batches
        self._settings = settings
        self._rates: DropoutSettings = settings
        self._choice = choice
        self._tried = self._ranks.alone

    @property
    def rows_per_part(self) -> int:
        """Rows of the largest part."""
        return -(-len(self._share) // self.parts)

    @property
    def whole_parts(self) -> int:
        """In how many parts a batch is read by all ranks together; 1 where memory has been enough."""
        return 1 if self.parts == 1 else self.parts * self._ranks.size

    @whole_parts.setter
    def whole_parts(self, parts: int) -> None:
        self.parts = min(self._max_parts, max(1, -(-parts // self._ranks.size)))

    def whole_state(self) -> RecurrentState:
        """The state of all rows. All ranks call it."""
        return self._ranks.whole_state(self.state, self._batches.batch_size)

    def take_state(self, whole: RecurrentState) -> None:
        """Goes on from the state of all rows."""
        self.state = whole if self._ranks.alone else whole.rows(slice(self._share.start, self._share.stop))

    def take_batches(self, batches: Batches) -> None:
        """Reads `batches` from now on; rows below those that there were begin with no text. All ranks call it."""
        rows, whole = batches.batch_size, self.whole_state()
        if rows > whole.batch_size:
            whole = RecurrentState.join([whole, self._model.initial_state(rows - whole.batch_size)])
        self._batches, self._share = batches, self._ranks.share(rows)
        self.take_state(whole.rows(slice(0, rows)))
        self._tried = self._ranks.alone

    def drop(self, rates: DropoutSettings) -> None:
        """Drops so much from now on, in place of what the settings say."""
        self._rates = rates

    def add(self) -> Tensor:
        """Adds the gradients of one optimizer step to the model's; returns the mean loss in nats per token.

        Of several ranks each returns its share of the loss, and all get the same gradients. Where memory does not
        suffice `parts` is doubled and the step begins anew. Raises `OutOfMemory` when single rows do not fit either.
        """
        if not self._tried:
            self._find_parts()
        if not self._ranks.alone:
            return self._add(reduce=True)
        while True:
            loss = self._attempt()
            if loss is not None:
                return loss
            self._split()

    def _find_parts(self) -> None:
        """Tries the first step, to no effect, in as many parts as it takes until it fits everywhere.

        A rank that has no memory left cannot leave the reduction of gradients that the others are in: it is tried
        without one, and whether that worked is agreed on. Where memory gets short later, torchrun starts anew.
        """
        while True:
            before = self._remember()
            fits = self._attempt() is not None
            self._go_back(before)
            if not self._ranks.any(not fits):
                break
            self._split()
        self._tried = True

    def _attempt(self) -> Tensor | None:
        """The loss of a step whose gradients are not reduced; None, and nothing done, where memory is short."""
        before = self._remember()
        try:
            return self._add(reduce=False)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not within `except`: the error's traceback holds on to what could not be paid for.
        self._go_back(before)
        return None

    def _remember(self) -> tuple[Any, RecurrentState, Tensor]:
        return self._batches.mark(), self.state, self.generator.get_state()

    def _go_back(self, before: tuple[Any, RecurrentState, Tensor]) -> None:
        place, self.state, generator_state = before
        self._batches.go_back(place)
        self.generator.set_state(generator_state)
        self._model.zero_grad(set_to_none=True)

    def _add(self, *, reduce: bool) -> Tensor:
        total = torch.zeros((), device=self._choice.device)
        for left in reversed(range(self._settings.accumulation)):
            total += self._add_window(self._batches.next(), reduce=reduce and left == 0)
        return total

    def _split(self) -> None:
        if self._choice.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.parts >= self._max_parts:
            raise OutOfMemory(self._batches.batch_size, self._batches.window)
        self.parts = min(self._max_parts, 2 * self.parts)

    @property
    def _max_parts(self) -> int:
        """Rows of the rank that has most."""
        return -(-self._batches.batch_size // self._ranks.size)

    def _add_window(self, batch: Batch, *, reduce: bool) -> Tensor:
        rows = len(batch.inputs)
        if batch.fresh:
            self.state = self._model.initial_state(len(self._share))
        if self.parts == 1 and self._ranks.alone:
            dropout = Dropout(self._rates, self.generator)
            loss, self.state = self._backward(batch, self.state, dropout, slice(None), None)
            return loss
        targets = int((batch.targets != StreamBatches.IGNORE).sum())
        masks = self.generator.get_state()
        losses: list[Tensor] = []
        states: list[RecurrentState] = []
        parts = np.array_split(np.arange(len(self._share)), min(self.parts, len(self._share)))
        for number, part in enumerate(parts, 1):
            # Each part draws the masks of all rows and takes its own.
            self.generator.set_state(masks)
            first, last = self._share.start + int(part[0]), self._share.start + int(part[-1])
            dropout = Dropout(self._rates, self.generator, first_row=first, batch_size=rows)
            own = self.state.rows(slice(int(part[0]), int(part[-1]) + 1))
            index = slice(first, last + 1)
            loss, state = self._backward(batch, own, dropout, index, targets, reduce=reduce and number == len(parts))
            losses.append(loss)
            states.append(state)
        self.state = RecurrentState.join(states)
        return torch.stack(losses).sum()

    def _backward(
        self,
        batch: Batch,
        state: RecurrentState,
        dropout: Dropout,
        rows: slice,
        targets: int | None,
        *,
        reduce: bool = False,
    ) -> tuple[Tensor, RecurrentState]:
        """Loss and state of some rows; their loss is a mean over `targets`, or over those that they have.

        `reduce`: the gradients gathered up to now become those of all ranks.
        """
        device, replica = self._choice.device, self._replica
        inputs, wanted = (torch.from_numpy(ids[rows]).to(device) for ids in (batch.inputs, batch.targets))
        resets = None if batch.resets is None else torch.from_numpy(batch.resets[rows]).to(device)
        with nullcontext() if replica is None or reduce else replica.no_sync():
            with autocast(device, self._choice.precision):
                logits, after = (replica or self._model)(inputs, state, dropout=dropout, resets=resets, apart=True)
            # Members learn the same for themselves: what makes an ensemble good is that they err differently.
            flat, members = logits.flatten(0, -2), len(logits)  # [members · batch · time, vocab]
            if targets is None:
                targets = int((batch.targets[rows] != StreamBatches.IGNORE).sum())
            count = members * max(1, targets) * self._settings.accumulation
            if isinstance(batch, TaughtBatch):
                # The cross-entropy of the probabilities that are wanted; those of ignored places are zero.
                taught = batch.wanted[rows].flatten(0, 1)
                loss = F.cross_entropy(flat.float(), _repeated(taught, members), reduction="sum") / count
            else:
                loss = cross_entropy(flat, _repeated(wanted.flatten(), members), count)
            # The replica takes the mean over ranks; shares of one mean are to be added up.
            (loss if replica is None else loss * self._ranks.size).backward()
        return loss.detach(), after.detach()


def _repeated(tensor: Tensor, times: int) -> Tensor:
    """`tensor` so many times, one below the other."""
    return tensor if times == 1 else torch.cat([tensor] * times)
