"""A place in a text as a value: what was read so far and the state that reading it left behind."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from textgen.errors import InvalidSetting

FORMAT = "textgen-snapshot"
FORMAT_VERSION = 1
_LARGEST_ID = 2**32 - 1  # token ids are saved as uint32
_SHA256 = re.compile(r"[0-9a-f]{64}")
# One metadata entry: safetensors keeps several in no fixed order, and equal snapshots shall have equal bytes.
_MADE_BY = re.compile(rf"{FORMAT} version (?P<version>[0-9]+) (of model (?P<model>{_SHA256.pattern}))?")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The text so far and what a model remembers of it, to continue, to rewind to or to branch from.

    `model_hash` is the backend's: SHA-256 in hexadecimal. `token_ids` is all the text so far, at least one token.
    `state` [state_size] float32, in the layout of `StatePool.read`, is the state after all of them but the last: that
    one is still to be read, so that whoever continues gets the logits after it. `state` becomes a read-only copy.

    Raises `InvalidSetting` for values that no model can have left.
    """

    model_hash: str
    token_ids: tuple[int, ...]
    state: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.model_hash):
            raise InvalidSetting("model_hash", self.model_hash, "a SHA-256 of 64 hexadecimal digits")
        if not self.token_ids:
            raise InvalidSetting("token_ids", "none", "at least one token")
        for token_id in (min(self.token_ids), max(self.token_ids)):
            if not 0 <= token_id <= _LARGEST_ID:
                raise InvalidSetting("token_ids", token_id, f"0 to {_LARGEST_ID}")
        if self.state.dtype != np.float32 or self.state.ndim != 1 or not self.state.size:
            given = f"{self.state.dtype} {list(self.state.shape)}"
            raise InvalidSetting("state", given, "a vector of float32 numbers")
        if not np.isfinite(self.state).all():
            raise InvalidSetting("state", "values that are no finite numbers", "finite numbers")
        # A view would keep the whole pool that it was cut from in memory, and change with it.
        state = self.state.copy()
        state.flags.writeable = False
        object.__setattr__(self, "state", state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (
            self.model_hash == other.model_hash
            and self.token_ids == other.token_ids
            and self.state.tobytes() == other.state.tobytes()
        )

    def __hash__(self) -> int:
        return hash((self.model_hash, self.token_ids))

    def check(self, *, model_hash: str, state_size: int, vocab_size: int) -> None:
        """Raises `InvalidSetting` unless this is of the model with that hash, size of state and vocabulary."""
        if self.model_hash != model_hash:
            of, this = self.model_hash[:12], model_hash[:12]
            raise InvalidSetting("snapshot", f"one of model {of}…", f"snapshots of the model in use, {this}…")
        if self.state.size != state_size:
            raise InvalidSetting("snapshot", f"a state of {self.state.size} numbers", f"{state_size} numbers")
        if max(self.token_ids) >= vocab_size:
            raise InvalidSetting("snapshot", f"token {max(self.token_ids)}", f"token ids from 0 to {vocab_size - 1}")

    def to_bytes(self) -> bytes:
        """The snapshot as safetensors bytes; equal snapshots have equal bytes."""
        tensors = {"state": self.state, "token_ids": np.array(self.token_ids, dtype=np.uint32)}
        return safetensors.numpy.save(tensors, metadata={"made_by": self._made_by()})

    @staticmethod
    def from_bytes(data: bytes) -> Snapshot:
        """Reads what `to_bytes` made; raises `InvalidSetting` naming the field for anything else."""
        try:
            tensors = safetensors.numpy.load(data)
            # The reader has checked the header but does not hand out its metadata.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidSetting("snapshot", f"{len(data)} bytes", f"bytes of a saved snapshot ({error})") from None
        made_by = (header.get("__metadata__") or {}).get("made_by", "")
        model_hash = _model_hash(made_by)
        if set(tensors) != {"state", "token_ids"}:
            raise InvalidSetting("snapshot", f"tensors {sorted(tensors)}", "the tensors state and token_ids")
        token_ids = tensors["token_ids"]
        if token_ids.dtype != np.uint32 or token_ids.ndim != 1:
            given = f"{token_ids.dtype} {list(token_ids.shape)}"
            raise InvalidSetting("token_ids", given, "a vector of uint32 numbers")
        snapshot = Snapshot(model_hash, tuple(token_ids.tolist()), tensors["state"])
        if snapshot._made_by() != made_by:
            raise InvalidSetting("made_by", made_by, "the checksum of the content, which has been changed")
        return snapshot

    def _made_by(self) -> str:
        content = hashlib.sha256(self.model_hash.encode())
        content.update(np.array(self.token_ids, dtype="<u4").tobytes())
        content.update(self.state.astype("<f4").tobytes())
        return f"{FORMAT} version {FORMAT_VERSION} of model {self.model_hash}, content {content.hexdigest()}"


def _model_hash(made_by: str) -> str:
    match = _MADE_BY.match(made_by)
    if match is None:
        raise InvalidSetting("made_by", made_by, f"“{FORMAT} version {FORMAT_VERSION} of model …”")
    if match["version"] != str(FORMAT_VERSION):
        raise InvalidSetting("format version", match["version"], f"{FORMAT_VERSION}, which this program reads")
    return match["model"] or ""
