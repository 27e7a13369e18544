"""Embedding → stacked recurrent layers → projection → tied softmax, as a function of token ids and state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textgen.config import ModelSettings
from textgen.model.cells import CellState, LayerStep, RecurrentLayer, cell_types, segments
from textgen.model.regularization import Dropout, embedding_dropout, weight_dropout
from textgen.model.state import RecurrentState

# e^-30 is nothing beside the other tokens, and a number that fp16 still holds.
_NEVER = -30.0


class LanguageModel(nn.Module):
    """A recurrent language model whose softmax shares the embedding's weights.

    Weight tying: Press & Wolf 2017 (https://arxiv.org/abs/1608.05859), Inan et al. 2017. The module keeps no state
    between calls and has no training mode: passing a `Dropout` is what makes a call a training call.

    With several `members` it is an ensemble (Hansen & Salamon 1990; Lakshminarayanan et al. 2017,
    https://arxiv.org/abs/1612.01474): so many networks of the settings' shape, which share the output bias alone, and
    the logits are the mean of theirs. Member m owns columns [m · embedding_size, (m + 1) · embedding_size) of the
    embedding, those rows of the projection, and the layers m, m + members, …
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        members = settings.members
        self.embedding = nn.Parameter(torch.empty(settings.vocab_size, members * settings.embedding_size))
        layer = cell_types()[settings.cell]
        widths = [settings.embedding_size] + [settings.hidden_size] * (settings.num_layers - 1)
        self.layers = nn.ModuleList(layer(width, settings.hidden_size) for width in widths for _ in range(members))
        self.projection = nn.Linear(settings.hidden_size, members * settings.embedding_size)
        self.output_bias = nn.Parameter(torch.empty(settings.vocab_size))

    def reset_parameters(self, seed: int, *, never_predicted: Sequence[int] = ()) -> None:
        """Draws fresh weights; the same seed gives the same weights.

        `never_predicted` are tokens that are read but never follow another, such as `<bos>`. They start with hardly any
        probability: otherwise the softmax would push their tied embeddings far out, and reading one would throw the
        state off.
        """
        generator = torch.Generator(device=self.embedding.device).manual_seed(seed)
        bound = self.settings.hidden_size**-0.5
        with torch.no_grad():
            # Tied weights also make the logits: much smaller ones keep short trainings at guessing by frequency.
            self.embedding.normal_(0.0, 0.1, generator=generator)
            self.projection.weight.uniform_(-bound, bound, generator=generator)
            self.projection.bias.zero_()
            self.output_bias.zero_()
            self.output_bias[list(never_predicted)] = _NEVER
        for layer in self._layers():
            layer.reset_parameters(generator)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def initial_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> RecurrentState:
        """The state before any text: zeros, [batch_size, hidden_size] for each of `layers` and part."""
        zeros = torch.zeros(
            batch_size,
            self.settings.hidden_size,
            device=self.embedding.device if device is None else device,
            dtype=self.embedding.dtype if dtype is None else dtype,
        )
        return RecurrentState(tuple(tuple(zeros.clone() for _ in layer.state_names) for layer in self._layers()))

    def forward(
        self,
        token_ids: Tensor,
        state: RecurrentState,
        *,
        dropout: Dropout | None = None,
        resets: Tensor | None = None,
        apart: bool = False,
    ) -> tuple[Tensor, RecurrentState]:
        """Reads token_ids [batch, time] after `state` and predicts what follows each.

        Where `resets` [batch, time] is true, the row's state is zeroed before that step; the layers then run piece by
        piece, so windows with many resets are slower. Returns logits [batch, time, vocab] and the state after the last
        step; `apart` gives those of each member, [members, batch, time, vocab].
        """
        hidden, after = self.hidden(token_ids, state, dropout=dropout, resets=resets)
        members = self.settings.members
        if not apart or members == 1:
            logits = F.linear(hidden, self.embedding, self.output_bias)
            return logits[None] if apart else logits, after
        each = zip(hidden.chunk(members, -1), self.embedding.chunk(members, 1), strict=True)
        return torch.stack([F.linear(members * own, weight, self.output_bias) for own, weight in each]), after

    def hidden(
        self,
        token_ids: Tensor,
        state: RecurrentState,
        *,
        dropout: Dropout | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """`forward` up to what the tied softmax multiplies: [batch, time, members · embedding_size]."""
        weight: Tensor = self.embedding
        if dropout is not None:
            weight = embedding_dropout(weight, dropout.rates.embedding_dropout, dropout.generator)
        embedded = F.embedding(token_ids, weight)  # [batch, time, members · embedding]
        if dropout is not None:
            embedded = dropout.lock(embedded, dropout.rates.input_dropout)
        members = self.settings.members
        outputs = list(embedded.chunk(members, -1))
        after: list[CellState] = []
        for number, layer in enumerate(self._layers()):
            inputs = outputs[number % members]
            if dropout is not None and number >= members:
                inputs = dropout.lock(inputs, dropout.rates.hidden_dropout)
            recurrent = None
            if dropout is not None and dropout.rates.weight_dropout:
                recurrent = weight_dropout(layer.recurrent_weight, dropout.rates.weight_dropout, dropout.generator)
            outputs[number % members], cell_state = _run(layer, inputs, state.layers[number], recurrent, resets)
            after.append(cell_state)
        projected = self._projected(outputs)
        if dropout is not None:
            projected = dropout.lock(projected, dropout.rates.output_dropout)
        return projected, RecurrentState(tuple(after))

    def step(
        self, token_ids: Tensor, state: RecurrentState, layer_steps: Sequence[LayerStep] | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """`hidden` for one token of each row, token_ids [batch], by the cells' equations: [batch, members · embedding].

        The state keeps its own number format, whatever the weights are in. `layer_steps` may be `fixed_steps`: then it
        may become one of float32, whose h is rounded to what is multiplied.
        """
        members = self.settings.members
        steps = layer_steps or [layer.step for layer in self._layers()]
        outputs = list(F.embedding(token_ids, self.embedding).chunk(members, -1))
        after: list[CellState] = []
        for number, step in enumerate(steps):
            outputs[number % members], cell_state = step(outputs[number % members], state.layers[number])
            after.append(cell_state)
        return self._projected(outputs), RecurrentState(tuple(after))

    def fixed_steps(self) -> list[LayerStep]:
        """How each layer does `step` for as long as the weights stay as they are, without gradients."""
        return [layer.fixed_step() for layer in self._layers()]

    def _projected(self, outputs: Sequence[Tensor]) -> Tensor:
        """What the members' last layers put out, each [.., hidden] → [.., members · embedding], the share of each."""
        if len(outputs) == 1:
            return self.projection(outputs[0])  # type: ignore[no-any-return]
        each = zip(outputs, *(part.chunk(len(outputs)) for part in self.projection.parameters()), strict=True)
        return torch.cat([F.linear(own, weight, bias) for own, weight, bias in each], -1) / len(outputs)

    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]


def _run(
    layer: RecurrentLayer, inputs: Tensor, state: CellState, recurrent_weight: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, CellState]:
    if resets is None:
        return layer(inputs, state, recurrent_weight=recurrent_weight)  # type: ignore[no-any-return]
    pieces: list[Tensor] = []
    for start, end in segments(resets):
        keep = ~resets[:, start, None]
        state = tuple(part * keep for part in state)
        outputs, state = layer(inputs[:, start:end], state, recurrent_weight=recurrent_weight)
        pieces.append(outputs)
    return torch.cat(pieces, 1), state
