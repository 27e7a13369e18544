"""What a run takes from the checkpoint that it starts from: weights, vocabulary, and text to see what is kept of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textgen.config import RunSettings
from textgen.errors import BadCorpus, InvalidSetting
from textgen.files import write_atomically
from textgen.jobs.checkpoints import open_checkpoint, sound_copy_index
from textgen.jobs.run_folder import run_of
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint
from textgen.model.growth import with_vocabulary
from textgen.model.language_model import LanguageModel
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.corpus import TextPart, open_corpus
from textgen.text.tokenizer import BOS_ID, EOS_ID, Tokenizer
from textgen.text.vocabulary import spellings
from textgen.training.held_out import STREAMS, HeldOut, passages

# Some 16,000 characters: the same ones each time, so that small changes show, and read in a second or two.
MAX_KEPT_TOKENS = 4_000
_MAX_COMPARED_TOKENS = 40_000
# Texts of one kind have phrases in common, with a vocabulary of characters nearly all phrases of eight; what is as long
# as this was read.
_READ_TOKENS = 100
_MOSTLY = 0.5
_KEPT = "kept.json"


@dataclass(frozen=True)
class Base:
    """An opened checkpoint to start from."""

    path: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """Of a run the name of its folder, of any other checkpoint that of its own."""
        return run_of(self.path).name

    def model_for(self, tokenizer: Tokenizer) -> LanguageModel:
        """The base's model, fitted to `tokenizer` where that is not its own."""
        if tokenizer.sha256 == self.tokenizer.sha256:
            return self.checkpoint.model
        return with_vocabulary(self.checkpoint.model, spellings(tokenizer, self.tokenizer))

    def held_out(self) -> TextPart | None:
        """What the base itself was judged by, where its run is still there: beside or above the checkpoint."""
        for folder in (self.path, *self.path.resolve().parents[:2]):
            try:
                corpus = open_corpus(folder / "corpus")
            except BadCorpus:
                continue
            return corpus.heldout if corpus.tokenizer.sha256 == self.tokenizer.sha256 else None
        return None

    def learned_share(self, part: TextPart | None, tokenizer: Tokenizer, own: CopyIndexes) -> float:
        """The share of `part`, in ids of `tokenizer`, that the base has learned from, where that is half of it or more.

        Else it is 0, as where it cannot be told: the base has no index, or one of a small sample; documents are shorter
        than passages that tell; or the text repeats itself so much that even its other part, of which `own` is the
        index, seems to hold this one.
        """
        if part is None:
            return 0.0
        ids = _from_all_over(part, _MAX_COMPARED_TOKENS)
        share = _share_read(sound_copy_index(self.checkpoint), _encoded_anew(ids, tokenizer, self.tokenizer))
        return share if share >= _MOSTLY > _share_read(own, ids) else 0.0

    def has_read(self, ids: list[int]) -> bool:
        """Whether its own text, not that of its bases, seems to hold most of `ids`."""
        indexes = sound_copy_index(self.checkpoint)
        return _share_read(indexes.first if indexes else None, ids) >= _MOSTLY


def open_base(settings: RunSettings, *, limits: Limits | None = None) -> Base | None:
    """The base that `settings` name; raises `InvalidSetting`, `BadCheckpoint` or `BadTokenizer`."""
    if settings.base is None:
        return None
    path = Path(settings.base)
    if not path.exists():
        raise InvalidSetting("base", run_of(path).name, "a checkpoint or a run that is there")
    return Base(path, *open_checkpoint(path, limits=limits))


def write_kept(
    corpus: Path,
    base: Base,
    tokenizer: Tokenizer,
    *,
    own: CopyIndexes | None = None,
    max_tokens: int = MAX_KEPT_TOKENS,
) -> None:
    """Writes passages of the base's held-out text into the folder of a `corpus`, as ids of `tokenizer`.

    The run then does not need the base any more. Nothing is written where there is no such text, or where the run
    learns from it: `own` is the index of what it reads.
    """
    part = base.held_out()
    if part is None or len(part.ids) < 2:
        return
    ids = _from_all_over(part, max_tokens)
    text = base.tokenizer.decode(ids)
    ids = _encoded_anew(ids, base.tokenizer, tokenizer)
    compared = _from_all_over(part, _MAX_COMPARED_TOKENS)
    # Where a text repeats itself so much that its other part seems to hold it, nothing follows from that.
    learned = _share_read(own, _encoded_anew(compared, base.tokenizer, tokenizer)) >= _MOSTLY
    if learned and not base.has_read(compared):
        return
    kept = {"ids": ids, "chars": len(text), "bytes": len(text.encode())}
    write_atomically(corpus / _KEPT, json.dumps(kept).encode())


def read_kept(corpus: Path) -> HeldOut | None:
    """What `write_kept` left in the folder; raises `BadCorpus` when it is damaged."""
    path = corpus / _KEPT
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_bytes())
        return HeldOut(np.array(kept["ids"], np.uint32), int(kept["chars"]), int(kept["bytes"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        raise BadCorpus(_KEPT, "damaged") from None


def _from_all_over(part: TextPart, max_tokens: int) -> list[int]:
    ids: list[int] = np.concatenate(passages(part.ids, max_tokens=max_tokens, count=STREAMS)).tolist()
    return ids


def _share_read(indexes: CopyIndexes | None, ids: list[int]) -> float:
    """The share of `ids` that lies in long passages of the indexed texts."""
    read = np.zeros(len(ids), bool)
    for part in indexes.parts if indexes else ():
        for start, end in part.copied_spans(ids):
            # Of a sample fewer phrases are looked up in a passage, all of which may be there by chance.
            if (end - start) * part.covered >= _READ_TOKENS:
                read[start:end] = True
    return float(read.mean()) if ids else 0.0


def _encoded_anew(ids: list[int], before: Tokenizer, after: Tokenizer) -> list[int]:
    """The same documents in another vocabulary."""
    if before.sha256 == after.sha256:
        return ids
    found: list[int] = []
    document: list[int] = []
    for number in [*ids, BOS_ID]:
        if number in (BOS_ID, EOS_ID):
            found += [*after.encode(before.decode(document)), number]
            document = []
        else:
            document.append(number)
    return found[:-1]
