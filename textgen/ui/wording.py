"""The languages of the page: for each a file in `languages/`, whose name is the code that the page calls it by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from textgen.config import Settings, parse_settings
from textgen.errors import InvalidSetting, TextgenError
from textgen.ui.phrases import Phrases

# The code of the language that errors are in to begin with, and that stands in for what another one lacks.
ENGLISH = "en"


class LanguageFile(Settings):
    """What such a file holds."""

    name: str = Field(description="what the language calls itself")
    locale: str = Field(description="its tag by BCP 47, for the browser")
    browsers: tuple[str, ...] = Field(description="languages of browsers that it serves: tags, or how they begin")
    separator: str = Field(", ", description="what stands between the items of a list")
    texts: dict[str, dict[str, str]] = Field(description="texts by their keys, in groups for those who translate")
    scripts: dict[str, str] = Field({}, description="names of scripts by the English ones")
    phrases: dict[str, str] = Field({}, description="what errors are put together of, by the English; see `Phrases`")

    def by_key(self) -> dict[str, str]:
        """The texts, whatever their groups."""
        return {key: text for group in self.texts.values() for key, text in group.items()}


@dataclass(frozen=True)
class Wording:
    """A language of the page, complete: what its file lacks is in English."""

    name: str
    locale: str
    browsers: tuple[str, ...]
    separator: str
    texts: Mapping[str, str]
    scripts: Mapping[str, str]
    phrases: Phrases


def read_language(file: Path) -> LanguageFile:
    """One file; `InvalidSetting` names what is wrong in it."""
    try:
        return parse_settings(LanguageFile, json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        if isinstance(error, InvalidSetting):
            field, given, allowed = (error.params[name] for name in ("field", "given", "allowed"))
            raise InvalidSetting(f"{file.name}: {field}", given, str(allowed)) from None
        raise InvalidSetting(file.name, str(error), "a JSON object in UTF-8") from None


def read_languages(folder: Path, spare: Mapping[str, str]) -> dict[str, Wording]:
    """Every language in a folder by its code, English first.

    What errors say in English is in `textgen.errors`; `spare` has English for what else that file may lack.
    """
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem != ENGLISH, file.stem))
    found = {file.stem: read_language(file) for file in files}
    errors = {f"error_{kind.code}": kind.template for kind in TextgenError.__subclasses__()}
    english = {**spare, **found[ENGLISH].by_key(), **errors}
    return {code: _completed(file, english) for code, file in found.items()}


def _completed(file: LanguageFile, english: Mapping[str, str]) -> Wording:
    texts = {**english, **file.by_key()}
    states = {key.removeprefix("state_"): text for key, text in texts.items() if key.startswith("state_")}
    return Wording(
        name=file.name,
        locale=file.locale,
        browsers=file.browsers,
        separator=file.separator,
        texts=texts,
        scripts=file.scripts,
        phrases=Phrases(file.phrases, file.separator, states),
    )
