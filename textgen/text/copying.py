"""Which passages of a text are copied from the training text, told from a compact index that does not contain it.

The index holds fingerprints of the training text's n-grams, sequences of eight tokens: whether one of them is in the
text can be asked, what is in it cannot. (Who guesses, can be told whether it was right, as the model itself does.)
"""

from __future__ import annotations

import functools
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textgen.errors import BadCheckpoint
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.fuse_filter import FEWEST_BITS, MOST_BITS, FuseFilter, most_keys
from textgen.text.ngrams import MULTIPLIER, Hashes, Ids, hash_ngrams, mixed, token_hashes
from textgen.text.tokenizer import PAD_ID

NGRAM_TOKENS = 8
# With so many bits, one n-gram that is found is evidence enough; with fewer it takes two in a row.
_CERTAIN_BITS = 12
_FORMAT_VERSION = 1
_MAGIC = b"TGCOPIES"
# Magic, version, tokens of an n-gram, bits, seed, segment length, segments, limit, SHA-256 of the tokenizer, CRC-32 of
# all this and of what follows: the fingerprints.
_HEADER = struct.Struct("<8sHHHHIIQ32s")
_CHECKSUM = struct.Struct("<I")
_NO_LIMIT = 2**64 - 1
_BLOCK_TOKENS = 1 << 16
# How much of what stands before a text is looked at.
_CONTEXT_TOKENS = 1024
_HIT, _MISS, _UNKNOWN = 1, 0, -1

