"""PyTorch on a GPU: half precision, rows in a few fixed numbers, and whole steps in CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from textgen.engine.backends import Drawn, Draws, Slots, StateVector
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.device_graphs import Launcher, Work, to_device, to_host
from textgen.engine.device_model import DeviceModel
from textgen.engine.device_sampler import RowSettings, draw
from textgen.model.fingerprint import fingerprint
from textgen.model.language_model import LanguageModel

# Texts are read in pieces of these many tokens; the last is padded.
_LONG, _SHORT = 64, 16
# What drawing is told of a row: slot, token, top-k; temperature, top-p, min-p, and a number for each step.
_DRAW_FIELDS = 6

_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class DeviceBackend:
    """Weights and matrix products in `dtype`, state and everything else in fp32.

    Rows run in buckets of 1, 2, 4, 8 … of them, the rest being padding: on CUDA each kind of call is captured as a
    graph once for each bucket, and then started as a whole. Rows are not exact: the kernels that multiply, and with
    them the order of a sum, are chosen by the size of the bucket, so a row's last bits depend on that, though not on
    what stands in the other rows. Other devices run the same functions without graphs.

    `model` is copied and stays as it is. `dtype`: None for the `best_dtype`. Where graphs cannot be captured, it goes
    without them, and the `note` says why.
    """

    exact_rows = False
    batched = True

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        *,
        use_graphs: bool = True,
    ) -> None:
        self._device = torch.device(device)
        if self._device == torch.device("cuda"):  # whichever is current, which differs between threads
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._model = DeviceModel(model, self._device, dtype or best_dtype(self._device))
        self._hash = fingerprint(model)
        self._note: str | None = None
        self._use_graphs = use_graphs and self._device.type == "cuda"
        if self._use_graphs:
            self._try_graphs()

    @property
    def name(self) -> str:
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type
        return f"PyTorch {_FORMATS[self._model.dtype]} on {where}{', CUDA graphs' if self._use_graphs else ''}"

    @property
    def note(self) -> str | None:
        return self._note

    @property
    def size_bytes(self) -> int:
        return self._model.size_bytes

    @property
    def model_hash(self) -> str:
        return self._hash

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def state_size(self) -> int:
        return self._model.state_size

    def open_pool(self, capacity: int) -> DevicePool:
        # Drawing is done in float64, which Apple's GPUs have not.
        kind = DevicePool if self._device.type == "mps" else DrawingDevicePool
        return kind(self._model, self._device, capacity, use_graphs=self._use_graphs)

    def _try_graphs(self) -> None:
        try:
            self.open_pool(1).step(np.array([0]), np.array([0]))
        except RuntimeError as error:
            self._use_graphs = False
            self._note = f"it captures no CUDA graphs: {error}"


def best_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU that has it, else fp16; fp32 on Apple's, where nobody has checked the others, and on processors."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class DevicePool:
    """Rows of state in one fp32 tensor [capacity + 1, state_size] on the device; the last one is the padding's."""

    def __init__(self, model: DeviceModel, device: torch.device, capacity: int, *, use_graphs: bool) -> None:
        self._model = model
        self._device = device
        self._launcher = Launcher(device, use_graphs=use_graphs)
        self._packed = torch.zeros(capacity + 1, model.state_size, device=device)
        self._places: dict[tuple[int, int], Tensor] = {}

    @property
    def capacity(self) -> int:
        return self._packed.shape[0] - 1

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        added = max(0, capacity - self.capacity)
        self._launcher.forget()  # its graphs know the place of the old tensor
        present = self._packed[:-1]
        self._packed = torch.cat([present, present.new_zeros(added + 1, present.shape[1])])

    @torch.inference_mode()
    def reset(self, slots: Slots) -> None:
        self._packed.index_fill_(0, self._index(slots), 0.0)

    @torch.inference_mode()
    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        inputs, values = self._inputs(2, slots)
        values[1, : slots.size] = token_ids

        def work() -> Tensor:
            where, following = inputs
            outputs, after = self._model.step(following, self._packed.index_select(0, where))
            self._packed.index_copy_(0, where, after)
            return self._model.logits(outputs)

        logits: Logits = to_host(self._run("step", work, inputs, values)[: slots.size])
        return logits

    @torch.inference_mode()
    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        lengths = np.array([ids.size for ids in token_ids])
        start = 0
        while start < lengths.max():
            time = _piece(lengths.max() - start)
            self._read(slots, [ids[start : start + time] for ids in token_ids], time)
            start += time

    @torch.inference_mode()
    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        logits: list[Logits] = []
        start = 0
        while start < token_ids.size:
            time = _piece(token_ids.size - start)
            piece = token_ids[start : start + time]
            outputs = self._read(np.array([slot]), [piece], time)  # [time, 1, hidden]
            logits.append(to_host(self._model.logits(outputs[: piece.size, 0])))
            start += time
        return np.concatenate(logits)

    @torch.inference_mode()
    def copy(self, sources: Slots, targets: Slots) -> None:
        self._packed.index_copy_(0, self._index(targets), self._packed.index_select(0, self._index(sources)))

    @torch.inference_mode()
    def get(self, slot: int) -> StateVector:
        vector: StateVector = to_host(self._packed[slot])
        return vector

    @torch.inference_mode()
    def put(self, slot: int, vector: StateVector) -> None:
        to_device(self._packed[slot], vector.copy())  # PyTorch warns of arrays that are read-only

    def _read(self, slots: Slots, token_ids: Sequence[TokenIds], time: int) -> Tensor:
        """Up to `time` tokens for each slot, perhaps none; the last layer's outputs [time, bucket, hidden]."""
        inputs, values = self._inputs(2 + time, slots)
        for row, ids in enumerate(token_ids):
            values[1, row] = ids.size
            values[2 : 2 + ids.size, row] = ids

        def work() -> Tensor:
            where, lengths = inputs[0], inputs[1]
            outputs, after = self._model.read(inputs[2:], lengths, self._packed.index_select(0, where))
            self._packed.index_copy_(0, where, after)
            return outputs

        return self._run("read", work, inputs, values)

    def _inputs(self, fields: int, slots: Slots) -> tuple[Tensor, TokenIds]:
        """A tensor int64 [fields, bucket] that stays in its place, and what is to be put there: slots, then zeros."""
        bucket = _bucket(slots.size)
        place = self._places.get((fields, bucket))
        if place is None:
            place = torch.zeros(fields, bucket, dtype=torch.int64, device=self._device)
            self._places[fields, bucket] = place
        values = np.zeros((fields, bucket), dtype=np.int64)
        values[0] = self.capacity
        values[0, : slots.size] = slots
        return place, values

    def _run(self, name: str, work: Work, inputs: Tensor, values: TokenIds) -> Tensor:
        def idle() -> None:
            inputs.zero_()
            inputs[0].fill_(self.capacity)

        return self._launcher.run((name, *inputs.shape), work, idle=idle, load=lambda: to_device(inputs, values))

    def _index(self, slots: Slots) -> Tensor:
        return torch.from_numpy(np.asarray(slots, dtype=np.int64)).to(self._device)


