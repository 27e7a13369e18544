"""How a graph holds its weights and multiplies by them: in 8 bits, exact to the bit, or in fp32."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from textgen.engine.onnx_cells import Graph

Array = NDArray[np.float32]

# Processors without VNNI add two products of uint8 and int8 in 16 bits, and 2 · 180 · 91 is the largest sum that fits
# with about as many levels on both sides. So every processor gives the same sums, and none has to go a slower way.
_WEIGHT_LEVELS = 91  # weights lie in [-91, 91]
_LEVELS = 90  # what they are multiplied with in [0, 180]
_ZERO = 90  # what stands for zero there
_SMALLEST = 1e-30  # stands in for a largest magnitude of zero


class Factor(NamedTuple):
    """Names of values [..., width] and, where they are levels, of what the highest stands for in each row [..., 1]."""

    values: str
    largest: str = ""


class Products(Protocol):
    """Writes products with weights [channels, width] into a graph, where each weight has a name of its own."""

    def factor(self, graph: Graph, values: str) -> Factor:
        """`values` [..., width] as `product` wants them."""
        ...

    def product(self, graph: Graph, name: str, factor: Factor, weight: Array, bias: Array | None) -> str:
        """The weight times a factor [..., width], plus bias: [..., channels]."""
        ...

    def rows(self, graph: Graph, name: str, weight: Array, ids: str) -> str:
        """The weight's rows at `ids` [...]: [..., width]. It is kept once if `product` has one of that name."""
        ...


class Int8Products:
    """Weights are 8-bit integers with a scale for each channel, factors are 8-bit with a scale for each row."""

    def factor(self, graph: Graph, values: str) -> Factor:
        axis = graph.constant("last_axis", np.array([-1], dtype=np.int64))
        largest = graph.add("ReduceMax", graph.add("Abs", values), axis, keepdims=1)  # [..., 1]
        largest = graph.add("Max", largest, graph.constant("smallest", np.float32(_SMALLEST)))
        share, zero = graph.constant("share", np.float32(1 / _LEVELS)), graph.constant("zero_point", np.uint8(_ZERO))
        return Factor(graph.add("QuantizeLinear", graph.add("Div", values, largest), share, zero), largest)

    def product(self, graph: Graph, name: str, factor: Factor, weight: Array, bias: Array | None) -> str:
        levels, size = self._constants(graph, name, weight)
        zero = graph.constant("zero_point", np.uint8(_ZERO))
        # MatMulIntegerToFloat would do the next three at once, but takes half as long again for a single row.
        sums = graph.add("MatMulInteger", factor.values, levels, zero)
        product = graph.add("Mul", graph.add("Cast", sums, to=TensorProto.FLOAT), size)
        product = graph.add("Mul", product, factor.largest)
        return product if bias is None else graph.add("Add", product, graph.constant(f"{name}_bias", bias))

    def rows(self, graph: Graph, name: str, weight: Array, ids: str) -> str:
        levels, size = self._constants(graph, name, weight)
        axis = graph.constant("last_axis", np.array([-1], dtype=np.int64))
        sizes = graph.add("Unsqueeze", graph.add("Gather", size, ids), axis)  # [..., 1]
        found = graph.add("Mul", graph.add("Cast", _columns(graph, levels, ids), to=TensorProto.FLOAT), sizes)
        return graph.add("Mul", found, graph.constant("levels", np.float32(_LEVELS)))

    def _constants(self, graph: Graph, name: str, weight: Array) -> tuple[str, str]:
        """The weight's levels [width, channels] and what a product of levels stands for in each channel."""
        level = np.maximum(np.abs(weight).max(axis=1) / np.float32(_WEIGHT_LEVELS), np.float32(_SMALLEST))  # [channels]
        with np.errstate(invalid="ignore"):  # a broken model's NaN stays in `level` and comes back with it
            levels = np.rint(weight / level[:, None]).astype(np.int8)
        sizes = graph.constant(f"{name}_level", level / np.float32(_LEVELS))
        return graph.constant(f"{name}_weight", levels.T), sizes


class Fp32Products:
    """Everything as it is."""

    def factor(self, graph: Graph, values: str) -> Factor:  # noqa: ARG002
        return Factor(values)

    def product(self, graph: Graph, name: str, factor: Factor, weight: Array, bias: Array | None) -> str:
        product = graph.add("MatMul", factor.values, graph.constant(f"{name}_weight", weight.T))
        return product if bias is None else graph.add("Add", product, graph.constant(f"{name}_bias", bias))

    def rows(self, graph: Graph, name: str, weight: Array, ids: str) -> str:
        return _columns(graph, graph.constant(f"{name}_weight", weight.T), ids)


def _columns(graph: Graph, weight: str, ids: str) -> str:
    """The columns of `weight` [width, channels] at `ids` [time, rows]: [time, rows, width]."""
    return graph.add("Transpose", graph.add("Gather", weight, ids, axis=1), perm=[1, 2, 0])
