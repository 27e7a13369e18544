"""What the process that converts is to do, as both sides write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen.limits import Limits
from textgen.text.importing.records import ImportSource

DIGESTS = "digests"
SPOOLED = "member"


class BadEvent(Exception):
    """The process said something that it never says."""


@dataclass(frozen=True)
class Job:
    """The sources from number `source` on, in that one the files from number `member` on.

    `files` and `bytes` are what was used before of what one import may.
    """

    sources: tuple[ImportSource, ...]
    folder: Path
    limits: Limits
    source: int = 0
    member: int = 0
    files: int = 0
    bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The job as JSON can hold it."""
        sources = [{**vars(source), "path": str(source.path)} for source in self.sources]
        return {**vars(self), "sources": sources, "folder": str(self.folder), "limits": vars(self.limits)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Job:
        """What `as_dict` wrote."""
        sources = tuple(ImportSource(**{**source, "path": Path(source["path"])}) for source in content["sources"])
        limits = Limits(**content["limits"])
        return cls(**{**content, "sources": sources, "folder": Path(content["folder"]), "limits": limits})


def output_name(source: int, member: int) -> str:
    """The name of a converted file in the job's folder."""
    return f"{source}-{member}.txt"
