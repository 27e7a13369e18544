"""A language model as ONNX graphs, by default with 8-bit weights, exact to the bit whatever rows run together.

Weights become 8-bit integers with a scale for each output channel. What they are multiplied with becomes 8-bit too, by
a scale that is the largest magnitude of its own row. Sums of integers are exact, so a row's result is the same in every
batch, and on every processor as far as the multiplications are concerned.

What the first layer makes of its input depends on the token alone, so it is no product for the engine but a table, made
once in fp32; the engine's graphs get its rows, `gates`, instead of token ids. Where a layer's input and previous output
scale each other first, the table is that of the inputs themselves. `language_model`, for the use elsewhere, does
without that table, which is larger than all the rest. A layer's gates are ordered so that those with the same
activation lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from textgen.engine.onnx_cells import CELLS, Graph, Site
from textgen.engine.onnx_products import Array, Factor, Int8Products, Products
from textgen.errors import BackendUnavailable
from textgen.model.cells import RecurrentLayer
from textgen.model.language_model import LanguageModel

Shape = list[str | int]

OPSET = 18
_IR_VERSION = 9


def state_names(model: LanguageModel) -> list[list[str]]:
    """What `GraphBuilder.language_model` calls the state's parts, for each layer: [h0, c0], [h1, c1] of an LSTM."""
    layers = [layer for layer in model.layers if isinstance(layer, RecurrentLayer)]
    return [[f"{part}{number}" for part in layer.state_names] for number, layer in enumerate(layers)]


