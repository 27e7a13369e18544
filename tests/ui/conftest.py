from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from textgen.config import ModelSettings
from textgen.jobs.checkpoints import open_checkpoint
from textgen.model.checkpoint import Checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.studio import Studio
from textgen.text.tokenizer import EOS_ID


@pytest.fixture(scope="session")
def models(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned something, one that never ends by itself, and one whose weights are damaged."""
    folder = tmp_path_factory.mktemp("page-models")
    checkpoint, tokenizer = open_checkpoint(trained_run)
    save_checkpoint(folder / "tiny", checkpoint)
    endless = LanguageModel(ModelSettings(vocab_size=tokenizer.vocab_size, embedding_size=4, hidden_size=4))
    endless.reset_parameters(0)
    with torch.no_grad():
        endless.output_bias[EOS_ID] = -50.0
    save_checkpoint(folder / "endless", Checkpoint(endless, checkpoint.tokenizer_bytes))
    save_checkpoint(folder / "spoilt", Checkpoint(endless, checkpoint.tokenizer_bytes))
    (folder / "spoilt" / "model.safetensors").write_bytes(b"\0" * 64)
    return folder


@pytest.fixture(scope="session")
def studio(models: Path) -> Iterator[Studio]:
    studio = Studio([models], device="cpu")
    yield studio
    studio.close()