Span = tuple[int, int]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NgramIndex:
    """An approximate set of the n-grams of a training text, without its documents' ends.

    It holds all whose hash is at most `limit`: those of a large text do not all fit, and then some, chosen by chance,
    stand for the rest. What is promised of a passage of L tokens that stands in the training text:

    - `covered` 1 and at least 12 bits: it is found if L ≥ 8.
    - `covered` 1 and fewer bits: it is found if L ≥ 9.
    - `covered` c < 1 (then there are 12 bits): it is found with a probability of 1 - (1 - c)^(L - 7), and reaches from
      the first to the last of its n-grams that are in the sample.

    Of other text, an n-gram is taken for a copy with a probability of 2^-bits with 12 bits or more, about 4^-bits with
    fewer.
    """

    filter: FuseFilter
    limit: int
    tokenizer_sha256: str

    @classmethod
    def build(
        cls, ids: Ids, *, tokenizer_sha256: str, max_bytes: int, progress: ProgressCallback = ignore_progress
    ) -> NgramIndex:
        """The index of `ids` [tokens], which may be memory-mapped: it is read once, in blocks.

        It takes at most `max_bytes`, of which there must be some hundreds, and the more bits the smaller the text.
        """
        room = max_bytes - _HEADER.size - _CHECKSUM.size
        keys, groups, limit = _smallest_ngrams(ids, most_keys(room, FEWEST_BITS), progress)
        bits = next((bits for bits in range(MOST_BITS, FEWEST_BITS, -1) if len(keys) <= most_keys(room, bits)), 8)
        if limit < _NO_LIMIT:
            bits, most = _CERTAIN_BITS, most_keys(room, _CERTAIN_BITS)
            keys, groups = keys[:most], groups[:most]
            limit = int(keys[-1]) if most else 0
        return cls(FuseFilter.build(keys, groups, bits), limit, tokenizer_sha256)

    @property
    def covered(self) -> float:
        """The share of the training text's distinct n-grams that it holds."""
        return 1.0 if self.limit == _NO_LIMIT else (self.limit + 1) / 2**64

    @property
    def fewest_tokens(self) -> int:
        """The shortest passage that it can find."""
        return NGRAM_TOKENS + self._hits_needed - 1

    @property
    def _hits_needed(self) -> int:
        return 1 if self.filter.bits >= _CERTAIN_BITS else 2

    def copied_spans(self, token_ids: Ids, *, context: Ids = ()) -> list[Span]:
        """The copied passages of `token_ids`, (start, end) by rising start; those that overlap are one.

        `context` stands before: a passage may begin in it, and its span then begins with `token_ids`.
        """
        before = len(context[-_CONTEXT_TOKENS:])
        states = self._states(np.concatenate([_array(context)[-_CONTEXT_TOKENS:], _array(token_ids)]))
        spans: list[Span] = []
        for first, last in self._runs(states):
            start, end = max(0, first - before), last + NGRAM_TOKENS - before
            if end <= 0:
                continue
            if spans and start < spans[-1][1]:
                start = spans.pop()[0]
            spans.append((start, end))
        return spans

    def copied_share(self, token_ids: Ids, *, context: Ids = ()) -> float:
        """The share of `token_ids` that lies in copied passages; 0 where there are none."""
        return sum(end - start for start, end in self.copied_spans(token_ids, context=context)) / max(1, len(token_ids))

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        found = self.filter
        shape = (found.bits, found.seed, found.segment_length, found.segments, self.limit)
        tokenizer = bytes.fromhex(self.tokenizer_sha256)
        header = _HEADER.pack(_MAGIC, _FORMAT_VERSION, NGRAM_TOKENS, *shape, tokenizer)
        fingerprints = found.to_bytes()
        return header + _CHECKSUM.pack(zlib.crc32(header + fingerprints)) + fingerprints

    @classmethod
    def from_bytes(cls, data: bytes, *, tokenizer_sha256: str, file: str = "copy_index.safetensors") -> NgramIndex:
        """Raises `BadCheckpoint` for bytes that are no index, a damaged one, or one for another tokenizer."""
        start = _HEADER.size + _CHECKSUM.size
        if len(data) < start or not data.startswith(_MAGIC):
            raise BadCheckpoint(file, "header", "not an index of copies")
        _, version, ngram, bits, seed, segment_length, segments, limit, tokenizer = _HEADER.unpack_from(data)
        for field, given, expected in (("version", version, _FORMAT_VERSION), ("n-gram size", ngram, NGRAM_TOKENS)):
            if given != expected:
                raise BadCheckpoint(file, field, f"{given} is unknown; this program reads {expected}")
        if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size] + data[start:]):
            raise BadCheckpoint(file, "checksum", "the file is damaged")
        if tokenizer.hex() != tokenizer_sha256:
            raise BadCheckpoint(file, "tokenizer_sha256", "made with another tokenizer than the checkpoint's")
        try:
            shape = {"bits": bits, "seed": seed, "segment_length": segment_length, "segments": segments}
            return cls(FuseFilter.from_bytes(data[start:], **shape), limit, tokenizer_sha256)
        except ValueError as error:
            raise BadCheckpoint(file, "shape", str(error)) from None

    def _states(self, ids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Of each n-gram, whether it is in the index, or unknown since it would not be there in any case."""
        keys, is_text = hash_ngrams(ids, NGRAM_TOKENS)
        groups, _ = hash_ngrams(ids[:-1], NGRAM_TOKENS - 1)
        known = keys <= np.uint64(self.limit)
        hits = known & is_text & self.filter.contains(keys, groups)
        # What holds a special is no passage, whatever the sample.
        return np.where(hits, _HIT, np.where(known | ~is_text, _MISS, _UNKNOWN)).astype(np.int8)

    def _runs(self, states: NDArray[np.int8]) -> list[Span]:
        """Where enough n-grams that are known follow one another and are all in the index: the first, the last."""
        known = np.flatnonzero(states != _UNKNOWN)
        hit = np.concatenate([[False], states[known] == _HIT, [False]]).astype(np.int8)
        starts, ends = np.flatnonzero(np.diff(hit) == 1), np.flatnonzero(np.diff(hit) == -1)
        return [
            (int(known[start]), int(known[end - 1]))
            for start, end in zip(starts, ends, strict=True)
            if end - start >= self._hits_needed
        ]


class CopyGuard:
    """Says which tokens must not come next, since with them the text would end with a copied n-gram.

    `indexes` are those of all texts that nothing is to be copied from.
    `context_ids` is what stands before the new text: a copy that begins in it counts, one that stands in it as a whole
    does not. While it is obeyed, the new text completes no n-gram that the index holds: no passage of eight tokens is
    copied where `covered` is 1, and few are much longer than 8 + 1 / `covered` where it is less. By false positives it
    forbids 2^-bits of all other tokens. Its answer depends on its argument alone: one serves all samples and beams of a
    request, from any thread.
    """

    def __init__(self, indexes: Sequence[NgramIndex], vocab_size: int, context_ids: Sequence[int] = ()) -> None:
        self._indexes = [index for index in indexes if len(index.filter.fingerprints)]
        self._context = list(context_ids[1 - NGRAM_TOKENS :])
        self._hashes = token_hashes(np.arange(vocab_size))
        self._candidates = self._hashes[PAD_ID + 1 :]
        self._search = best_search()

    def __call__(self, new_ids: Sequence[int]) -> Sequence[int]:
        """The token ids, rising and each once, that must not follow the context and `new_ids`: a read-only int64
        buffer, which NumPy takes without a copy."""
        last = [*self._context, *new_ids[1 - NGRAM_TOKENS :]][1 - NGRAM_TOKENS :]
        found = np.zeros(0, np.int64)
        if self._indexes and len(last) == NGRAM_TOKENS - 1 and min(last) > PAD_ID:
            before = 0
            for token_id in last:
                before = (before * MULTIPLIER + int(self._hashes[token_id])) % 2**64
            places = [self._places(index, before) for index in self._indexes]
            found = (places[0] if len(places) == 1 else np.unique(np.concatenate(places))) + (PAD_ID + 1)
        found.flags.writeable = False
        return found.data

    def _places(self, index: NgramIndex, before: int) -> NDArray[np.int64]:
        search = self._search if index.filter.is_grouped else search_plainly
        return search(index, before, self._candidates)


def _array(ids: Ids) -> NDArray[np.int64]:
    return np.asarray(ids, np.int64)


def _smallest_ngrams(ids: Ids, most: int, progress: ProgressCallback) -> tuple[Hashes, Hashes, int]:
    """Hashes of the distinct n-grams, rising, their `FuseFilter` groups, and up to which hash these are all there are.

    They are the `most` smallest: a sample by chance of any text's n-grams, whose size is known beforehand (the k
    minimum values of Bar-Yossef et al. 2002).
    """
    keys, groups, limit = np.zeros(0, np.uint64), np.zeros(0, np.uint64), _NO_LIMIT
    waiting: list[tuple[Hashes, Hashes]] = []
    waits, total = 0, len(ids)
    for start in range(0, total, _BLOCK_TOKENS):
        block = np.asarray(ids[start : start + _BLOCK_TOKENS + NGRAM_TOKENS - 1])
        found, is_text = hash_ngrams(block, NGRAM_TOKENS)
        kept = is_text & (found <= np.uint64(limit))
        waiting.append((found[kept], hash_ngrams(block[:-1], NGRAM_TOKENS - 1)[0][kept]))
        waits += len(waiting[-1][0])
        if waits > most or start + _BLOCK_TOKENS >= total:
            keys, first = np.unique(np.concatenate([keys, *(part for part, _ in waiting)]), return_index=True)
            groups = np.concatenate([groups, *(part for _, part in waiting)])[first]
            waiting, waits = [], 0
            if len(keys) > most:
                keys, groups = keys[:most], groups[:most]
                limit = int(keys[-1]) if most else 0
        progress(Progress("indexing", min(total, start + _BLOCK_TOKENS), total, "tokens"))
    return keys, groups, limit


Search = Callable[[NgramIndex, int, Hashes], NDArray[np.int64]]


@functools.cache
def best_search() -> Search:
    """The compiled one, ready to be called, or where that cannot be, the plain one."""
    try:
        from textgen.text.compiled_copying import search_compiled

        _try(search_compiled)
    except ImportError as error:
        _log.warning("%s is not installed: copies are avoided more slowly.", error.name)
        return search_plainly
    except Exception as error:  # numba's and LLVM's have no base class but this
        _log.warning("What avoids copies fast cannot be compiled here, so it is done more slowly: %s", error)
        return search_plainly
    return search_compiled


def _try(search: Search) -> None:
    some = NgramIndex.build(np.arange(100), tokenizer_sha256="", max_bytes=1_000)
    try:
        search(some, 0, token_hashes([0]))
    except OSError:  # it was compiled but could not be kept
        search(some, 0, token_hashes([0]))


def search_plainly(index: NgramIndex, before: int, candidates: Hashes) -> NDArray[np.int64]:
    """The places of `candidates` [n], hashes of tokens, that complete an n-gram of the index; any index will do.

    `before` is Σ h(w_i) · M^(7-i) over the seven tokens before them, see `hash_ngrams`.
    """
    keys = mixed(candidates + np.uint64(before * MULTIPLIER % 2**64))
    groups = np.broadcast_to(mixed(np.array([before], np.uint64)), keys.shape)
    return np.flatnonzero(index.filter.contains(keys, groups) & (keys <= np.uint64(index.limit)))
