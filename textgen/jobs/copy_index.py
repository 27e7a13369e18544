"""The index of a training text that its checkpoints carry, so that copies from it can be told and avoided."""

from __future__ import annotations

from pathlib import Path

from textgen.errors import BadCheckpoint
from textgen.files import write_atomically
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.model.checkpoint import COPY_INDEX
from textgen.progress import ProgressCallback, ignore_progress
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
    folder: RunFolder, corpus: Corpus, *, limits: Limits | None = None, progress: ProgressCallback = ignore_progress
) -> bytes:
    """The index of a run's text, as bytes; it is built once and kept beside the token ids."""
    path: Path = folder.corpus / COPY_INDEX
    try:
        data = path.read_bytes()
        NgramIndex.from_bytes(data, tokenizer_sha256=corpus.tokenizer.sha256)
    except (OSError, BadCheckpoint):
        data = build_copy_index(corpus, limits=limits, progress=progress).to_bytes()
        write_atomically(path, data)
    return data
