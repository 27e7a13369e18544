"""What a trainer is made of: model, batches and held-out text, from a corpus and, where there is one, a base."""

from __future__ import annotations

import numpy as np

from textgen.config import RunSettings, TrainingSettings, update_settings
from textgen.jobs.base import Base
from textgen.model.language_model import LanguageModel
from textgen.text.corpus import Corpus, StreamBatches
from textgen.text.tokenizer import BOS_ID, PAD_ID, UNK_ID
from textgen.training.held_out import HeldOut, passages

# Some 1.5 million characters of English: all of what the models that ship hold out.
MAX_EVALUATED_TOKENS = 400_000
_PASSAGES = 64


def make_model(settings: RunSettings, corpus: Corpus, base: Base | None) -> LanguageModel:
    """The model that a run begins with: the base's, fitted to the corpus's vocabulary, or a fresh one."""
    if base is not None:
        return base.model_for(corpus.tokenizer)
    model = LanguageModel(update_settings(settings.model, vocab_size=corpus.tokenizer.vocab_size))
    model.reset_parameters(settings.training.seed, never_predicted=(UNK_ID, BOS_ID, PAD_ID))
    return model


def make_batches(training: TrainingSettings, corpus: Corpus) -> StreamBatches:
    """The training part in the order in which a run reads it."""
    return StreamBatches(
        corpus.train.ids,
        batch_size=training.batch_size,
        window=training.window,
        seed=training.seed,
        reset_at_document_ends=training.reset_at_document_ends,
    )


def held_out_part(corpus: Corpus, *, max_tokens: int = MAX_EVALUATED_TOKENS) -> HeldOut | None:
    """What the run is judged by; None where nothing is held out.

    Of more than `max_tokens` tokens it is passages from all over, always the same: to read all of a large text again
    and again would take longer than to learn from it.
    """
    part = corpus.heldout
    if part is None or len(part.ids) <= max_tokens:
        return HeldOut(part.ids, part.characters, part.bytes) if part else None
    chosen = passages(part.ids, max_tokens=max_tokens, count=_PASSAGES)
    texts = [corpus.tokenizer.decode(passage.tolist()) for passage in chosen]
    return HeldOut(np.concatenate(chosen), sum(map(len, texts)), sum(len(text.encode()) for text in texts))
