"""ONNX Runtime with 8-bit weights: the fast way on a processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from textgen.engine.backends import Slots, StateVector
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.onnx_model import OnnxModel

_STEP_OUTPUTS = ("logits", "next_state")
_PREFILL_OUTPUTS = ("hidden", "next_state")
_HEAD_OUTPUTS = ("logits",)


class OnnxBackend:
    """Runs an `OnnxModel` on `threads` threads. Rows are exact: see `onnx_graph`."""

    exact_rows = True
    batched = True
    note = None

    def __init__(self, model: OnnxModel, *, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._step = _session(model.step, threads)
        self._prefill = _session(model.prefill, threads)
        self._head = _session(model.head, threads)

    @property
    def name(self) -> str:
        return f"ONNX Runtime int8, {self._threads} thread{'' if self._threads == 1 else 's'}"

    @property
    def size_bytes(self) -> int:
        return self._model.size_bytes

    @property
    def model_hash(self) -> str:
        return self._model.model_hash

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def state_size(self) -> int:
        return self._model.state_size

    def open_pool(self, capacity: int) -> OnnxPool:
        return OnnxPool(self, capacity)

    def run_step(self, token_ids: TokenIds, state: StateVector) -> tuple[Logits, StateVector]:
        """token_ids [rows], state [rows, state_size] → logits [rows, vocab], the state after them."""
        gates = self._model.gates[token_ids].astype(np.float32)
        logits, after = self._step.run(_STEP_OUTPUTS, {"gates": gates, "state": state})
        return logits, after

    def run_prefill(
        self, token_ids: TokenIds, present: NDArray[np.bool_], state: StateVector
    ) -> tuple[NDArray[np.float32], StateVector]:
        """token_ids [time, rows], present [time, rows] → the last layer's outputs [time, rows, hidden], state."""
        gates = self._model.gates[token_ids].astype(np.float32)  # [time, rows, channels]
        inputs = {"gates": gates, "present": present[:, :, None], "state": state}
        hidden, after = self._prefill.run(_PREFILL_OUTPUTS, inputs)
        return hidden, after

    def run_head(self, hidden: NDArray[np.float32]) -> Logits:
        """hidden [rows, hidden_size] → logits [rows, vocab]."""
        (logits,) = self._head.run(_HEAD_OUTPUTS, {"hidden": hidden})
        result: Logits = logits
        return result


class OnnxPool:
    """Rows of state in one array [capacity or more, state_size].

    Systems give a program the memory of zeros only when they are written over, so room for more rows costs nothing till
    they are used, and growing into it copies nothing.
    """

    _least_rows = 1024

    def __init__(self, backend: OnnxBackend, capacity: int) -> None:
        self._backend = backend
        self._capacity = capacity
        self._rows = self._room(capacity)

    @property
    def capacity(self) -> int:
        return self._capacity

    def grow(self, capacity: int) -> None:
        if capacity > len(self._rows):
            before, self._rows = self._rows, self._room(capacity)
            self._rows[: self._capacity] = before[: self._capacity]
        self._capacity = max(capacity, self._capacity)

    def _room(self, rows: int) -> StateVector:
        return np.zeros((max(rows, self._least_rows), self._backend.state_size), dtype=np.float32)

    def reset(self, slots: Slots) -> None:
        self._rows[slots] = 0.0

    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        logits, self._rows[slots] = self._backend.run_step(token_ids, self._rows[slots])
        return logits

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        self._read(slots, token_ids)

    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        return self._backend.run_head(self._read(np.array([slot]), [token_ids])[:, 0])

    def copy(self, sources: Slots, targets: Slots) -> None:
        self._rows[targets] = self._rows[sources]

    def get(self, slot: int) -> StateVector:
        vector: StateVector = self._rows[slot].copy()
        return vector

    def put(self, slot: int, vector: StateVector) -> None:
        self._rows[slot] = vector

    def _read(self, slots: Slots, token_ids: Sequence[TokenIds]) -> NDArray[np.float32]:
        """Outputs of the last layer [time, rows, hidden]; rows that are shorter than the longest end in rubbish."""
        lengths = np.array([ids.size for ids in token_ids])
        padded = np.zeros((lengths.max(), lengths.size), dtype=np.int64)  # [time, rows]
        for row, ids in enumerate(token_ids):
            padded[: ids.size, row] = ids
        present = np.arange(lengths.max())[:, None] < lengths
        hidden, self._rows[slots] = self._backend.run_prefill(padded, present, self._rows[slots])
        return hidden


def _session(graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Else a session's threads spin on for some 60 ms after its last run and keep those of another off the cores. (One
    # pool for the process would do too, but then no library beside us could open a session of its own.)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
