"""Packs into a wheel what `textgen deploy` needs of what lies beside the package."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SpaceFiles(BuildHookInterface):
    """An editable installation needs no copies: there the checkout itself is at hand."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            names = ("app.py", "requirements.txt", "LICENSE")
            build_data["force_include"].update({name: f"textgen/space/{name}" for name in names})
