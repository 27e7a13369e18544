"""Stop strings: where one appears the text ends before it, also when it straddles tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textgen.text.tokenizer import Tokenizer


class StopStrings:
    """A set of texts that end a generated text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)

    def trim(self, text: str) -> str:
        """`text` up to where the first stop string begins."""
        found = [position for stop in self.texts if (position := text.find(stop)) >= 0]
        return text[: min(found)] if found else text

    def condition(self, tokenizer: Tokenizer) -> Callable[[Sequence[int]], bool]:
        """A function of the token ids so far that is true once they contain a stop string.

        It expects to be asked after every token, so a match can only end in the last piece and only the tail is read.
        """
        needles = [text.encode() for text in self.texts]
        longest = max(map(len, needles), default=0)

        def stopped(token_ids: Sequence[int]) -> bool:
            tail, needed = b"", longest
            for position in range(len(token_ids) - 1, -1, -1):
                piece = tokenizer.piece_bytes(token_ids[position])
                needed += len(piece) if position == len(token_ids) - 1 else 0
                tail = piece + tail
                if len(tail) >= needed:
                    break
            return any(needle in tail for needle in needles)

        return stopped

    def holdback(self) -> Holdback:
        return Holdback(self)


class Holdback:
    """Streams text but keeps back what may turn out to be the beginning of a stop string."""

    def __init__(self, stop: StopStrings) -> None:
        self._stop = stop
        self._kept = ""
        self._ended = False

    def push(self, text: str) -> str:
        """Takes new text and returns what is safe to show."""
        if self._ended:
            return ""
        self._kept += text
        trimmed = self._stop.trim(self._kept)
        if trimmed != self._kept:
            self._ended = True
            return trimmed
        keep = max((_overlap(self._kept, stop) for stop in self._stop.texts), default=0)
        shown, self._kept = self._kept[: len(self._kept) - keep], self._kept[len(self._kept) - keep :]
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
