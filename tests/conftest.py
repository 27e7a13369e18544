"""What every test shares: one thread for torch, repeatable examples, small texts, a trained model, the browser."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.grammar import make_text

# Both are read at import time of torch and gradio, so they are set before any test module is collected.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# As are these of the Hub's client: tests speak to a server of theirs over plain HTTP, and with no token of the user's.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
# What tests make again and again goes into a folder of their own, not into the user's.
if "TEXTGEN_CACHE" not in os.environ:
    os.environ["TEXTGEN_CACHE"] = tempfile.mkdtemp(prefix="textgen-tests-")
    atexit.register(shutil.rmtree, os.environ["TEXTGEN_CACHE"], ignore_errors=True)

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("wide", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("TEXTGEN_HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: no process is left with one of them while the other has nothing to do."""
    long = [{item.path for item in items if item.get_closest_marker(name)} for name in ("browser", "slow")]
    items.sort(key=lambda item: [item.path not in paths for paths in long])


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of the Chromium that browser tests drive.

    Without one the test is skipped, or fails where TEXTGEN_REQUIRE_BROWSER is set: `make test` sets it on machines that
    have Chromium or can install it.
    """
    path = os.environ.get("TEXTGEN_CHROMIUM") or shutil.which("chromium")
    if path:
        return path
    message = "Chromium is missing: install the 'chromium' package or set TEXTGEN_CHROMIUM to its path."
    if os.environ.get("TEXTGEN_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def unsearchable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder that only its owner may search look as it does to others: tests may run as root, who may all."""
    stat = os.stat

    def close(folder: Path) -> None:
        def refuse(path: Any, **options: Any) -> os.stat_result:
            if isinstance(path, str | Path) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return stat(path, **options)

        monkeypatch.setattr(os, "stat", refuse)

    return close


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UTF-8 text file of about 30 KB in a language that a tiny model learns in seconds. To be read only."""
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(make_text(characters=30_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_run(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: a tiny model that has learned `small_text`. To be read only: copy it"""
    from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
    from textgen.jobs.training_run import start_run

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = RunSettings(
        files=(str(small_text),),
        sample_prompts=("Mira ",),
        text=TextSettings(vocab_size=360),
        model=ModelSettings(embedding_size=96, hidden_size=64),
        training=TrainingSettings(
            steps=150,
            batch_size=8,
            window=16,
            learning_rate=3e-2,
            weight_decay=0.0,
            clip_norm=0.5,
            average_decay=0.9,
            evaluations=2,
            precision="fp32",
        ),
    )
    for _ in start_run(folder, settings, device="cpu").events():
        pass
    return folder