class DrawingDevicePool(DevicePool):
    """A pool that draws tokens too: see `DrawingPool`. What a slot must not write stays on the device."""

    max_steps = 8

    def __init__(self, model: DeviceModel, device: torch.device, capacity: int, *, use_graphs: bool) -> None:
        super().__init__(model, device, capacity, use_graphs=use_graphs)
        self._banned = torch.zeros(0, model.vocab_size, dtype=torch.bool, device=device)  # made when first needed
        self._banned_ids: dict[int, frozenset[int]] = {}

    @torch.inference_mode()
    def step_and_draw(self, slots: Slots, token_ids: TokenIds, draws: Draws) -> Drawn:
        self._ban(slots, draws.forbidden)
        rows, steps = draws.uniforms.shape
        inputs, values = self._inputs(_DRAW_FIELDS + steps, slots)
        values[1, :rows] = token_ids
        values[2, :rows] = draws.top_k
        values[3:, :rows].view(np.float64)[:] = [draws.temperature, draws.top_p, draws.min_p, *draws.uniforms.T]
        sampled = bool((draws.temperature > 0.0).any())

        def work() -> Tensor:
            return self._draw(inputs, sampled=sampled)

        drawn = to_host(self._run("sample" if sampled else "greedy", work, inputs, values))  # [steps, 3, bucket]
        found, logprobs, warped = drawn[:, :, :rows].transpose(1, 2, 0)
        return Drawn(found.astype(np.int64), logprobs, warped)

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        super().grow(capacity)
        if self._banned.shape[0]:
            added = self.capacity + 1 - self._banned.shape[0]
            self._banned = torch.cat([self._banned, self._banned.new_zeros(added, self._banned.shape[1])])

    def _draw(self, inputs: Tensor, *, sampled: bool) -> Tensor:
        """Token ids, log-probabilities and warped ones of each step, float64 [steps, 3, bucket]."""
        where, token_ids, top_k = inputs[:3]
        temperature, top_p, min_p, *uniforms = inputs[3:].view(torch.float64).unbind(0)
        settings = RowSettings(sampled, top_k, temperature, top_p, min_p, self._banned.index_select(0, where))
        state = self._packed.index_select(0, where)
        steps: list[Tensor] = []
        for uniform in uniforms:
            outputs, state = self._model.step(token_ids, state)
            token_ids, logprobs, warped = draw(self._model.logits(outputs), settings, uniform)
            steps.append(torch.stack([token_ids.double(), logprobs, warped]))
        self._packed.index_copy_(0, where, state)
        return torch.stack(steps)

    def _ban(self, slots: Slots, forbidden: Sequence[frozenset[int]]) -> None:
        """Makes the rows of `slots` forbid these ids, those of other slots staying as they are."""
        if not self._banned.shape[0]:
            self._banned = self._banned.new_zeros(self.capacity + 1, self._banned.shape[1])
        for slot, ids in zip(slots.tolist(), forbidden, strict=True):
            known = self._banned_ids.get(slot, frozenset())
            if known is not ids and known != ids:
                row = np.zeros(self._banned.shape[1], dtype=np.bool_)
                row[list(ids)] = True
                to_device(self._banned[slot], row)
            self._banned_ids[slot] = ids


def _bucket(rows: int) -> int:
    """The least power of two that holds so many rows."""
    return 1 << max(0, rows - 1).bit_length()


def _piece(tokens: int) -> int:
    return _LONG if tokens >= _LONG else _SHORT
