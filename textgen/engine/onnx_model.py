"""The graphs of a model, built once and kept in a cache folder under the hash of what they were built from."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from textgen.errors import BackendUnavailable, CannotWrite
from textgen.files import write_atomically
from textgen.model.fingerprint import fingerprint
from textgen.model.language_model import LanguageModel

# Part of every name in the cache: to be raised when graphs of the same model come out differently.
_VERSION = 1
_GRAPHS = ("step", "prefill", "head")
_SUFFIX = ".graphs"
_LARGEST_FP16 = 65_504


@dataclass(frozen=True)
class OnnxModel:
    """Serialised graphs (see `GraphBuilder`) and the first layer's table `gates` [vocab, channels] in fp16."""

    model_hash: str
    state_size: int
    step: bytes
    prefill: bytes
    head: bytes
    gates: NDArray[np.float16]

    @property
    def vocab_size(self) -> int:
        return int(self.gates.shape[0])

    @property
    def size_bytes(self) -> int:
        return len(self.step) + len(self.prefill) + len(self.head) + self.gates.nbytes

    def to_bytes(self) -> bytes:
        tensors: dict[str, NDArray[np.generic]] = {
            name: np.frombuffer(getattr(self, name), dtype=np.uint8) for name in _GRAPHS
        }
        tensors["gates"] = self.gates
        tensors["state_size"] = np.array([self.state_size], dtype=np.int64)
        return safetensors.numpy.save(tensors, metadata={"sha256": _digest(tensors)})

    @staticmethod
    def from_bytes(data: bytes, model_hash: str) -> OnnxModel | None:
        """What `to_bytes` wrote; None if it is damaged."""
        try:
            tensors = dict(safetensors.numpy.load(data))
            header = int.from_bytes(data[:8], "little")
            if _digest(tensors).encode() not in data[8 : 8 + header]:
                return None
            step, prefill, head = (tensors[name].tobytes() for name in _GRAPHS)
            return OnnxModel(model_hash, int(tensors["state_size"][0]), step, prefill, head, tensors["gates"])
        except (safetensors.SafetensorError, KeyError):
            return None


def build_onnx_model(model: LanguageModel) -> OnnxModel:
    """Builds the graphs; `BackendUnavailable` when the model does not suit them or onnx is not installed."""
    try:
        # Not needed where the graphs are in the cache.
        from textgen.engine.onnx_graph import GraphBuilder
    except ImportError as error:
        raise BackendUnavailable("onnx", f"{error.name} is not installed") from None

    builder = GraphBuilder(model)
    gates = builder.input_gates()
    if np.abs(gates).max() > _LARGEST_FP16:
        raise BackendUnavailable("onnx", "the first layer's weights are too large for it")
    return OnnxModel(
        fingerprint(model),
        builder.state_size,
        builder.step().SerializeToString(),
        builder.prefill().SerializeToString(),
        builder.head().SerializeToString(),
        gates.astype(np.float16),
    )


def cached_onnx_model(model: LanguageModel, folder: Path | None, *, max_bytes: int = 4_000_000_000) -> OnnxModel:
    """The graphs of `model` from the cache, or built and put there; without a cache where none can be written.

    The least recently used are removed when the cache outgrows `max_bytes`. Raises `BackendUnavailable`.
    """
    if folder is None:
        return build_onnx_model(model)
    model_hash = fingerprint(model)
    path = folder / f"{model_hash}-{_VERSION}{_SUFFIX}"
    try:
        found = OnnxModel.from_bytes(path.read_bytes(), model_hash)
    except OSError:
        found = None
    if found is not None:
        with suppress(OSError):  # the cache may be somebody else's, to be read only
            os.utime(path)
        return found
    built = build_onnx_model(model)
    try:
        write_atomically(path, built.to_bytes())
        _prune(folder, max_bytes)
    except (CannotWrite, OSError):
        return built  # a full or read-only disk costs time at the next start, nothing else
    return built


def _prune(folder: Path, max_bytes: int) -> None:
    files = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for place, path in enumerate(files):
        total += path.stat().st_size
        if total > max_bytes and place:
            path.unlink(missing_ok=True)


def _digest(tensors: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
