"""The Hugging Face Hub: checkpoints go there and come from there."""

from __future__ import annotations

from textgen.hub.client import Token, split_address
from textgen.hub.models import MAX_FILE_BYTES, ORIGIN, base_on_hub, hub_card, pull, push

__all__ = ["MAX_FILE_BYTES", "ORIGIN", "Token", "base_on_hub", "hub_card", "pull", "push", "split_address"]
