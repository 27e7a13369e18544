"""A model as a zip: what Download gives, and what may be brought from anywhere.

A zip from elsewhere is read without trusting what it says: links, names that lead out, overlapping or bottomless
members and false sizes are refused, and of the rest only the files of a checkpoint are unpacked.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from textgen.errors import BadCheckpoint, DamagedFile, MissingFile, UnsafeMember
from textgen.files import check_free, explain_write_errors, replace_folder
from textgen.jobs.checkpoints import check_checkpoint, open_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import CONFIG, TOKENIZER, save_checkpoint
from textgen.model.transfer import wanted_files
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.importing.archives import Archive, Member, check_member

_MOST_NAME_CHARS = 60
# The last record of a zip file, with a comment of any length, and the one before it in files of another layout.
_END, _END_BYTES, _MOST_COMMENT_BYTES = b"PK\x05\x06", 22, 65_535
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
# Some thousand entries; a model has a dozen files.
_MOST_DIRECTORY_BYTES = 1_000_000


def pack_model(checkpoint: Path, title: str, target: Path, *, limits: Limits | None = None) -> Path:
    """Writes a zip of the checkpoint, at half the size, into the folder `target`, named after `title`.

    The same model gives the same bytes. Raises `BadCheckpoint`, `BadTokenizer` and `CannotWrite`.
    """
    opened, _ = open_checkpoint(checkpoint, limits=limits)
    folder = target / folder_name(title)
    save_checkpoint(folder, opened, weight_format="float16")
    return pack_folder(folder)


def folder_name(title: str) -> str:
    """What a folder may be called anywhere that holds the model of this title."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in title).strip("-")[:_MOST_NAME_CHARS] or "model"


def pack_folder(folder: Path) -> Path:
    """Writes a zip of a folder of files beside it; the same files give the same bytes. Raises `CannotWrite`."""
    packed = folder.with_name(f"{folder.name}.zip")
    with explain_write_errors(packed), zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(f"{folder.name}/{path.name}")
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, 1 << 20)
    return packed


def unpack_model(
    archive: Path,
    out: Path,
    *,
    name: str,
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Replaces the folder `out` by the model in a zip that is called `name`; it takes its place only when it is whole.

    Raises `MissingFile`, `DamagedFile`, `EncryptedFile`, `UnsupportedFile`, `ArchiveBomb`, `FileTooLarge`,
    `BadCheckpoint`, `BadTokenizer`, `InvalidSetting` for more than `max_hub_bytes`, `NoRoom` and `CannotWrite`.
    """
    limits = limits or Limits()
    _check_directory(archive, name)
    with Archive(archive, name, replace(limits, max_import_member_bytes=limits.max_weights_bytes)) as opened:
        members = _members_of_model(opened.members(), name)
        sizes = wanted_files({file: item.info.file_size for file, item in members.items()}, limits, field="model")
        check_free(out.parent, sum(sizes.values()), min_free_bytes=limits.min_free_disk_bytes)

        def fill(new: Path) -> None:
            _unpack(opened, {file: members[file] for file in sizes}, new, name, progress)
            progress(Progress("checking", 0))
            check_checkpoint(new, limits=limits)

        replace_folder(out, fill)


def _unpack(
    archive: Archive, members: Mapping[str, Member], folder: Path, name: str, progress: ProgressCallback
) -> None:
    total, done = sum(member.info.file_size for member in members.values()), 0
    for file, member in members.items():
        with (folder / file).open("wb") as stream:
            for chunk in archive.chunks(member):
                stream.write(chunk)
                done += len(chunk)
                progress(Progress("unpacking", done / 1e6, total / 1e6, "MB"))
            # Less than an archive says is read without a complaint.
            if stream.tell() != member.info.file_size:
                raise DamagedFile(name, "ZIP")


def _members_of_model(members: list[Member], archive: str) -> dict[str, Member]:
    """The files beside the one config.json that has a vocabulary beside it, whatever folder they are in."""
    found: dict[PurePosixPath, dict[str, Member]] = {}
    for member in members:
        try:
            check_member(member, member.name)
        except UnsafeMember:
            raise BadCheckpoint(archive, member.name, "a link, or leads out of the archive") from None
        path = PurePosixPath(member.name.replace("\\", "/"))  # some archivers of Windows write it so
        folder = found.setdefault(path.parent, {})
        if path.name in folder:
            raise BadCheckpoint(archive, member.name, "there more than once")
        folder[path.name] = member
    models = [folder for folder in found.values() if CONFIG in folder and TOKENIZER in folder]
    if not models:
        raise BadCheckpoint(archive, CONFIG, "no model in it; one is a folder with config.json and tokenizer.model")
    if len(models) > 1:
        raise BadCheckpoint(archive, CONFIG, f"{len(models)} models in it, where one is wanted")
    return models[0]


def _check_directory(archive: Path, name: str) -> None:
    """Raises `BadCheckpoint` where the list of what is in a zip is longer than any model's, since it is read whole."""
    try:
        with archive.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _MOST_COMMENT_BYTES - _END_BYTES - _ZIP64_LOCATOR_BYTES))
            tail = stream.read()
    except OSError as error:
        raise MissingFile(name, error.strerror or str(error)) from None
    # Whoever opens the file may take another place for the end than one would think: all of them are looked at.
    for found in re.finditer(re.escape(_END), tail):
        listed = int.from_bytes(tail[found.start() + 12 : found.start() + 16], "little")
        before = tail[max(0, found.start() - _ZIP64_LOCATOR_BYTES) : found.start()]
        if listed > _MOST_DIRECTORY_BYTES or before.startswith(_ZIP64_LOCATOR):
            raise BadCheckpoint(name, "size", "a list of files that is longer than any model's")
