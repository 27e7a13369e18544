"""Recurrent states by the text that led to them, so that a text that grows costs only its new tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from textgen.engine.backends import StateVector

TokenSequence = Sequence[int] | NDArray[np.integer]

_TOKEN = np.dtype(np.uint32)
# What Python spends on a node beside its label's tokens and its state's numbers: objects, a table of children.
_NODE_BYTES = 800


@dataclass(eq=False)
class _Node:
    """`label`, the bytes of the token ids on the edge that leads here, is empty at the root only.

    Every node but the root has a state or at least two children; so the tree depends on the stored texts alone.
    """

    label: bytes
    parent: _Node | None
    state: StateVector | None = None
    children: dict[bytes, _Node] = field(default_factory=dict)


class PrefixCache:
    """A radix tree of token ids with states at its nodes (Morrison 1968, PATRICIA), least recently used dropped first.

    It holds at most `max_bytes`, counting states, labels and nodes. A look-up takes time proportional to its tokens,
    however many texts are stored. Not thread-safe: it belongs to the thread that runs the model.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._root = _Node(b"", None)
        self._recent: OrderedDict[_Node, None] = OrderedDict()  # the nodes with a state, least recently used first
        self._bytes = 0

    def __len__(self) -> int:
        """States stored."""
        return len(self._recent)

    @property
    def nbytes(self) -> int:
        """Bytes held, as counted against `max_bytes`."""
        return self._bytes

    def insert(self, token_ids: TokenSequence, state: StateVector) -> None:
        """Stores a copy of `state` [state_size], which reading `token_ids` led to, in place of an earlier one.

        A text too large for the whole cache is not stored and drives nothing out.
        """
        key = _key(token_ids)
        if state.nbytes + len(key) + _NODE_BYTES > self.max_bytes:
            return
        node = self._node_at(key)
        self._bytes += state.nbytes - (0 if node.state is None else node.state.nbytes)
        node.state = state.copy()
        node.state.flags.writeable = False
        self._recent[node] = None
        self._recent.move_to_end(node)
        while self._bytes > self.max_bytes:
            self._drop_oldest()

    def longest_prefix(self, token_ids: TokenSequence) -> tuple[int, StateVector] | None:
        """The longest stored text that `token_ids` begins with: its length in tokens and its state, read-only."""
        key = _key(token_ids)
        found, found_end = self._root, 0
        node, end = self._root, 0
        while (child := node.children.get(key[end : end + _TOKEN.itemsize])) and key.startswith(child.label, end):
            node, end = child, end + len(child.label)
            if node.state is not None:
                found, found_end = node, end
        if found.state is None:
            return None
        self._recent.move_to_end(found)
        return found_end // _TOKEN.itemsize, found.state

    def _node_at(self, key: bytes) -> _Node:
        """The node of that text, made if there is none."""
        node, end = self._root, 0
        while end < len(key):
            child = node.children.get(key[end : end + _TOKEN.itemsize])
            if child is None:
                child = self._attach(_Node(key[end:], None), node)
                self._bytes += _NODE_BYTES + len(child.label)
            elif not key.startswith(child.label, end):
                child = self._split(child, _common_bytes(child.label, key[end:]))
            node, end = child, end + len(child.label)
        return node

    def _split(self, node: _Node, size: int) -> _Node:
        """A new node in the middle of the edge to `node`, after `size` bytes of its label."""
        assert node.parent is not None
        middle = self._attach(_Node(node.label[:size], None), node.parent)
        node.label = node.label[size:]
        self._attach(node, middle)
        self._bytes += _NODE_BYTES
        return middle

    def _drop_oldest(self) -> None:
        node, _ = self._recent.popitem(last=False)
        assert node.state is not None
        self._bytes -= node.state.nbytes
        node.state = None
        parent = node.parent
        if parent is not None and not node.children:
            del parent.children[node.label[: _TOKEN.itemsize]]
            self._bytes -= _NODE_BYTES + len(node.label)
            node = parent
        self._merge(node)

    def _merge(self, node: _Node) -> None:
        """Takes `node` out when it is nothing but a place on the way to a single other one."""
        if node.parent is None or node.state is not None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        child.label = node.label + child.label
        self._attach(child, node.parent)
        self._bytes -= _NODE_BYTES

    @staticmethod
    def _attach(node: _Node, parent: _Node) -> _Node:
        node.parent = parent
        parent.children[node.label[: _TOKEN.itemsize]] = node
        return node


def _key(token_ids: TokenSequence) -> bytes:
    return np.asarray(token_ids, dtype=_TOKEN).tobytes()


def _common_bytes(one: bytes, other: bytes) -> int:
    """Bytes of the whole tokens that both begin with."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(np.frombuffer(one[:size], _TOKEN) != np.frombuffer(other[:size], _TOKEN))
    return int(differ[0]) * _TOKEN.itemsize if differ.size else size
