"""What `pip install .` puts in place."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import textgen

ROOT = Path(__file__).parents[1]
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check", "."]
    subprocess.run([*command, "--wheel-dir", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_it_is_small_and_holds_what_is_no_code(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_BYTES
    assert wheel.name.startswith(f"textgen_studio-{textgen.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {path for path in (ROOT / "textgen").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= packed
    assert "textgen/py.typed" in packed
    assert {"textgen/space/app.py", "textgen/space/requirements.txt"} <= packed  # for `textgen deploy`
    assert not any(name.startswith(("tests/", "checkpoints/", "docs/")) for name in packed)


@pytest.mark.slow
def test_installed_it_runs_a_model(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    program = (
        "import sys, textgen, textgen.cli\n"
        f"assert textgen.__file__.startswith({str(tmp_path)!r}), textgen.__file__\n"
        "sys.exit(textgen.cli.main(sys.argv[1:]))"
    )
    arguments = ["score", "--checkpoint", str(ROOT / "checkpoints" / "shakespeare"), "--text", "To be, or not to be"]
    # What chooses tokens would be compiled anew in that folder, which takes longer than everything else here.
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nats" in done.stdout
