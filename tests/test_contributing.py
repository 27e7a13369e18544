"""What CONTRIBUTING.md says a sampler takes is all that it takes: in a copy of the package that gets one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import textgen

pytestmark = pytest.mark.slow

_SETTING = (
    '    top_a: float = Field(0.0, ge=0.0, le=1.0, description="drop tokens below this times the square of the best")\n'
)
_PROCESSOR_SETTING = (
    '    sharpen: float = Field(1.0, ge=0.0, le=10.0, description="times all scores before temperature")\n'
)
_PROCESSOR_RULE = "        row *= self._settings.sharpen\n"
_RULE = '''
def keep_top_a(scores: Scores, top_a: float, least: int = 1) -> Scores:
    """Probabilities of at least `top_a` times the square of the highest one."""
    return keep_above(scores, top_a * probabilities(scores).max(axis=1, keepdims=True) ** 2, least)


'''
_PROGRAM = """
import json, pathlib, sys
import numpy as np
from textgen.config import GenerationSettings
from textgen.engine.requests import GenerationRequest
from textgen.engine.sampling import SampledSequence, Sampler
from textgen.engine.warpers import probabilities, warp
from textgen.studio import Studio
from textgen.ui.build import build_page
from textgen.ui.i18n import languages

logits = np.linspace(0.0, 3.0, 24, dtype=np.float32)[None]
likely = probabilities(logits.astype(np.float64) / 0.7)[0]
dropped = np.flatnonzero(likely < 0.9 * likely.max() ** 2)

def sequence(forbidden=(), temperature=0.7, **settings):
    settings = GenerationSettings(temperature=temperature, max_new_tokens=400, **settings)
    return SampledSequence(GenerationRequest((1,), settings, forbidden_ids=frozenset(forbidden)), seed=3)

def drawn(*sequences):
    sampler = Sampler(sequences)
    for _ in range(300):
        choices = sampler.choose(np.repeat(logits, len(sequences), axis=0))
    return [list(item.token_ids) for item in sequences], [choice.event.warped_logprob for choice in choices]

rows, warped = drawn(sequence(top_a=0.9), sequence(dropped.tolist()), sequence())
sharpened = drawn(sequence(sharpen=4.0))[0][0]
as_sharp = drawn(sequence(temperature=0.7 / 4.0))[0][0]
page = build_page(Studio([pathlib.Path("models")], device="cpu")).get_config_file()
control = next(part for part in page["components"] if part["props"].get("elem_id") == "top-a")
scores = warp(logits, GenerationSettings(temperature=0.7, top_a=0.9))[0]
json.dump({
    "rows": rows, "warped": warped, "dropped": dropped.tolist(),
    "without": np.flatnonzero(np.isneginf(scores)).tolist(),
    "on_devices": sequence(top_a=0.9).plain,
    "sharpened": [sharpened, as_sharp],
    "greedy": drawn(sequence(temperature=0.0, top_a=0.9))[0][0][0],
    "control": [control["type"], control["props"]["minimum"], control["props"]["maximum"]],
    "words": [languages()[code].texts[key] for code in languages() for key in ("top_a", "top_a_info")],
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with two samplers more, each by changes to two files."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(textgen.__path__[0], folder / "textgen", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "models").mkdir()
    _insert(folder / "textgen" / "config.py", _SETTING, before="    repetition_penalty: float")
    warpers = folder / "textgen" / "engine" / "warpers.py"
    _insert(warpers, _RULE, before="# What narrows the choice")
    _insert(warpers, '    "top_a": keep_top_a,\n', before="}\n")
    _insert(folder / "textgen" / "config.py", _PROCESSOR_SETTING, before="    repetition_penalty: float")
    processors = folder / "textgen" / "engine" / "processors.py"
    _insert(processors, _PROCESSOR_RULE, before="        self._penalize(row, history)\n")
    return folder


def _insert(path: Path, text: str, *, before: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(f"\n{before}") == 1
    path.write_text(source.replace(f"\n{before}", f"\n{text}{before}"), encoding="utf-8")


def _run(copy: Path, *arguments: str) -> str:
    # What is compiled would be compiled anew in that folder; run as it is written it gives the same.
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told(copy: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run(copy, "-c", _PROGRAM))
    return found


def test_it_narrows_what_is_drawn_and_nothing_else(told: dict[str, Any]) -> None:
    narrowed, banned, free = told["rows"]
    assert 0 < len(told["dropped"]) < 24
    assert told["without"] == told["dropped"]
    # The same numbers draw the same tokens from the same distribution.
    assert narrowed == banned
    assert told["warped"][0] == pytest.approx(told["warped"][1], abs=1e-5)
    assert set(narrowed).isdisjoint(told["dropped"])
    assert not set(free).isdisjoint(told["dropped"])
    assert told["greedy"] == 23


def test_one_that_acts_before_temperature_does_so(told: dict[str, Any]) -> None:
    sharpened, as_sharp = told["sharpened"]
    assert sharpened == as_sharp
    assert len(set(sharpened)) < len(set(told["rows"][2]))


def test_no_device_draws_without_it(told: dict[str, Any]) -> None:
    assert told["on_devices"] is False


def test_the_page_has_a_control_for_it_in_the_words_of_its_setting(told: dict[str, Any]) -> None:
    assert told["control"] == ["slider", 0.0, 1.0]
    words = ["Top a", "Drop tokens below this times the square of the best."]
    assert told["words"] == words * (len(told["words"]) // 2)


def test_the_command_line_and_the_api_offer_it(copy: Path) -> None:
    assert "--top-a" in _run(copy, "-m", "textgen", "generate", "--help")
    assert "top_a" in _run(copy, "-c", "from textgen.api.protocol import OUR_EXTRAS; print(OUR_EXTRAS)")
