"""The files that a training job is given: texts, base, settings, this program.

config.json            the settings: the very file that `textgen train --config` reads
texts/0001/NAME        the texts in their order; heldout/0001/NAME those to evaluate on
base/NAME/             the checkpoint to start from
teachers/0001/NAME/    the checkpoints to learn from
source.tar.gz          this program; constraints.txt the versions it is tested with
run.py                 what installs it, trains and pushes
README.md              what this is
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.config import RunSettings, update_settings
from textgen.errors import InvalidSetting
from textgen.files import write_atomically
from textgen.limits import Limits
from textgen.remote import script
from textgen.remote.source import constraints, write_source
from textgen.text.readers import open_text

if TYPE_CHECKING:
    from textgen.model.checkpoint import Checkpoint

CONFIG, SCRIPT, SOURCE, CONSTRAINTS, CARD = "config.json", "run.py", "source.tar.gz", "constraints.txt", "README.md"
_TEXTS, _HELDOUT, _BASE, _TEACHERS = "texts", "heldout", "base", "teachers"
_MAX_NAME_CHARS = 80
_CARD = """# Files of a training job

Textgen Studio has put here what a job of it reads: texts, settings and the program. The job reads this commit only;
when it is over, nothing needs this any more.
"""


def make_bundle(settings: RunSettings, folder: Path) -> Mapping[str, Path]:
    """The files to upload by their names there; those that are made for it are written into `folder`.

    Raises `InvalidSetting` when there is no text or no budget, what `open_text` raises for texts that cannot be read,
    `BadCheckpoint` or `BadTokenizer` for a base or a teacher that is none, `CannotWrite`.
    """
    if not settings.files:
        raise InvalidSetting("files", "none", "at least one text file")
    settings.training.check_budget()
    texts = _named(_TEXTS, settings.files, settings.text.encoding)
    heldout = _named(_HELDOUT, settings.heldout_files, settings.text.encoding)
    base, teachers = _checkpoints(settings, folder)
    there = update_settings(
        settings,
        files=tuple(texts),
        heldout_files=tuple(heldout),
        base=next(iter(base)).rpartition("/")[0] if base else None,
        teachers=tuple(dict.fromkeys(name.rpartition("/")[0] for name in teachers)),
    )
    content = json.dumps(there.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    made = {CONFIG: content.encode(), CARD: _CARD.encode(), CONSTRAINTS: constraints()}
    for name, data in made.items():
        if data is not None:
            write_atomically(folder / name, data)
    write_source(folder / SOURCE)
    written = {name: folder / name for name in (*made, SOURCE) if made.get(name, b"") is not None}
    return {**texts, **heldout, **base, **teachers, **written, SCRIPT: Path(script.__file__)}


def is_bundle_file(name: str) -> bool:
    """Whether a file of this name in a repository is one of a job's, or of the Hub's own making."""
    known = (CONFIG, SCRIPT, SOURCE, CONSTRAINTS, CARD, ".gitattributes")
    return name in known or name.startswith(tuple(f"{folder}/" for folder in (_TEXTS, _HELDOUT, _BASE, _TEACHERS)))


def _named(folder: str, files: Sequence[str], encoding: str | None) -> dict[str, Path]:
    """The files by their names there: numbered folders keep their order and tell those of one name apart."""
    paths = [open_text(Path(file), encoding=encoding).path for file in files]
    return {f"{folder}/{number:04d}/{safe_name(path.name)}": path for number, path in enumerate(paths, 1)}


def safe_name(name: str) -> str:
    """A file name with its letters, digits and extension, of any script, and nothing else that could mean something."""
    stem, dot, extension = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name)).strip(".-").rpartition(".")
    stem, extension = (stem, dot + extension) if stem and len(extension) <= 16 else (f"{stem}{dot}{extension}", "")
    return (stem[: _MAX_NAME_CHARS - len(extension)] or "text") + extension


def _checkpoints(settings: RunSettings, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of the base, and those of the teachers in their order.

    They are written anew: only what a checkpoint consists of goes along, whatever lies beside it.
    """
    from textgen.jobs.base import open_base
    from textgen.jobs.teachers import open_teachers

    base = open_base(settings, limits=Limits())
    teachers: dict[str, Path] = {}
    for number, teacher in enumerate(open_teachers(settings, base, limits=Limits()), 1):
        name = f"{_TEACHERS}/{number:04d}/{safe_name(teacher.name)}"
        teachers.update(_checkpoint_files(teacher.checkpoint, folder, name))
    if base is None:
        return {}, teachers
    return _checkpoint_files(base.checkpoint, folder, f"{_BASE}/{safe_name(base.name)}"), teachers


def _checkpoint_files(checkpoint: Checkpoint, folder: Path, name: str) -> dict[str, Path]:
    from textgen.model.checkpoint import save_checkpoint

    save_checkpoint(folder / name, checkpoint)
    return {f"{name}/{path.name}": path for path in sorted((folder / name).iterdir())}
