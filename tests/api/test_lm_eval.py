"""`lm-evaluation-harness` itself, as README.md runs it, on a small task of its own; `make test` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import Any

import pytest

from textgen.studio import LoadedModel, Studio

HARNESS = Path(sys.prefix) / "lm-eval"
# `make test` has installed it: there the test must not be left out unseen.
REQUIRED = "TEXTGEN_REQUIRE_LM_EVAL" in os.environ
TEXTS = ["Mira found 月 a stone 🙂.", "The old fox slept.\nThen it rained."]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "Mira found a", "answers": [" stone", " xylophone", " 月"], "right": 0},
    {"question": "The old fox", "answers": ["🙂🙂", " slept"], "right": 1},
]
TASKS = {
    "whole": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{answers}}",
        "doc_to_target": "{{right}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REQUIRED and not HARNESS.is_dir(), reason="lm-evaluation-harness is not installed; make test does it"
    ),
]


def write_tasks(folder: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"whole": [{"text": text} for text in TEXTS], "choice": QUESTIONS}
    folder.mkdir()
    for name, task in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        # JSON is YAML, too.
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **source, **task}), encoding="utf-8")


@pytest.fixture(scope="module")
def outcome(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the harness has left what it found."""
    folder = tmp_path_factory.mktemp("lm-eval")
    write_tasks(folder / "tasks")
    asked = f"model=tiny,base_url={address}/v1/completions,num_concurrent=2"
    options = {
        "model": "local-completions",
        "model_args": asked,
        "tasks": "whole,choice",
        "output_path": folder / "out",
    }
    command = [sys.executable, "-m", "lm_eval", *(f"--{name}={value}" for name, value in options.items())]
    command += [f"--include_path={folder / 'tasks'}", "--log_samples"]
    environment = {**os.environ, "PYTHONPATH": str(HARNESS), "HF_HOME": str(folder / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


@pytest.fixture
def model(studio: Studio) -> Iterator[LoadedModel]:
    with studio.borrow("tiny") as model:
        yield model


def figures(outcome: Path, task: str) -> dict[str, float]:
    (path,) = outcome.glob("*/results_*.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))["results"][task])


def samples(outcome: Path, task: str) -> list[dict[str, Any]]:
    (path,) = outcome.glob(f"*/samples_{task}_*.jsonl")
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(found, key=lambda sample: sample["doc_id"])


def logprob(model: LoadedModel, text: str, *, after: str = "") -> float:
    """Of a text, behind another one whose own tokens do not count."""
    known = len(model.tokenizer.encode(after))
    return sum(token.logprob for token in model.score(after + text).tokens[known:])


def test_whole_texts_are_as_likely_as_the_studio_says(outcome: Path, model: LoadedModel) -> None:
    expected = [logprob(model, text) for text in TEXTS]
    found = [float(sample["resps"][0][0]) for sample in samples(outcome, "whole")]
    assert found == pytest.approx(expected, abs=1e-5)
    bits = -sum(expected) / sum(len(text.encode()) for text in TEXTS) / log(2.0)
    assert figures(outcome, "whole")["bits_per_byte,none"] == pytest.approx(bits, abs=1e-6)


def test_answers_are_chosen_as_the_studio_would(outcome: Path, model: LoadedModel) -> None:
    right = 0
    for question, sample in zip(QUESTIONS, samples(outcome, "choice"), strict=True):
        expected = [logprob(model, answer, after=question["question"]) for answer in question["answers"]]
        assert [float(found) for ((found, _),) in sample["resps"]] == pytest.approx(expected, abs=1e-5)
        right += expected.index(max(expected)) == question["right"]
    assert figures(outcome, "choice")["acc,none"] == right / len(QUESTIONS)
