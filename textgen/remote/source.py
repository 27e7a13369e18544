"""This program's own source, as files and as an archive that pip installs: it is on no package index."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import textgen
from textgen.errors import InvalidSetting
from textgen.files import write_atomically

_PROJECT = "textgen-studio"
APP, REQUIREMENTS, LICENSE = "app.py", "requirements.txt", "LICENSE"
# What lies beside the package in a checkout and belongs to it.
_BESIDE = ("pyproject.toml", "hatch_build.py", "README.md", APP, REQUIREMENTS, LICENSE)
# Where in the package a wheel has the last two: see hatch_build.py.
_PACKED = "space"
# Named one by one, so that nothing goes along that somebody has left in the package's folder.
_SUFFIXES = frozenset({".py", ".typed", ".css", ".html", ".js", ".json"})
# The first moment that a zip file can name, which a wheel is: the archive depends on its content alone.
_TIME = 315_532_800


def write_source(path: Path) -> None:
    """Writes the archive (.tar.gz); the same source gives the same bytes.

    Raises `CannotWrite`, and `InvalidSetting` where the program is neither in a checkout nor installed.
    """
    top = f"{_PROJECT.replace('-', '_')}-{textgen.__version__}"
    data = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=data, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in sorted(_content().items()):
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime, member.mode = len(content), _TIME, 0o644
            archive.addfile(member, io.BytesIO(content))
    write_atomically(path, data.getvalue())


def constraints() -> bytes | None:
    """The versions that this program is tested with, as pip's constraints; None where it does not say."""
    path = beside(REQUIREMENTS)
    return path.read_bytes() if path else None


def beside(name: str) -> Path | None:
    """A file that lies beside the package in a checkout, or was packed into its wheel; None where it is neither."""
    root = _checkout()
    path = root / name if root else _package() / _PACKED / name
    return path if path.is_file() else None


def package_files() -> dict[str, Path]:
    """The package's own files by their names beside it, `textgen/…`, whatever else lies in its folder."""
    return {f"textgen/{name}": path for name, path in _package_files(_package()).items()}


def _content() -> dict[str, bytes]:
    files = {name: path.read_bytes() for name, path in package_files().items()}
    root = _checkout()
    if root is None:
        return {**files, "pyproject.toml": _made_project()}
    return {**files, **{name: (root / name).read_bytes() for name in _BESIDE if (root / name).is_file()}}


def _package_files(package: Path) -> Mapping[str, Path]:
    found = {}
    for path in package.rglob("*"):
        name = path.relative_to(package)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts) or name.parts[0] == _PACKED
        if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink() and not hidden:
            found[name.as_posix()] = path
    return found


def _package() -> Path:
    return Path(str(textgen.__file__)).resolve().parent


def _checkout() -> Path | None:
    root = _package().parent
    project = root / "pyproject.toml"
    named = project.is_file() and f'name = "{_PROJECT}"' in project.read_text(encoding="utf-8")
    return root if named else None


def _made_project() -> bytes:
    """A pyproject.toml that says what the installed package says of itself."""
    try:
        known = metadata(_PROJECT)
    except PackageNotFoundError:
        raise InvalidSetting("on", "hf-jobs", "a program that runs from its checkout or is installed") from None
    needed = [item for item in known.get_all("Requires-Dist") or [] if "extra ==" not in item]
    # A string or a list of strings in JSON is one in TOML, too.
    lines = [
        "[build-system]",
        'requires = ["hatchling>=1.27"]',
        'build-backend = "hatchling.build"',
        "[project]",
        f"name = {json.dumps(_PROJECT)}",
        f"version = {json.dumps(textgen.__version__)}",
        f"requires-python = {json.dumps(known['Requires-Python'])}",
        f"dependencies = {json.dumps(needed)}",
        "[project.scripts]",
        'textgen = "textgen.cli:main"',
        "[tool.hatch.build.targets.wheel]",
        'packages = ["textgen"]',
        "",
    ]
    return "\n".join(lines).encode()
