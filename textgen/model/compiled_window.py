"""How a window of an LSTM is computed by machine code: step by step, or at once with the products of its steps.

What `mogrifier_window` shares with it is here too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from textgen.imports import can_multiply
from textgen.model.dot_products import (
    COLUMNS,
    ROWS,
    columns_packed,
    room_for_rows,
    rows_packed,
    words_of,
)
from textgen.model.half_precision import halves_of, transposed
from textgen.model.lstm_steps import (
    step_backward,
    step_forward,
    threads_of_step,
    threads_of_window,
    window_backward,
    window_forward,
)
from textgen.model.lstm_window import PlainSteps, Product, Saved


def is_at_once(rows: int, size: int) -> bool:
    """Whether so many rows of a batch and units of a layer suit `CompiledWindow`, on this processor."""
    # With few rows most of what is multiplied would be nothing.
    return can_multiply() and rows >= ROWS // 2 and size % COLUMNS == 0


class CompiledSteps(PlainSteps):
    """In bf16, with one pass over the memory of each step."""

    def transposed(self, matrix: Tensor) -> Tensor:
        return transposed(matrix)

    def forward(self, weight: Tensor, projected: Tensor, bias: Tensor, saved: Saved) -> None:
        recur = Product(weight, saved.squashed.shape[1])
        threads = threads_of_step(saved.squashed)
        given = halves_of(projected), bias.detach().numpy()
        kept = *(part.numpy() for part in saved[:3]), halves_of(saved.outputs)
        for step, hidden in enumerate(saved.outputs[:-1].unbind()):
            step_forward(threads, step, halves_of(recur(hidden)), *given, *kept)

    def backward(
        self, weight: Tensor, saved: Saved, by_step: Tensor, by_hidden: Tensor, by_cell: Tensor, by_gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        back = Product(self.transposed(weight), len(by_hidden))
        threads = threads_of_step(saved.squashed)
        by_bias = torch.zeros(threads, by_gates.shape[-1])
        kept = [part.numpy() for part in saved[:3]]
        by_outputs, found = halves_of(by_step.to(torch.bfloat16).contiguous()), halves_of(by_gates)
        last = [by_cell.numpy(), found, by_bias.numpy()]
        by_hidden = by_hidden.to(torch.bfloat16).contiguous()
        for step in range(len(by_gates) - 1, -1, -1):
            step_backward(threads, step, halves_of(by_hidden), by_outputs, *kept, *last)
            by_hidden = back(by_gates[step])
        return by_hidden, by_bias.sum(0)


class CompiledWindow(CompiledSteps):
    """All steps at once, with their products; between the passes values lie in panels of units, see `lstm_steps`."""

    def saved(self, hidden: Tensor, cell: Tensor, time: int, dtype: torch.dtype) -> Saved:
        rows, size = hidden.shape
        saved = Saved(*room_of_panels(rows, size, time), torch.empty(time + 1, *hidden.shape, dtype=dtype))
        saved.outputs[0], saved.cells[0] = hidden, panels_of(cell)
        return saved

    def last_cell(self, saved: Saved) -> Tensor:
        return rows_of(saved.cells[-1])

    def forward(self, weight: Tensor, projected: Tensor, bias: Tensor, saved: Saved) -> None:
        _, rows, size = saved.outputs.shape
        threads = threads_of_window(rows, size)
        packed = room_for_rows(rows, size)
        window_forward(
            threads,
            columns_packed(weight.contiguous()),
            packed,
            words_of(saved.outputs),
            np.empty((threads, 4, whole_rows(rows), COLUMNS), dtype=np.float32),
            halves_of(projected),
            bias.detach().numpy(),
            *(part.numpy() for part in saved[:3]),
            halves_of(saved.outputs),
        )

    def backward(
        self, weight: Tensor, saved: Saved, by_step: Tensor, by_hidden: Tensor, by_cell: Tensor, by_gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, rows, size = saved.outputs.shape
        threads = threads_of_window(rows, size)
        packed = room_for_rows(rows, 4 * size)
        by_bias, cell = torch.zeros(4 * size), panels_of(by_cell)
        hidden = torch.zeros(size // COLUMNS, whole_rows(rows), COLUMNS)
        hidden[:, :rows] = panels_of(by_hidden).view(-1, rows, COLUMNS)
        window_backward(
            threads,
            rows_packed(weight.contiguous()),
            packed,
            words_of(by_gates),
            hidden.numpy(),
            halves_of(by_step.to(torch.bfloat16).contiguous()),
            *(part.numpy() for part in saved[:3]),
            cell.numpy(),
            halves_of(by_gates),
            by_bias.numpy(),
        )
        by_cell.copy_(rows_of(cell))
        return rows_of(hidden[:, :rows]), by_bias


def room_of_panels(rows: int, size: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
    """For the gates, the cells, those before the first step too, and the squashed of a window."""
    panels, entries = size // COLUMNS, rows * COLUMNS
    each = torch.empty(time, panels, 4, entries), torch.empty(time + 1, panels, entries)
    return *each, torch.empty(time, panels, entries)


def panels_of(rows: Tensor) -> Tensor:
    """[batch, hidden] as [panels, batch · COLUMNS]."""
    return rows.view(len(rows), -1, COLUMNS).transpose(0, 1).flatten(1)


def rows_of(panels: Tensor) -> Tensor:
    """What `panels_of` makes, also with the batch apart, back as [batch, hidden]."""
    return panels.reshape(len(panels), -1, COLUMNS).transpose(0, 1).flatten(1)


def whole_rows(rows: int) -> int:
    """So many rows as are multiplied where these are."""
    return -(-rows // ROWS) * ROWS