class GraphBuilder:
    """Builds the graphs of a model and makes no change to it; `BackendUnavailable` for cells that have no graph."""

    def __init__(self, model: LanguageModel, products: Products | None = None) -> None:
        self._products = products or Int8Products()
        self._settings = model.settings
        self._layers = [_Layer(layer) for layer in model.layers if isinstance(layer, RecurrentLayer)]
        self._state_names = state_names(model)
        self._embedding = _array(model.embedding)  # [vocab, embedding]
        self._output_bias = _array(model.output_bias)
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            # Looking for a row's largest magnitude, onnxruntime overlooks a NaN unless it comes first. Said here, the
            # model's breakage cannot get lost on the way to the logits.
            self._output_bias = np.full_like(self._output_bias, np.nan)
        # Each member's share of the logits, [embedding, hidden] and [embedding].
        members = self._settings.members
        shares = (
            np.split(_array(part / members), members) for part in (model.projection.weight, model.projection.bias)
        )
        self._projections = list(zip(*shares, strict=True))

    @property
    def state_size(self) -> int:
        """Floats of one row of state: the parts of all layers one after the other."""
        return sum(len(layer.state_names) for layer in self._layers) * self._settings.hidden_size

    def input_gates(self) -> Array:
        """What the members' first layers are given for each token: [vocab, channels], side by side."""
        each = zip(np.split(self._embedding, self._settings.members, 1), self._first, strict=True)
        return np.concatenate([layer.given(embedding) for embedding, layer in each], 1)

    def step(self) -> onnx.ModelProto:
        """A token for each row: gates [rows, channels], state [rows, state_size] → logits [rows, vocab], next_state."""
        graph = Graph()
        members, after = self._settings.members, list[str]()
        from_token = self._unpack_gates(graph)
        outputs = [""] * members
        for number, parts in enumerate(self._unpack(graph)):
            member = number % members
            given = from_token[member] if number < members else self._given(graph, number, outputs[member])
            parts = self._advance(graph, number, given, parts)
            outputs[member] = parts[0]
            after += parts
        graph.add("Concat", *after, output="next_state", axis=-1)
        self._logits(graph, outputs)
        inputs: dict[str, Shape] = {
            "gates": ["rows", self._input_channels],
            "state": ["rows", self.state_size],
        }
        return _model(graph, inputs, {"logits": None, "next_state": None})

    def prefill(self) -> onnx.ModelProto:
        """Many tokens for each row: gates [time, rows, channels], present [time, rows, 1], state → hidden, next_state.

        Where `present` is false the row's text has ended and its state stays. `hidden` [time, rows, members · hidden]
        is what the last layers put out. Layers run one after the other, so that only the recurrent product waits for
        the step before; the values are those of `step`, to the bit.
        """
        graph = Graph()
        parts = self._unpack(graph)
        after = [[graph.fresh() for _ in part] for part in parts]
        self._read(graph, self._unpack_gates(graph), parts, after, "hidden", present="present")
        graph.add("Concat", *chain.from_iterable(after), output="next_state", axis=-1)
        inputs: dict[str, Shape] = {
            "gates": ["time", "rows", self._input_channels],
            "present": ["time", "rows", 1],
            "state": ["rows", self.state_size],
        }
        return _model(graph, inputs, {"hidden": None, "next_state": None})

    def language_model(self) -> onnx.ModelProto:
        """The whole model, called as it is itself: token_ids [batch, time], state → logits [batch, time, vocab], state.

        The state's tensors [batch, hidden_size] are named by `state_names`; those after the last token have next_
        before that.
        """
        graph = Graph()
        token_ids = graph.add("Transpose", "token_ids", perm=[1, 0])  # [time, batch]
        embedded = self._products.rows(graph, "vocabulary", self._embedding, token_ids)
        own = graph.split(embedded, [self._settings.embedding_size] * self._settings.members)
        gates = [self._given(graph, member, part) for member, part in enumerate(own)]
        before = self._state_names
        after = [[f"next_{part}" for part in parts] for parts in before]
        outputs = self._read(graph, gates, before, after, graph.fresh())
        hidden = graph.add("Transpose", outputs, perm=[1, 0, 2])  # [batch, time, members · hidden]
        self._logits(graph, self._unpack_hidden(graph, hidden))
        state: Shape = ["batch", self._settings.hidden_size]
        return _model(
            graph,
            {"token_ids": ["batch", "time"], **dict.fromkeys(chain.from_iterable(before), state)},
            {
                "logits": ["batch", "time", self._settings.vocab_size],
                **dict.fromkeys(chain.from_iterable(after), state),
            },
        )

    def head(self) -> onnx.ModelProto:
        """hidden [rows, members · hidden_size] → logits [rows, vocab]."""
        graph = Graph()
        self._logits(graph, self._unpack_hidden(graph, "hidden"))
        width = self._settings.members * self._settings.hidden_size
        return _model(graph, {"hidden": ["rows", width]}, {"logits": None})

    @property
    def _first(self) -> list[_Layer]:
        """The layers that read tokens, one of each member."""
        return self._layers[: self._settings.members]

    @property
    def _input_channels(self) -> int:
        return sum(layer.given_channels for layer in self._first)

    def _read(
        self,
        graph: Graph,
        gates: Sequence[str],
        before: Sequence[Sequence[str]],
        after: Sequence[Sequence[str]],
        last: str,
        *,
        present: str = "",
    ) -> str:
        """The layers' steps over time, from what the first ones are given, each [time, rows, channels].

        `before` and `after` name the state's parts for each layer, `last` what the members' last ones put out, which is
        returned [time, rows, members · hidden_size]. Where `present` is given and false, a row's state stays.
        """
        members = self._settings.members
        outputs = [""] * members
        for number, layer in enumerate(self._layers):
            member = number % members
            own = gates[member] if number < members else self._given(graph, number, outputs[member])
            body = self._scan_body(graph, number, layer, bool(present))
            outputs[member] = last if number == len(self._layers) - 1 and members == 1 else graph.fresh()
            scanned = [own, present] if present else [own]
            graph.nodes.append(
                helper.make_node(
                    "Scan",
                    [*before[number], *scanned],
                    [*after[number], outputs[member]],
                    body=body,
                    num_scan_inputs=len(scanned),
                )
            )
        return last if members == 1 else graph.add("Concat", *outputs, output=last, axis=-1)

    def _unpack(self, graph: Graph) -> list[list[str]]:
        """The state's parts for each layer."""
        counts = [len(layer.state_names) for layer in self._layers]
        parts = iter(graph.split("state", [self._settings.hidden_size] * sum(counts)))
        return [[next(parts) for _ in range(count)] for count in counts]

    def _unpack_gates(self, graph: Graph) -> list[str]:
        """What each member's first layer gets of "gates"."""
        return graph.split("gates", [layer.given_channels for layer in self._first])

    def _unpack_hidden(self, graph: Graph, hidden: str) -> list[str]:
        """Each member's part of what the last layers put out."""
        return graph.split(hidden, [self._settings.hidden_size] * self._settings.members)

    def _given(self, graph: Graph, number: int, inputs: str) -> str:
        """What a layer's steps are given: what its gates get from its inputs, or these."""
        return inputs if self._layers[number].rounds else self._from_inputs(graph, number, inputs)

    def _from_inputs(self, graph: Graph, number: int, inputs: str) -> str:
        layer = self._layers[number]
        return self._product(graph, f"input{number}", self._factor(graph, inputs), layer.input, layer.input_bias)

    def _advance(self, graph: Graph, number: int, given: str, parts: list[str]) -> list[str]:
        """A layer's step: the state's new parts."""
        layer, hidden = self._layers[number], parts[0]
        for pair, (by_hidden, by_inputs) in enumerate(layer.rounds):
            given = self._scaled(graph, f"round{number}_{pair}_inputs", given, hidden, by_hidden)
            hidden = self._scaled(graph, f"round{number}_{pair}_hidden", hidden, given, by_inputs)
        gates = self._from_inputs(graph, number, given) if layer.rounds else given
        from_hidden = self._product(
            graph, f"hidden{number}", self._factor(graph, hidden), layer.hidden, layer.hidden_bias
        )
        extras = {name: graph.constant(f"{name}{number}", value) for name, value in layer.extras.items()}
        return layer.cell.step(Site(graph, gates, from_hidden, parts, self._settings.hidden_size, extras))

    def _scaled(self, graph: Graph, name: str, values: str, others: str, weight: Array) -> str:
        """`values` times 1 and the tanh of a product of `others`."""
        squashed = graph.add("Tanh", self._product(graph, name, self._factor(graph, others), weight, None))
        return graph.add("Add", values, graph.add("Mul", values, squashed))

    def _scan_body(self, outer: Graph, number: int, layer: _Layer, with_present: bool) -> onnx.GraphProto:
        """One step of one layer; weights are taken from the graph around it."""
        body = Graph(prefix=f"layer{number}_", outer=outer)
        size = self._settings.hidden_size
        before = [f"layer{number}_{name}" for name in layer.state_names]
        gates, present = f"layer{number}_gates", f"layer{number}_present"
        stepped = self._advance(body, number, gates, before)
        output = body.add("Identity", stepped[0])
        inputs = [_value(name, ["rows", size]) for name in before]
        inputs.append(_value(gates, ["rows", layer.given_channels]))
        after = stepped
        if with_present:
            after = [body.add("Where", present, new, old) for new, old in zip(stepped, before, strict=True)]
            inputs.append(_value(present, ["rows", 1], TensorProto.BOOL))
        outputs = [_value(name, ["rows", size]) for name in (*after, output)]
        return helper.make_graph(body.nodes, f"layer{number}", inputs, outputs)

    def _logits(self, graph: Graph, outputs: Sequence[str]) -> None:
        """From what the members' last layers put out, each [rows, hidden], to "logits"."""
        each = enumerate(zip(outputs, self._projections, strict=True))
        projected = [
            self._product(graph, f"projection{member}", self._factor(graph, hidden), weight, bias)
            for member, (hidden, (weight, bias)) in each
        ]
        joined = projected[0] if len(projected) == 1 else graph.add("Concat", *projected, axis=-1)
        quantized = self._factor(graph, joined)
        scores = self._product(graph, "vocabulary", quantized, self._embedding, None)
        graph.add("Add", scores, graph.constant("output_bias", self._output_bias), output="logits")

    def _factor(self, graph: Graph, values: str) -> Factor:
        return self._products.factor(graph, values)

    def _product(self, graph: Graph, name: str, factor: Factor, weight: Array, bias: Array | None) -> str:
        return self._products.product(graph, name, factor, weight, bias)


