"""A set of hashes that answers "is it in there?" from 8 to 16 bits for each, and is sometimes wrong with yes.

The 4-wise binary fuse filter of Graf & Lemire 2022 (https://arxiv.org/abs/2201.01174): four fingerprints, in four
segments that follow one another, make that of a key when they are combined by exclusive or. Keys cannot be read back.
Here another hash says which segments, so that keys that are asked for together can lie together. Where too many of them
should, that hash is not heeded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textgen.text.ngrams import Hashes

Fingerprints = NDArray[np.uint16]

FEWEST_BITS, MOST_BITS = 8, 16
ARITY = 4
# Four places in segments take four times so many bits of a hash.
SEGMENT_BITS = 13
PLACE_MULTIPLIER = 0xC3A5C85C97CB3127
FINGERPRINT_MULTIPLIER = 0x9FB21C651E98DF25
# With further seeds groups do not count.
_SEEDS_WITH_GROUPS, _MOST_SEEDS = 4, 100

# Keys, by number, that could be taken out at once, and the slots that each of them had for itself.
Layer = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class FuseFilter:
    """`fingerprints` [(segments + 3) · segment_length], each below 2^bits; none at all for no keys.

    A key that is not in it is taken for one that is with a probability of 2^-bits.
    """

    seed: int
    bits: int
    segment_length: int
    segments: int
    fingerprints: Fingerprints

    @classmethod
    def build(cls, keys: Hashes, groups: Hashes, bits: int) -> FuseFilter:
        """A filter of `keys`, each given once; those whose `groups` are the same lie together if they can."""
        segment_length, segments = _shape(len(keys))
        fingerprints = np.zeros(_slots(len(keys)) if len(keys) else 0, np.uint16)
        if not len(keys):
            return cls(0, bits, segment_length, segments, fingerprints)
        for seed in range(_MOST_SEEDS):
            found = cls(seed, bits, segment_length, segments, fingerprints)
            slots = found._slots(keys, groups)
            order = _peel(slots, len(fingerprints))
            if order is not None:
                found._fill(keys, slots, order)
                return found
        raise AssertionError("keys that differ have a filter with nearly every seed")

    @property
    def is_grouped(self) -> bool:
        """Whether keys of a group lie together."""
        return self.seed < _SEEDS_WITH_GROUPS

    def contains(self, keys: Hashes, groups: Hashes) -> NDArray[np.bool_]:
        """Which of `keys` are in it, but for false positives."""
        if not len(self.fingerprints):
            return np.zeros(len(keys), np.bool_)
        found = self._wanted(keys)
        for slots in self._slots(keys, groups):
            found ^= self.fingerprints[slots]
        return np.equal(found, 0)

    def to_bytes(self) -> bytes:
        """The fingerprints, bit by bit without gaps, the lowest bit of each first."""
        bits = (self.fingerprints[:, None] >> np.arange(self.bits, dtype=np.uint16)) & np.uint16(1)
        return np.packbits(bits.astype(np.uint8)).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, seed: int, bits: int, segment_length: int, segments: int) -> FuseFilter:
        """What `to_bytes` wrote; raises `ValueError` for a shape that does not fit the data."""
        slots = (segments + ARITY - 1) * segment_length if data else 0
        is_power = 1 <= segment_length <= 1 << SEGMENT_BITS and segment_length & (segment_length - 1) == 0
        fits = FEWEST_BITS <= bits <= MOST_BITS and segments >= 1 and len(data) == -(-slots * bits // 8)
        if not is_power or not fits:
            raise ValueError(f"{len(data)} bytes are not {segments} + 3 segments of {segment_length} × {bits} bits")
        places = np.unpackbits(np.frombuffer(data, np.uint8), count=slots * bits).reshape(slots, bits)
        fingerprints = places @ (np.uint16(1) << np.arange(bits, dtype=np.uint16))
        return cls(seed, bits, segment_length, segments, fingerprints)

    def segments_of(self, group: Hashes) -> Fingerprints:
        """The segments [4, segment length] where keys of that group [1] lie; only if it `is_grouped`."""
        first = int(self._first_slots(group)[0])
        return self.fingerprints[first : first + ARITY * self.segment_length].reshape(ARITY, self.segment_length)

    def _first_slots(self, groups: Hashes) -> Hashes:
        half = np.uint64(32)
        first: Hashes = (((groups >> half) * np.uint64(self.segments)) >> half) * np.uint64(self.segment_length)
        return first

    def _slots(self, keys: Hashes, groups: Hashes) -> NDArray[np.int64]:
        """Where the parts of the keys' fingerprints lie [4, keys]."""
        length = np.uint64(self.segment_length)
        first = self._first_slots(groups if self.is_grouped else keys * np.uint64(FINGERPRINT_MULTIPLIER))
        places = keys * np.uint64((PLACE_MULTIPLIER + 2 * self.seed) % 2**64)
        slots = np.empty((ARITY, len(keys)), np.uint64)
        for part in range(ARITY):
            shift = np.uint64(64 - (part + 1) * SEGMENT_BITS)
            slots[part] = first + np.uint64(part) * length + ((places >> shift) & (length - np.uint64(1)))
        return slots.view(np.int64)

    def _wanted(self, keys: Hashes) -> Fingerprints:
        """What the parts of the keys' fingerprints make together [keys]."""
        high: Hashes = (keys * np.uint64(FINGERPRINT_MULTIPLIER)) >> np.uint64(64 - self.bits)
        return high.astype(np.uint16)

    def _fill(self, keys: Hashes, slots: NDArray[np.int64], order: list[Layer]) -> None:
        """Sets the slots that the keys were peeled by, the last first; all others of such a key are then final."""
        wanted = self._wanted(keys)
        for peeled, own in reversed(order):
            value = wanted[peeled]
            for part in slots[:, peeled]:
                value ^= self.fingerprints[part]
            self.fingerprints[own] = value


