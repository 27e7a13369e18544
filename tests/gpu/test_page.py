"""Training and writing on a GPU, the way that the page and the command line do."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from textgen.config import GenerationSettings, ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.jobs.training_run import start_run
from textgen.studio import Studio, TextDelta, TextEnd
from textgen.training.events import EndEvent, EvaluationEvent, SampleEvent, StepEvent

pytestmark = pytest.mark.gpu


def settings(text: Path, cell: str = "lstm", **changes: object) -> RunSettings:
    return RunSettings(
        files=(str(text),),
        sample_prompts=("Mira ",),
        text=TextSettings(vocab_size=360),
        model=ModelSettings(cell=cell, embedding_size=96, hidden_size=64),
        training=TrainingSettings.model_validate(
            {"steps": 60, "batch_size": 8, "window": 16, "learning_rate": 3e-2, "evaluations": 2, **changes}
        ),
    )


@pytest.mark.parametrize("cell", ["lstm", "mogrifier-lstm", "gru", "rnn", "update-gate-lstm"])
def test_a_model_learns_in_bf16(cell: str, small_text: Path, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", settings(small_text, cell, precision="bf16", weight_dropout=0.1), device="cuda")
    assert run.trainer.model.embedding.is_cuda
    events = list(run.events())
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    assert all(map(math.isfinite, losses))
    evaluations = [event.evaluation for event in events if isinstance(event, EvaluationEvent)]
    assert evaluations[-1].nats_per_token < 0.8 * math.log(360)  # that of someone who knows nothing
    assert any(isinstance(event, SampleEvent) for event in events)
    assert isinstance(events[-1], EndEvent)


def test_the_precision_is_chosen_by_the_device(small_text: Path, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", settings(small_text, steps=3, precision="auto"))
    list(run.events())
    assert run.trainer.model.embedding.is_cuda
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert run.settings.training.precision == ("bf16" if bf16 else "fp32")


def test_what_was_trained_is_written_with_and_trained_on(small_text: Path, tmp_path: Path) -> None:
    for _ in start_run(tmp_path / "tiny", settings(small_text), device="cuda").events():
        pass
    studio = Studio([tmp_path], device="auto")
    try:
        stream = studio.generate("tiny", "Mira ", GenerationSettings(seed=1, max_new_tokens=40, top_logprobs=5))
        *events, end = list(stream)
        assert isinstance(end, TextEnd)
        assert "".join(event.text for event in events if isinstance(event, TextDelta))
        assert studio.load("tiny").backend.name.endswith("CUDA graphs")
        for _ in start_run(tmp_path / "other", settings(small_text), device="cuda").events():
            pass  # while the first one is loaded
        *_, again = list(studio.generate("tiny", "Mira ", GenerationSettings(seed=1, max_new_tokens=40)))
        assert isinstance(again, TextEnd)
        assert [sample.text for sample in again.samples] == [sample.text for sample in end.samples]
    finally:
        studio.close()


def test_a_model_trained_on_a_processor_writes_on_the_gpu(trained_run: Path) -> None:
    texts = []
    for backend in ("auto", "auto", "torch"):
        studio = Studio([trained_run], device="cuda", backend=backend)
        try:
            name = studio.models()[0].name
            wish = GenerationSettings(seed=3, max_new_tokens=60)
            texts.append("".join(e.text for e in studio.generate(name, "Mira ", wish) if isinstance(e, TextDelta)))
        finally:
            studio.close()
    assert texts[0] == texts[1]
    assert all(len(text) > 20 for text in texts)
