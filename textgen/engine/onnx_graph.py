"""A language model as ONNX graphs with 8-bit weights, exact to the bit whatever rows run together.

Weights become 8-bit integers with a scale for each output channel. What they are multiplied with becomes 8-bit too, by
a scale that is the largest magnitude of its own row. Sums of integers are exact, so a row's result is the same in every
batch, and on every processor as far as the multiplications are concerned.

What the first layer makes of its input depends on the token alone, so it is no product here but a table, made once in
fp32; the graphs get its rows, `gates`, instead of token ids. A layer's gates are ordered so that those with the same
activation lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from textgen.engine.onnx_cells import CELLS, Graph, Site
from textgen.errors import BackendUnavailable
from textgen.model.cells import RecurrentLayer
from textgen.model.language_model import LanguageModel

Array = NDArray[np.float32]
Shape = list[str | int]

_OPSET = 18
_IR_VERSION = 9
# Processors without VNNI add two products of uint8 and int8 in 16 bits, and 2 · 180 · 91 is the largest sum that fits
# with about as many levels on both sides. So every processor gives the same sums, and none has to go a slower way.
_WEIGHT_LEVELS = 91  # weights lie in [-91, 91]
_LEVELS = 90  # what they are multiplied with in [0, 180]
_ZERO = 90  # what stands for zero there
_CONTRIB = "com.microsoft"
_SMALLEST = 1e-30  # stands in for a largest magnitude of zero


class Quantized(NamedTuple):
    """Names of 8-bit levels [..., width] and of what the highest level of each row stands for [..., 1]."""

    levels: str
    largest: str


class GraphBuilder:
    """Builds the graphs of a model and makes no change to it; `BackendUnavailable` for cells that have no graph."""

    def __init__(self, model: LanguageModel) -> None:
        self._settings = model.settings
        self._layers = [_Layer(layer) for layer in model.layers if isinstance(layer, RecurrentLayer)]
        self._embedding = _array(model.embedding)  # [vocab, embedding]
        self._output_bias = _array(model.output_bias)
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            # Looking for a row's largest magnitude, onnxruntime overlooks a NaN unless it comes first. Said here, the
            # model's breakage cannot get lost on the way to the logits.
            self._output_bias = np.full_like(self._output_bias, np.nan)
        self._projection_weight = _array(model.projection.weight)  # [embedding, hidden]
        self._projection_bias = _array(model.projection.bias)

    @property
    def state_size(self) -> int:
        """Floats of one row of state: the parts of all layers one after the other."""
        return sum(len(layer.state_names) for layer in self._layers) * self._settings.hidden_size

    def input_gates(self) -> Array:
        """What the first layer's gates get from each token: [vocab, channels]."""
        first = self._layers[0]
        table: Array = self._embedding @ first.input.T + first.input_bias
        return table

    def step(self) -> onnx.ModelProto:
        """A token for each row: gates [rows, channels], state [rows, state_size] → logits [rows, vocab], next_state."""
        graph = Graph()
        gates, output, after = "gates", Quantized("", ""), list[str]()
        for number, (layer, parts) in enumerate(zip(self._layers, self._unpack(graph), strict=True)):
            if number:
                gates = self._product(graph, f"input{number}", output, layer.input, layer.input_bias)
            hidden = self._recurrent(graph, number, parts[0])
            parts = self._cell(graph, number, gates, hidden, parts)
            output = self._quantize(graph, parts[0])
            after += parts
        graph.add("Concat", *after, output="next_state", axis=-1)
        self._logits(graph, output)
        inputs: dict[str, Shape] = {
            "gates": ["rows", self._layers[0].channels],
            "state": ["rows", self.state_size],
        }
        return _model(graph, inputs, ("logits", "next_state"))

    def prefill(self) -> onnx.ModelProto:
        """Many tokens for each row: gates [time, rows, channels], present [time, rows, 1], state → hidden, next_state.

        Where `present` is false the row's text has ended and its state stays. `hidden` [time, rows, hidden_size] is
        what the last layer puts out. Layers run one after the other, so that only the recurrent product waits for the
        step before; the values are those of `step`, to the bit.
        """
        graph = Graph()
        gates, outputs, after = "gates", "", list[str]()
        for number, (layer, parts) in enumerate(zip(self._layers, self._unpack(graph), strict=True)):
            if number:
                quantized = self._quantize(graph, outputs)
                gates = self._product(graph, f"input{number}", quantized, layer.input, layer.input_bias)
            body = self._scan_body(graph, number, layer)
            ends = [graph.fresh() for _ in parts]
            outputs = "hidden" if number == len(self._layers) - 1 else graph.fresh()
            graph.nodes.append(
                helper.make_node("Scan", [*parts, gates, "present"], [*ends, outputs], body=body, num_scan_inputs=2)
            )
            after += ends
        graph.add("Concat", *after, output="next_state", axis=-1)
        inputs: dict[str, Shape] = {
            "gates": ["time", "rows", self._layers[0].channels],
            "present": ["time", "rows", 1],
            "state": ["rows", self.state_size],
        }
        return _model(graph, inputs, ("hidden", "next_state"))

    def head(self) -> onnx.ModelProto:
        """hidden [rows, hidden_size] → logits [rows, vocab]."""
        graph = Graph()
        self._logits(graph, self._quantize(graph, "hidden"))
        return _model(graph, {"hidden": ["rows", self._settings.hidden_size]}, ("logits",))

    def _unpack(self, graph: Graph) -> list[list[str]]:
        """The state's parts for each layer."""
        counts = [len(layer.state_names) for layer in self._layers]
        parts = iter(graph.split("state", [self._settings.hidden_size] * sum(counts)))
        return [[next(parts) for _ in range(count)] for count in counts]

    def _cell(self, graph: Graph, number: int, gates: str, hidden: str, parts: list[str]) -> list[str]:
        layer = self._layers[number]
        extras = {name: graph.constant(f"{name}{number}", value) for name, value in layer.extras.items()}
        return layer.cell.step(Site(graph, gates, hidden, parts, self._settings.hidden_size, extras))

    def _recurrent(self, graph: Graph, number: int, hidden: str) -> str:
        """What a layer's gates get from its previous output."""
        layer = self._layers[number]
        return self._product(graph, f"hidden{number}", self._quantize(graph, hidden), layer.hidden, layer.hidden_bias)

    def _scan_body(self, outer: Graph, number: int, layer: _Layer) -> onnx.GraphProto:
        """One step of one layer; weights are taken from the graph around it."""
        body = Graph(prefix=f"layer{number}_", outer=outer)
        size = self._settings.hidden_size
        before = [f"layer{number}_{name}" for name in layer.state_names]
        gates, present = f"layer{number}_gates", f"layer{number}_present"
        hidden = self._recurrent(body, number, before[0])
        stepped = self._cell(body, number, gates, hidden, before)
        after = [body.add("Where", present, new, old) for new, old in zip(stepped, before, strict=True)]
        output = body.add("Identity", stepped[0])
        inputs = [_value(name, ["rows", size]) for name in before]
        inputs += [_value(gates, ["rows", layer.channels]), _value(present, ["rows", 1], TensorProto.BOOL)]
        outputs = [_value(name, ["rows", size]) for name in (*after, output)]
        return helper.make_graph(body.nodes, f"layer{number}", inputs, outputs)

    def _logits(self, graph: Graph, hidden: Quantized) -> None:
        """From what the last layer puts out [rows, hidden] to "logits"."""
        projected = self._product(graph, "projection", hidden, self._projection_weight, self._projection_bias)
        quantized = self._quantize(graph, projected)
        scores = self._product(graph, "vocabulary", quantized, self._embedding, None)
        graph.add("Add", scores, graph.constant("output_bias", self._output_bias), output="logits")

    def _quantize(self, graph: Graph, values: str) -> Quantized:
        """`values` [..., width] as shares of the row's largest magnitude."""
        axis = graph.constant("last_axis", np.array([-1], dtype=np.int64))
        largest = graph.add("ReduceMax", graph.add("Abs", values), axis, keepdims=1)  # [..., 1]
        largest = graph.add("Max", largest, graph.constant("smallest", np.float32(_SMALLEST)))
        share, zero = graph.constant("share", np.float32(1 / _LEVELS)), graph.constant("zero_point", np.uint8(_ZERO))
        return Quantized(graph.add("QuantizeLinear", graph.add("Div", values, largest), share, zero), largest)

    def _product(self, graph: Graph, name: str, factor: Quantized, weight: Array, bias: Array | None) -> str:
        """weight [channels, width] times a quantised [..., width], plus bias: [..., channels]."""
        level = np.maximum(np.abs(weight).max(axis=1) / np.float32(_WEIGHT_LEVELS), np.float32(_SMALLEST))  # [channels]
        with np.errstate(invalid="ignore"):  # a broken model's NaN stays in `level` and comes back with it
            levels = np.rint(weight / level[:, None]).astype(np.int8)
        zero = graph.constant("zero_point", np.uint8(_ZERO))
        # MatMulIntegerToFloat would do the next three at once, but takes half as long again for a single row.
        sums = graph.add("MatMulInteger", factor.levels, graph.constant(f"{name}_weight", levels.T), zero)
        size = graph.constant(f"{name}_level", level / np.float32(_LEVELS))
        product = graph.add("Mul", graph.add("Cast", sums, to=TensorProto.FLOAT), size)
        product = graph.add("Mul", product, factor.largest)
        return product if bias is None else graph.add("Add", product, graph.constant(f"{name}_bias", bias))


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

    @property
    def channels(self) -> int:
        return int(self.hidden.shape[0])

    def _ordered(self, tensor: torch.Tensor) -> Array:
        blocks = np.split(_array(tensor), len(self.cell.order))
        return np.concatenate([blocks[gate] for gate in self.cell.order])


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to(device="cpu", dtype=torch.float32).numpy()
    return array


def _value(name: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(graph: Graph, inputs: dict[str, Shape], outputs: Sequence[str]) -> onnx.ModelProto:
    kinds = {"present": TensorProto.BOOL}
    made = helper.make_graph(
        graph.nodes,
        "language_model",
        [_value(name, shape, kinds.get(name, TensorProto.FLOAT)) for name, shape in inputs.items()],
        [_value(name, None) for name in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="textgen-studio")
