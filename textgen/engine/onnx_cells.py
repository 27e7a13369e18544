"""The cells' equations as ONNX nodes, and the graph that they are written into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from textgen.model.cells import GRU, LSTM, MogrifierLSTM, RecurrentLayer, TanhRNN, UpdateGateLSTM


class Graph:
    """Nodes and constants in the making. The body of a loop has an `outer` graph, where its constants go."""

    def __init__(self, *, prefix: str = "", outer: Graph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix
        self._constants: dict[str, onnx.TensorProto] = {} if outer is None else outer._constants
        self._count = 0

    @property
    def constants(self) -> list[onnx.TensorProto]:
        return list(self._constants.values())

    def fresh(self) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"{self._prefix}value{self._count}"

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """The constant by that name, made of `value` the first time."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Appends a node with one output and returns the output's name."""
        result = output or self.fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [result], domain=domain, **attributes))
        return result

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Cuts the last axis of `value` into pieces of these sizes."""
        if len(sizes) == 1:
            return [value]
        lengths = self.constant("lengths_" + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64))
        results = [self.fresh() for _ in sizes]
        self.nodes.append(helper.make_node("Split", [value, lengths], results, axis=-1))
        return results


@dataclass(frozen=True)
class Site:
    """Where a cell's equations are written, and from what.

    `gates` and `hidden` are what its gates get from the input and from the previous output, both [rows, channels] with
    the gates in the cell's `order`; `state` has the state's parts, each [rows, hidden_size].
    """

    graph: Graph
    gates: str
    hidden: str
    state: Sequence[str]
    hidden_size: int
    extras: Mapping[str, str]

    def add(self, operator: str, *inputs: str) -> str:
        return self.graph.add(operator, *inputs)

    def split(self, value: str, *blocks: int) -> list[str]:
        """Cuts `value` into pieces of so many gates each."""
        return self.graph.split(value, [count * self.hidden_size for count in blocks])


def _nothing(_layer: RecurrentLayer) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Cell:
    """How a cell runs in a graph: its gates in `order`, its equations, and the `extras` they need of a layer.

    `step` returns the names of the state's new parts; the first is the cell's output. `adds_up`: what comes from the
    input and from the previous output is only ever added, so that their biases may be one. `rounds`: what a layer's
    input and previous output scale each other by before that, see `MogrifierLSTM.round_products`.
    """

    order: tuple[int, ...]
    step: Callable[[Site], list[str]]
    adds_up: bool = True
    extras: Callable[[Any], dict[str, Tensor]] = _nothing
    rounds: Callable[[Any], list[tuple[Tensor, Tensor]]] | None = None


def _lstm(at: Site) -> list[str]:
    gates, candidate = at.split(at.add("Add", at.gates, at.hidden), 3, 1)
    i, f, o = at.split(at.add("Sigmoid", gates), 1, 1, 1)
    cell = at.add("Add", at.add("Mul", f, at.state[1]), at.add("Mul", i, at.add("Tanh", candidate)))
    return [at.add("Mul", o, at.add("Tanh", cell)), cell]


def _gru(at: Site) -> list[str]:
    gates_x, candidate_x = at.split(at.gates, 2, 1)
    gates_h, candidate_h = at.split(at.hidden, 2, 1)
    reset, update = at.split(at.add("Sigmoid", at.add("Add", gates_x, gates_h)), 1, 1)
    candidate = at.add("Tanh", at.add("Add", candidate_x, at.add("Mul", reset, candidate_h)))
    # (1 − z) ⊙ n + z ⊙ h, with one product.
    return [at.add("Add", candidate, at.add("Mul", update, at.add("Sub", at.state[0], candidate)))]


def _rnn(at: Site) -> list[str]:
    return [at.add("Tanh", at.add("Add", at.gates, at.hidden))]


def _update_gate_lstm(at: Site) -> list[str]:
    gates, candidates = at.split(at.add("Add", at.gates, at.hidden), 4, 2)
    i, f, o, u = at.split(at.add("Sigmoid", gates), 1, 1, 1, 1)
    g, candidate = at.split(at.add("Tanh", candidates), 1, 1)
    usual = at.add("Add", at.add("Mul", f, at.state[1]), at.add("Mul", i, g))
    updated = at.add("Add", candidate, at.add("Mul", u, at.add("Sub", at.state[1], candidate)))

    def mixed(first: str, second: str) -> str:
        return at.add("Add", second, at.add("Mul", at.extras["mix"], at.add("Sub", first, second)))

    hidden = at.add("Mul", o, mixed(at.add("Tanh", usual), at.add("Tanh", updated)))
    return [hidden, mixed(usual, updated)]


def _mix(layer: UpdateGateLSTM) -> dict[str, Tensor]:
    return {"mix": layer.mixing.sigmoid()}


CELLS: Mapping[type[RecurrentLayer], Cell] = {
    LSTM: Cell((0, 1, 3, 2), _lstm),
    MogrifierLSTM: Cell((0, 1, 3, 2), _lstm, rounds=MogrifierLSTM.round_products),
    GRU: Cell((0, 1, 2), _gru, adds_up=False),
    TanhRNN: Cell((0,), _rnn),
    UpdateGateLSTM: Cell((0, 1, 3, 4, 2, 5), _update_gate_lstm, extras=_mix),
}
