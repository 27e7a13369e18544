"""What `import textgen` gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import textgen
from textgen.errors import BadCheckpoint, InvalidSetting
from textgen.studio import LoadedModel, Studio, TextEnd

_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(textgen.__file__).parents[1])}


def test_importing_it_imports_nothing_heavy() -> None:
    program = (
        "import sys, textgen; sys.exit(sum(name in sys.modules for name in ('torch', 'numpy', 'gradio', 'pydantic')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("arguments", [("serve", "--help"), ("runs", "list", "--runs", ".")], ids=" ".join)
def test_what_needs_no_model_does_not_wait_for_torch_or_gradio(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = """
        import sys
        from textgen.cli import main
        try:
            main(sys.argv[1:])
        except SystemExit:
            pass
        sys.exit(sum(name in sys.modules for name in ("torch", "gradio")))
    """
    subprocess.run([sys.executable, "-c", dedent(program), *arguments], cwd=tmp_path, env=_ENVIRONMENT, check=True)


def test_what_it_exports_is_there() -> None:
    assert textgen.Studio is Studio
    assert textgen.LoadedModel is LoadedModel
    assert {name for name in textgen.__all__ if hasattr(textgen, name)} == set(textgen.__all__)
    with pytest.raises(AttributeError, match="no attribute 'write'"):
        _ = textgen.write


def test_a_run_is_loaded_and_writes_what_its_stream_does(trained_run: Path) -> None:
    with textgen.load(str(trained_run), device="cpu", threads=1) as model:
        text = model.write("The ", max_new_tokens=20, seed=3)
        (end,) = [event for event in model.stream("The ", max_new_tokens=20, seed=3) if isinstance(event, TextEnd)]
        assert text == end.text != ""
        assert model.write("The ", max_new_tokens=20, seed=4) != text
        with pytest.raises(InvalidSetting, match="temperature"):
            model.write("The ", temperature=-1.0)


def test_settings_that_are_not_given_are_the_models_own(trained_run: Path) -> None:
    with textgen.load(trained_run, device="cpu", threads=1) as model:
        own = model.defaults.model_dump(exclude={"seed", "max_new_tokens"})
        assert model.write("", max_new_tokens=20, seed=1) == model.write("", **own, max_new_tokens=20, seed=1)


@pytest.mark.parametrize("wrong", [{"device": "abacus"}, {"backend": "abacus"}, {"threads": 0}], ids=str)
def test_what_cannot_run_a_model_is_told_by_name(wrong: dict[str, Any], trained_run: Path) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        textgen.load(trained_run, **wrong)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint):
        textgen.load(tmp_path)
