"""The YAML at the head of a model card, by which the Hub files it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_FENCE = "---\n"


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """What the head of a card says, and the card without it; a head that is no mapping in YAML says nothing."""
    if not card.startswith(_FENCE):
        return {}, card
    head, fence, body = card.removeprefix(_FENCE).partition(f"\n{_FENCE}")
    if not fence:
        return {}, card
    try:
        values = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that does not exist is a ValueError
        return {}, body
    return (values if isinstance(values, dict) else {}), body


def join_card(values: Mapping[str, Any], body: str) -> str:
    """A card with `values` at its head."""
    head = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f"{_FENCE}{head}{_FENCE}{body}"
