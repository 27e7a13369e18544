"""The index of a training text that its checkpoints carry, so that copies from it can be told and avoided."""

from __future__ import annotations

from pathlib import Path

from textgen.errors import BadCheckpoint
from textgen.files import write_atomically
from textgen.jobs.checkpoints import sound_copy_index
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.model.checkpoint import COPY_INDEX, Checkpoint
from textgen.progress import ProgressCallback, ignore_progress
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.copying import NgramIndex
from textgen.text.corpus import Corpus


def build_copy_index(
    corpus: Corpus, *, limits: Limits | None = None, progress: ProgressCallback = ignore_progress
) -> NgramIndex:
    """The index of a corpus' training part, as large as `limits` let it be."""
    return NgramIndex.build(
        corpus.train.ids,
        tokenizer_sha256=corpus.tokenizer.sha256,
        max_bytes=(limits or Limits()).max_copy_index_bytes,
        progress=progress,
    )


def run_copy_index(
    folder: RunFolder,
    corpus: Corpus,
    *,
    base: Checkpoint | None = None,
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
) -> bytes:
    """The index of a run's text, as bytes; it is built once and kept beside the token ids.

    With it come those of what the `base` has learned from, where the two have one vocabulary.
    """
    path: Path = folder.corpus / COPY_INDEX
    try:
        data = path.read_bytes()
        CopyIndexes.from_bytes(data, tokenizer_sha256=corpus.tokenizer.sha256)
    except (OSError, BadCheckpoint):
        limits = limits or Limits()
        own = build_copy_index(corpus, limits=limits, progress=progress)
        # A base of the same text has the same index.
        known = [part for part in _of_base(base, corpus.tokenizer.sha256) if part.to_bytes() != own.to_bytes()]
        data = CopyIndexes((own, *known)).within(limits.max_copy_indexes_bytes).to_bytes()
        write_atomically(path, data)
    return data


def _of_base(base: Checkpoint | None, tokenizer_sha256: str) -> tuple[NgramIndex, ...]:
    if base is None or base.tokenizer_sha256 != tokenizer_sha256:
        return ()
    indexes = sound_copy_index(base)  # a run from it is worth more than its index
    return indexes.parts if indexes else ()
