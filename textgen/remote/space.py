"""The files of a Space: this program, the models that it opens with, and what tells the Hub how to run it.

README.md          the settings of the Space, as its front matter, and what it is
app.py             what is started; requirements.txt what is installed
textgen/           this program
checkpoints/NAME/  the models
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textgen.errors import InvalidSetting
from textgen.files import temporary_folder, write_atomically
from textgen.hub import MAX_FILE_BYTES, Token
from textgen.hub.spaces import SpaceOptions, check_space, put_space
from textgen.model.front_matter import join_card
from textgen.progress import ProgressCallback, ignore_progress
from textgen.remote.bundle import safe_name
from textgen.remote.source import APP, LICENSE, REQUIREMENTS, beside, package_files

CARD = "README.md"
MODELS = "checkpoints"

_MARK = "textgen/__init__.py"
_NOT_SERVED = "textgen/benchmarks/"
# What ZeroGPU runs, by its documentation: of torch also 2.8.0, 2.9.1 and 2.10.0, of Python also 3.10.13.
_ZERO_PYTHON = "3.12.12"
_ZERO_TORCH = "torch==2.11.0"
_ZERO_PACKAGE = "spaces==0.51.3"
_TORCH = re.compile(r"^torch\b.*$", re.MULTILINE)
_PINNED_GRADIO = re.compile(r"^gradio==(\d+\.\d+\.\d+)$", re.MULTILINE)
_BODY = """
# Textgen Studio

Write with recurrent language models and train your own, in the browser. `textgen deploy` has put it here.

{models}
"""


def front_matter(requirements: str, *, zero_gpu: bool = False) -> dict[str, Any]:
    """The settings of a Space whose requirements.txt this is: the version of gradio is the one pinned there.

    ZeroGPU wants a version of Python to the last digit.

    With `hf_oauth` people may log in, and then find their runs on any device; it asks for nothing but their name.
    """
    pinned = _PINNED_GRADIO.search(requirements)
    if pinned is None:
        raise InvalidSetting(REQUIREMENTS, "no version of gradio", "a line like gradio==6.31.0")
    return {
        "title": "Textgen Studio",
        "emoji": "✒️",
        "colorFrom": "green",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": pinned[1],
        "python_version": _ZERO_PYTHON if zero_gpu else "3.12",
        "app_file": APP,
        "license": "mit",
        "short_description": "Write with a recurrent language model, train your own",
        "hf_oauth": True,
        "startup_duration_timeout": "30m",
        "tags": ["text-generation", "recurrent"],
    }


def deploy(
    repo_id: str,
    models: Sequence[Path],
    options: SpaceOptions,
    *,
    token: Token = None,
    endpoint: str | None = None,
    progress: ProgressCallback = ignore_progress,
) -> str:
    """Makes the Space and uploads its files; returns its address. Raises what `space_files` and `put_space` raise."""
    check_space(repo_id, options)
    with temporary_folder() as folder:
        files = space_files(folder, models, zero_gpu=options.zero_gpu)
        return put_space(repo_id, files, options, mark=_MARK, token=token, endpoint=endpoint, progress=progress)


def zero_gpu_requirements(requirements: str) -> str:
    """What a Space on ZeroGPU installs in place of `requirements`: a torch that runs there, and what asks for a GPU."""
    return _TORCH.sub(_ZERO_TORCH, requirements).rstrip("\n") + f"\n{_ZERO_PACKAGE}\n"


def space_files(folder: Path, models: Sequence[Path] = (), *, zero_gpu: bool = False) -> dict[str, Path]:
    """What a Space consists of, by its names there; what is made for it is written into `folder`.

    `models` are checkpoints or runs; without any those that ship go along. On `zero_gpu` other packages are installed.
    Raises `InvalidSetting` where the program lies neither in a checkout nor in a wheel, and for two models of one name
    or none at all; `BadCheckpoint`, `BadTokenizer`, `CannotWrite`.
    """
    files = {name: path for name, path in package_files().items() if not name.startswith(_NOT_SERVED)}
    for name in (APP, REQUIREMENTS, LICENSE):
        path = beside(name)
        if path is None:
            raise InvalidSetting("deploy", f"a program without {name}", "one that runs from its checkout or its wheel")
        files[name] = path
    names = _model_files(folder / MODELS, models or _shipped())
    files |= {f"{MODELS}/{path.parent.name}/{path.name}": path for path in names}
    requirements = files[REQUIREMENTS].read_text(encoding="utf-8")
    if zero_gpu:
        files[REQUIREMENTS] = folder / REQUIREMENTS
        write_atomically(files[REQUIREMENTS], zero_gpu_requirements(requirements).encode())
    head = front_matter(requirements, zero_gpu=zero_gpu)
    write_atomically(folder / CARD, join_card(head, _body(sorted({path.parent.name for path in names}))).encode())
    return {**files, CARD: folder / CARD}


def _shipped() -> list[Path]:
    app = beside(APP)
    found = sorted((app.parent / MODELS).glob("*/config.json")) if app else []
    if not found:
        raise InvalidSetting("models", "none", "--models DIR: no model ships with an installed program")
    return [path.parent for path in found]


def _model_files(folder: Path, models: Sequence[Path]) -> list[Path]:
    """Each model written anew, at half the size: only what a checkpoint consists of goes along."""
    from textgen.jobs.checkpoints import open_checkpoint  # imports torch
    from textgen.model.checkpoint import save_checkpoint

    for model in models:
        out = folder / safe_name(model.absolute().name)
        if out.exists():
            raise InvalidSetting("models", str(model), "folders of different names")
        checkpoint, _ = open_checkpoint(model)
        save_checkpoint(out, checkpoint, weight_format="float16", max_file_bytes=MAX_FILE_BYTES)
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def _body(models: Sequence[str]) -> str:
    listed = "\n".join(f"- [{name}]({MODELS}/{name}/README.md)" for name in models)
    return _BODY.format(models=f"Models:\n\n{listed}")
