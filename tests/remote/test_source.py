"""The archive of the program's own source."""

from __future__ import annotations

import io
import subprocess
import tarfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from textgen import __version__
from textgen.errors import InvalidSetting
from textgen.remote import source
from textgen.remote.source import constraints, write_source

ROOT = Path(__file__).parents[2]
TOP = f"textgen_studio-{__version__}/"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        return {item.name.removeprefix(TOP): (archive.extractfile(item) or io.BytesIO()).read() for item in archive}


def test_it_is_the_package_and_what_building_it_takes(tmp_path: Path) -> None:
    write_source(tmp_path / "source.tar.gz")
    found = members(tmp_path / "source.tar.gz")
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard", "textgen"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the project is not a git repository here")
    there = {name for name in listed if (ROOT / name).is_file()}
    beside = {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "app.py", "requirements.txt"}
    assert found.keys() == {*there, *beside}
    assert all(content == (ROOT / name).read_bytes() for name, content in found.items())


def test_the_same_source_is_the_same_archive(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        write_source(tmp_path / name)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert constraints() == (ROOT / "requirements.txt").read_bytes()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder of installed ones, with what people leave there."""
    package = tmp_path / "site" / "textgen"
    for name in ("__init__.py", "ui/page.css", ".env", "notes.log", "__pycache__/a.py", "runs/.hidden/b.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1\n")
    (package / "link.py").symlink_to(package / "__init__.py")
    monkeypatch.setattr("textgen.__file__", str(package / "__init__.py"))
    return package


def test_an_installed_package_says_what_it_needs(installed: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "source.tar.gz")
    found = members(tmp_path / "source.tar.gz")
    assert found.keys() == {"textgen/__init__.py", "textgen/ui/page.css", "pyproject.toml"}
    assert constraints() is None
    project = found["pyproject.toml"].decode()
    assert f'version = "{__version__}"' in project
    assert '"torch' in project
    assert "requires-python" in project


def test_what_is_neither_is_told(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(source, "metadata", missing)
    with pytest.raises(InvalidSetting, match="checkout"):
        write_source(tmp_path / "source.tar.gz")