def most_keys(max_bytes: int, bits: int) -> int:
    """How many keys fit into `max_bytes` of fingerprints."""
    most = max(0, max_bytes) * 8 // bits
    keys = int(most / 1.075)
    while keys and _slots(keys) > most:
        keys = int(keys * 0.998) if keys > 1_000 else keys - 1
    return keys


def _slots(keys: int) -> int:
    segment_length, segments = _shape(keys)
    return segment_length * (segments + ARITY - 1)


def _shape(keys: int) -> tuple[int, int]:
    """Segment length and segments, by the paper's formulas."""
    keys = max(2, keys)
    segment_length = min(1 << SEGMENT_BITS, 1 << max(2, math.floor(math.log(keys) / math.log(2.91) - 0.5)))
    capacity = keys * max(1.075, 0.77 + 0.305 * math.log(600_000) / math.log(keys))
    return segment_length, max(1, math.ceil(capacity / segment_length) - (ARITY - 1))


def _peel(slots: NDArray[np.int64], size: int) -> list[Layer] | None:
    """Takes out keys that have a slot for themselves until none is left, layer by layer.

    `slots` [4, keys]. None when some are left that share all theirs.
    """
    keys = slots.shape[1]
    counts = np.bincount(slots.ravel(), minlength=size).astype(np.int32)
    sums = np.zeros(size, np.int64)  # exclusive or of the keys at a slot: where there is one, it
    for part in slots:
        np.bitwise_xor.at(sums, part, np.arange(keys))
    order, left = [], keys
    alone = np.flatnonzero(counts == 1)
    while len(alone):
        peeled, first = np.unique(sums[alone], return_index=True)
        order.append((peeled, alone[first]))
        left -= len(peeled)
        touched = slots[:, peeled].ravel()
        np.subtract.at(counts, touched, 1)
        np.bitwise_xor.at(sums, touched, np.tile(peeled, ARITY))
        alone = np.unique(touched[counts[touched] == 1])
    return order if not left else None
