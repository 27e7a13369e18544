"""How well a vocabulary fits a text that it was not made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textgen.text.importing.sink import clean
from textgen.text.scripts import script_counts

if TYPE_CHECKING:
    from textgen.text.tokenizer import Tokenizer

_SAMPLE_CHARS = 1 << 18
_TEXT_CHARS = 1 << 15
_MOST = 0.5
_MOST_FALLBACK = 0.02


@dataclass(frozen=True)
class VocabularyFit:
    """What a vocabulary makes of a sample of `characters` characters.

    `byte_fallback_share` is the share of the characters that have no piece and are spelled in bytes; `unknown_scripts`
    are those with more than half of their letters spelled so, most frequent first.
    """

    tokens: int
    characters: int
    byte_fallback_share: float
    tokens_per_character: float
    unknown_scripts: tuple[str, ...]

    @property
    def suits(self) -> bool:
        """Whether nearly all of the text has pieces."""
        return self.characters > 0 and not self.unknown_scripts and self.byte_fallback_share < _MOST_FALLBACK


def vocabulary_fit(tokenizer: Tokenizer, texts: Iterable[str]) -> VocabularyFit:
    """Looks at the beginnings of `texts`: at most 32,768 characters of each and 262,144 in all; reads no further.

    Of a long text give passages from all over. Without a character all figures are 0.
    """
    every: Counter[str] = Counter()
    spelled: Counter[str] = Counter()
    tokens = characters = 0
    for text in texts:
        passage = clean(text[: min(_TEXT_CHARS, _SAMPLE_CHARS - characters)])
        ids = tokenizer.encode(passage)
        tokens += len(ids)
        characters += len(passage)
        every.update(passage)
        spelled.update(_spelled(tokenizer, ids))
        if characters >= _SAMPLE_CHARS:
            break
    known, unknown = script_counts(every), script_counts(spelled)
    return VocabularyFit(
        tokens=tokens,
        characters=characters,
        byte_fallback_share=spelled.total() / max(1, characters),
        tokens_per_character=tokens / max(1, characters),
        unknown_scripts=tuple(script for script, count in known.most_common() if unknown[script] > _MOST * count),
    )


def _spelled(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The characters that the ids spell in bytes."""
    return b"".join(tokenizer.piece_bytes(number) for number in ids if tokenizer.is_byte(number)).decode(
        "utf-8", "replace"
    )