class _Layer:
    """A layer's weights with its gates in the order that its graph wants."""

    def __init__(self, layer: RecurrentLayer) -> None:
        if type(layer) not in CELLS:
            raise BackendUnavailable("onnx", f"it has no graph for the cell {type(layer).__name__}")
        self.cell = CELLS[type(layer)]
        self.state_names = layer.state_names
        weights = layer.gate_weights()
        self.input = self._ordered(weights.input)  # [channels, width]
        self.hidden = self._ordered(weights.hidden)  # [channels, hidden]
        self.input_bias = self._ordered(weights.input_bias)
        self.hidden_bias: Array | None = self._ordered(weights.hidden_bias)
        if self.cell.adds_up:
            self.input_bias, self.hidden_bias = self.input_bias + self.hidden_bias, None
        self.extras = {name: _array(value) for name, value in self.cell.extras(layer).items()}
        self.rounds = [
            tuple(map(_array, pair)) for pair in (self.cell.rounds(layer) if self.cell.rounds is not None else ())
        ]

    def given(self, inputs: Array) -> Array:
        """What the steps are given for `inputs` [.., width]: what the gates get from them, or these."""
        return inputs if self.rounds else inputs @ self.input.T + self.input_bias

    @property
    def given_channels(self) -> int:
        return int(self.input.shape[1] if self.rounds else self.input.shape[0])

    def _ordered(self, tensor: torch.Tensor) -> Array:
        blocks = np.split(_array(tensor), len(self.cell.order))
        return np.concatenate([blocks[gate] for gate in self.cell.order])


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to(device="cpu", dtype=torch.float32).numpy()
    return array


def _value(name: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(graph: Graph, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape | None]) -> onnx.ModelProto:
    kinds = {"present": TensorProto.BOOL, "token_ids": TensorProto.INT64}
    made = helper.make_graph(
        graph.nodes,
        "language_model",
        [_value(name, shape, kinds.get(name, TensorProto.FLOAT)) for name, shape in inputs.items()],
        [_value(name, shape) for name, shape in outputs.items()],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="textgen-studio")
