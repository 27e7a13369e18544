"""Bounds that protect the machine. A limit's name carries its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Passed to whatever must stay bounded; tests and hosts make their own."""

    max_prompt_chars: int = 20_000
    max_new_tokens: int = 4_000
    max_beams: int = 32
    max_waiting_requests: int = 64
    max_rows: int = 256
    request_deadline_seconds: float = 600.0
    max_config_bytes: int = 1_000_000
    max_tokenizer_bytes: int = 64_000_000
    max_weights_bytes: int = 8_000_000_000
