"""The exported folder: what is in it, and that its graphs write what the engine writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from textgen.config import GenerationSettings
from textgen.export import export_onnx
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint
from textgen.studio import LoadedModel, Running, TextEnd
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer

FILES = {
    *("README.md", "MODEL_CARD.md", "generation_config.json", "tokenizer.json", "tokenizer.model"),
    *("model.onnx", "model_int8.onnx", "example.html", "generate.js", "tokenizer.js"),
}


@pytest.fixture(scope="module")
def opened(trained_run: Path) -> tuple[Checkpoint, Tokenizer]:
    return open_checkpoint(trained_run)


@pytest.fixture(scope="module")
def exported(opened: tuple[Checkpoint, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_onnx(folder, *opened)
    return folder


def run(session: ort.InferenceSession, ids: list[int], state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict]:
    logits, *after = session.run(None, {"token_ids": np.array([ids]), **state})
    return logits[0], dict(zip(state, after, strict=True))


def before(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    parts = session.get_inputs()[1:]
    return {part.name: np.zeros((1, part.shape[1]), np.float32) for part in parts}


def greedy(session: ort.InferenceSession, ids: list[int], steps: int) -> list[int]:
    state, written = before(session), list[int]()
    while len(written) < steps and EOS_ID not in written:
        logits, state = run(session, ids, state)
        logits[:, [UNK_ID, BOS_ID, PAD_ID]] = -np.inf
        ids = [int(logits[-1].argmax())]
        written += ids
    return written


def test_a_folder_has_all_that_it_needs_and_what_suits_the_model(
    exported: Path, opened: tuple[Checkpoint, Tokenizer]
) -> None:
    checkpoint, _ = opened
    assert {path.name for path in exported.iterdir()} == FILES
    assert (exported / "tokenizer.model").read_bytes() == checkpoint.tokenizer_bytes
    assert (exported / "MODEL_CARD.md").read_text(encoding="utf-8") == checkpoint.card
    config = json.loads((exported / "generation_config.json").read_text(encoding="utf-8"))
    assert GenerationSettings(**config) == checkpoint.generation
    guide = (exported / "README.md").read_text(encoding="utf-8")
    session = ort.InferenceSession(exported / "model.onnx")
    for value in (*session.get_inputs(), *session.get_outputs()):
        kind = {"tensor(int64)": "int64", "tensor(float)": "float32"}[value.type]
        assert f"| `{value.name}` | {kind} | [{', '.join(map(str, value.shape))}] |" in guide
    sizes = [(exported / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < 0.4 * sizes[0]
    assert f"{100 * sizes[1] / sizes[0]:.0f} % of the size" in guide
    assert f"{checkpoint.model.num_parameters / 1e3:.1f} thousand parameters" in guide


def test_the_model_in_fp32_writes_the_same_as_the_reference(
    exported: Path, opened: tuple[Checkpoint, Tokenizer], trained_run: Path
) -> None:
    _, tokenizer = opened
    running = Running(torch.device("cpu"), backend="torch", threads=1)
    model = LoadedModel(resolve_checkpoint(trained_run), running=running, limits=Limits())
    try:
        with model.generate("Mira ", GenerationSettings(temperature=0.0, max_new_tokens=60)) as stream:
            (end,) = [event for event in stream if isinstance(event, TextEnd)]
    finally:
        model.close()
    session = ort.InferenceSession(exported / "model.onnx")
    assert tokenizer.decode(greedy(session, [BOS_ID, *tokenizer.encode("Mira ")], 60)) == end.text != ""


def test_eight_bits_cost_next_to_nothing(
    exported: Path, opened: tuple[Checkpoint, Tokenizer], small_text: Path
) -> None:
    """On text that was held out, in nats per token."""
    checkpoint, tokenizer = opened
    ids = [BOS_ID, *tokenizer.encode(small_text.read_text(encoding="utf-8")[-3000:])]
    with torch.inference_mode():
        reference, _ = checkpoint.model(torch.tensor([ids[:-1]]), checkpoint.model.initial_state(1))

    def loss(logits: np.ndarray) -> float:
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(ids[1:])))

    def exported_loss(name: str) -> float:
        session = ort.InferenceSession(exported / name)
        return loss(run(session, ids[:-1], before(session))[0])

    expected = loss(reference[0].numpy())
    assert exported_loss("model.onnx") == pytest.approx(expected, rel=1e-5)
    assert exported_loss("model_int8.onnx") == pytest.approx(expected, rel=0.01)


def test_the_guide_s_python_writes_the_likeliest_text(
    exported: Path, opened: tuple[Checkpoint, Tokenizer], tmp_path: Path
) -> None:
    _, tokenizer = opened
    folder = shutil.copytree(exported, tmp_path / "model")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], cwd=folder, capture_output=True, encoding="utf-8", check=True
    )
    session = ort.InferenceSession(folder / "model_int8.onnx")
    ids = greedy(session, [BOS_ID, *tokenizer.encode("Once upon a time")], 40)
    assert done.stdout == tokenizer.decode([number for number in ids if number != EOS_ID]) + "\n"
