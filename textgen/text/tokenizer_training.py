"""Training a SentencePiece vocabulary on a bounded sample of a text."""

from __future__ import annotations

import io
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sentencepiece

from textgen.errors import InvalidSetting, NoText
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPACE_MARK, SPECIAL_PIECES, UNK_ID, Tokenizer, utf8

TokenizerKind = Literal["unigram", "bpe", "char"]

# Four specials, the newline, 256 bytes; and a few pieces, without which nothing can be trained.
RESERVED_PIECES = len(SPECIAL_PIECES) + 1 + 256
MIN_VOCAB_SIZE = RESERVED_PIECES + 3
_MAX_SENTENCE_CHARS = 2048
# 4 MB give nearly as good a vocabulary as 10 MB in a third of the time (fairy tales: 0.7 % more tokens).
_MAX_SAMPLE_BYTES = 4_000_000
# SentencePiece keeps these for itself: its space, the end of a string, its marks for pieces that must not be crossed
# (tab) and for dropped characters. It would skip whole sentences for some of them.
_UNUSABLE = (SPACE_MARK, "\u0000", "\t", "\u2585")
# Sums of floats depend on how many threads share them: a fixed number makes the same text give the same vocabulary.
_THREADS = 2
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class TokenizerTraining:
    """A new vocabulary; `note` says in a sentence where it differs from what was asked."""

    tokenizer: Tokenizer
    asked_vocab_size: int
    note: str | None


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: TokenizerKind = "unigram",
    vocab_size: int = 1000,
    max_sample_bytes: int = _MAX_SAMPLE_BYTES,
    progress: ProgressCallback = ignore_progress,
    clock: Callable[[], float] = time.monotonic,
) -> TokenizerTraining:
    """Trains a vocabulary of up to `vocab_size` pieces on evenly spaced lines of `texts`, `max_sample_bytes` at most.

    Unigram: Kudo 2018 (https://arxiv.org/abs/1804.10959); bpe: Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909).
    Where the text does not support that many pieces the largest possible vocabulary is made. Characters too rare to
    fit are left to byte pieces. The same text gives the same vocabulary.

    Raises `InvalidSetting` when `vocab_size` is too small to hold anything, `NoText` when there is no text.
    """
    check_vocab_size(vocab_size)
    lines = _sample_lines(texts, max_sample_bytes, progress)
    if not lines:
        raise NoText("text for the vocabulary", "nothing", "one character")
    sentences = _without_rare_characters(lines, _character_room(kind, vocab_size))
    data = _in_thread(lambda: _train_largest(sentences, kind, vocab_size), progress, clock)
    tokenizer = Tokenizer.from_bytes(data)
    note = None
    if tokenizer.vocab_size < vocab_size:
        note = f"The text supports {tokenizer.vocab_size:,} pieces; {vocab_size:,} were asked for."
    return TokenizerTraining(tokenizer, vocab_size, note)


def check_vocab_size(vocab_size: int) -> None:
    """Raises `InvalidSetting` for a vocabulary too small to hold anything."""
    if vocab_size < MIN_VOCAB_SIZE:
        allowed = f"at least {MIN_VOCAB_SIZE} (256 bytes, the newline, four specials and a few pieces)"
        raise InvalidSetting("vocab_size", vocab_size, allowed)


def _sample_lines(texts: Iterable[str], max_bytes: int, progress: ProgressCallback) -> list[str]:
    """Every line of a small text; of a large one every second, fourth, … line, so that memory stays bounded."""
    kept: list[str] = []
    kept_bytes, stride, seen, characters = 0, 1, 0, 0
    for text in texts:
        characters += len(text)
        for line in _short_lines(text):
            if seen % stride == 0:
                kept.append(line)
                kept_bytes += len(utf8(line))
                if kept_bytes > max_bytes and len(kept) > 1:
                    kept = kept[::2]
                    stride *= 2
                    kept_bytes = sum(len(kept_line.encode()) for kept_line in kept)
            seen += 1
        progress(Progress("sampling", characters, unit="characters"))
    return kept


def _short_lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if len(line) <= _MAX_SENTENCE_CHARS:
            if line:
                yield line
        else:
            for start in range(0, len(line), _MAX_SENTENCE_CHARS):
                yield line[start : start + _MAX_SENTENCE_CHARS]
    if text and not text.strip("\n"):
        # Nothing but newlines, which no sentence contains.
        yield " "


def _character_room(kind: TokenizerKind, vocab_size: int) -> int:
    """How many single characters, the space among them, may become pieces; the rest is for longer ones."""
    room = vocab_size - RESERVED_PIECES
    return room if kind == "char" else max(2, int(0.8 * room))


def _without_rare_characters(lines: list[str], room: int) -> list[str]:
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    for unusable in _UNUSABLE:
        counts.pop(unusable, None)
    spaces = counts.pop(" ", 0)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[: room - 1]
    usable = {*frequent, " "}
    dropped = {ord(character): "\n" for line in lines for character in set(line) - usable}
    if dropped:
        lines = [part for line in lines for part in line.translate(dropped).split("\n") if part]
    # Without a piece of its own a space would be spelled as the bytes of U+2581 and come back as that.
    return lines if spaces else [*lines, " "]


def _train_largest(sentences: list[str], kind: TokenizerKind, vocab_size: int) -> bytes:
    while True:
        try:
            return _train(sentences, kind, vocab_size)
        except RuntimeError as error:  # noqa: PERF203
            # SentencePiece finds out while training how many pieces the text supports, and says so.
            found = re.search(r"<= (\d+)", str(error))
            if not found or int(found[1]) >= vocab_size:
                raise InvalidSetting("vocab_size", vocab_size, "a size that this text supports") from error
            vocab_size = int(found[1])


def _train(sentences: list[str], kind: TokenizerKind, vocab_size: int) -> bytes:
    model = io.BytesIO()
    options: dict[str, Any] = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": True,
        "byte_fallback": True,
        "character_coverage": 1.0,
        "user_defined_symbols": ["\n"],
        "max_sentence_length": 8 * _MAX_SENTENCE_CHARS,
        "seed_sentencepiece_size": max(40_000, 10 * vocab_size),
        "num_threads": _THREADS,
        "minloglevel": 4,
    }
    for name, number in (("unk", UNK_ID), ("bos", BOS_ID), ("eos", EOS_ID), ("pad", PAD_ID)):
        options |= {f"{name}_id": number, f"{name}_piece": SPECIAL_PIECES[number]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, model_type=kind, vocab_size=vocab_size, **options
    )
    return model.getvalue()


def _in_thread(work: Callable[[], bytes], progress: ProgressCallback, clock: Callable[[], float]) -> bytes:
    """Runs `work` beside this thread, which meanwhile tells how long it has been going on."""
    results: list[bytes | BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed over to the thread that waits
            results.append(error)

    worker = threading.Thread(target=run, name="textgen-vocabulary", daemon=True)
    started = clock()
    worker.start()
    progress(Progress("tokenizer", 0.0, unit="s"))
    while worker.is_alive():
        worker.join(_POLL_SECONDS)
        progress(Progress("tokenizer", clock() - started, unit="s"))
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result
