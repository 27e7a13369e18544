"""Texts that are never written: which tokens must not come next, wherever the borders between tokens fall."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from textgen.errors import InvalidSetting
from textgen.text.tokenizer import Tokenizer, utf8

TokenIds = NDArray[np.int64]

# No UTF-8 holds this byte, so no banned text is found across it.
_BORDER = b"\xff"
# Sets of forbidden tokens to remember; each belongs to a beginning of a banned text, and few of those come up.
_REMEMBERED = 64


class PieceIndex:
    """The bytes of a vocabulary's pieces in order, to find tokens by what they begin with or contain.

    Made once for a tokenizer: it takes some milliseconds for ten thousand pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = [(tokenizer.piece_bytes(token_id), token_id) for token_id in range(tokenizer.vocab_size)]
        filled = sorted((piece, token_id) for piece, token_id in pieces if piece)
        self._pieces = [piece for piece, _ in filled]
        self._ids: TokenIds = np.array([token_id for _, token_id in filled], dtype=np.int64)
        self._joined = b"".join(self._pieces)
        self._ends = list(accumulate(map(len, self._pieces)))

    def starting_with(self, text: bytes) -> TokenIds:
        """The ids of the pieces that begin with `text`, a part of some UTF-8, not empty."""
        after = text[:-1] + bytes([text[-1] + 1])  # UTF-8 has no byte 255
        return self._ids[bisect_left(self._pieces, text) : bisect_left(self._pieces, after)]

    def containing(self, text: bytes) -> TokenIds:
        """The ids of the pieces that contain `text`, not empty."""
        places = []
        found = self._joined.find(text)
        while found >= 0:
            place = bisect_right(self._ends, found)
            inside = found + len(text) <= self._ends[place]
            if inside:
                places.append(place)
            found = self._joined.find(text, self._ends[place] if inside else found + 1)
        return self._ids[places]


class BannedStrings:
    """Says which tokens must not come next, since with them the text would contain one of `texts`.

    Exact in both directions: while it is obeyed no banned text ends within the new text, and no other token is
    forbidden. One that begins in `prompt` and would end in the new text counts; one that stands in the prompt as a
    whole does not. Texts are compared byte by byte in UTF-8, so it makes no difference how they are cut into tokens; a
    U+FFFD that stands for broken bytes is not seen. Its answer depends on its argument alone: one serves all samples
    and beams of a request, from any thread.

    The beginnings of the texts form the automaton of Aho & Corasick 1975, whose state is the longest beginning that
    the text so far ends with. It needs few of the last tokens: reading backwards ends where the bytes read occur in no
    banned text.

    Raises `InvalidSetting` for an empty text, lone surrogates or more than `max_bytes` in all.
    """

    max_bytes = 4_096

    def __init__(
        self, texts: Sequence[str], tokenizer: Tokenizer, *, pieces: PieceIndex | None = None, prompt: str = ""
    ) -> None:
        self._banned = list(dict.fromkeys(map(utf8, texts)))
        if not all(self._banned):
            raise InvalidSetting("banned", "an empty text", "texts of at least one character")
        if sum(map(len, self._banned)) > self.max_bytes:
            given = f"{sum(map(len, self._banned))} bytes"
            raise InvalidSetting("banned", given, f"at most {self.max_bytes} bytes in all")
        self._tokenizer = tokenizer
        self._pieces = pieces or PieceIndex(tokenizer)
        self._joined = _BORDER.join(self._banned)
        # What a text ends with matters as far as a banned text may have begun in it.
        self._reach = max(map(len, self._banned), default=1) - 1
        self._prompt = utf8(prompt[-self._reach :]) if self._reach else b""
        self._build_states()
        self._always = _union(self._pieces.containing(banned) for banned in self._banned)
        self._known: dict[int, Sequence[int]] = {}

    def __call__(self, new_ids: Sequence[int]) -> Sequence[int]:
        """The token ids, rising and each once, that must not follow the prompt and `new_ids`: a read-only int64 buffer,
        which NumPy takes without a copy."""
        state = 0
        for byte in self._relevant_end(new_ids):
            state = self._step(state, byte)
        ids = self._known.get(state)
        if ids is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            ids = self._known[state] = self._find_ids(state)
        return ids

    def _relevant_end(self, new_ids: Sequence[int]) -> bytes:
        """The end of the text, long enough to hold every beginning of a banned text that it ends with."""
        pieces: list[bytes] = []
        size = looked_up = 0
        for token_id in reversed(new_ids):
            if size >= self._reach:
                break
            pieces.append(self._tokenizer.piece_bytes(token_id))
            size += len(pieces[-1])
            if size > 2 * looked_up:  # each time it has doubled, so that long ends cost no more than their length
                end = b"".join(reversed(pieces))
                if end not in self._joined:
                    return end
                looked_up = size
        return b"".join([self._prompt, *reversed(pieces)])[-self._reach :]

    def _step(self, state: int, byte: int) -> int:
        while state and byte not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(byte, 0)

    def _build_states(self) -> None:
        """State 0 is the empty beginning; `_shorter` has each state's longest proper ending that is a state."""
        self._next: list[dict[int, int]] = [{}]
        self._shorter = [0]
        self._length = [0]
        self._beginning: list[list[bytes]] = [[]]  # by state: the banned texts that begin with it
        # By rising length, since a state's `_shorter` must be known before its own followers are made.
        states = [0] * len(self._banned)
        for size in range(max(map(len, self._banned), default=0)):
            for number, banned in enumerate(self._banned):
                if size < len(banned):
                    states[number] = self._follow(states[number], banned[size])
                    self._beginning[states[number]].append(banned)

    def _follow(self, state: int, byte: int) -> int:
        """The state after `byte` in `state`, made if there is none."""
        if byte not in self._next[state]:
            self._shorter.append(self._step(self._shorter[state], byte) if state else 0)
            self._next[state][byte] = len(self._next)
            self._next.append({})
            self._length.append(self._length[state] + 1)
            self._beginning.append([])
        return self._next[state][byte]

    def _find_ids(self, state: int) -> Sequence[int]:
        found = [self._always]
        while state:
            length = self._length[state]
            rests = (banned[length:] for banned in self._beginning[state])
            found += [self._pieces.starting_with(rest) for rest in rests if rest]
            state = self._shorter[state]
        ids = _union(found)
        ids.flags.writeable = False
        return ids.data


def _union(sets: Iterable[TokenIds]) -> TokenIds:
    """Rising, each id once."""
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *sets]))
