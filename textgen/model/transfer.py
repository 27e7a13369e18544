"""Which files make up a checkpoint that comes from elsewhere, and how large each may be.

Whoever brings one tells names and sizes first. Everything else is left where it is: what is taken over is data only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from textgen.errors import BadCheckpoint, InvalidSetting
from textgen.limits import Limits
from textgen.model.checkpoint import CARD, CONFIG, GENERATION, TOKENIZER
from textgen.model.weight_files import WEIGHTS, WEIGHTS_INDEX, is_weights

_COPY_INDEX = re.compile(r"copy_index(-\d{5}-of-\d{5})?\.safetensors")


def is_copy_index(name: str) -> bool:
    """Whether a file of that name may be one of a checkpoint's copy indexes."""
    return _COPY_INDEX.fullmatch(name) is not None


def wanted_files(sizes: Mapping[str, int | None], limits: Limits, *, field: str) -> dict[str, int]:
    """The files to take over and their sizes in bytes.

    Raises `BadCheckpoint` for what is missing or too large, and `InvalidSetting` for `field` where all together are.
    """
    # Weights lie in one file, or in several that an index names.
    indexed = WEIGHTS_INDEX in sizes
    for name in (CONFIG, TOKENIZER, *([] if indexed else [WEIGHTS])):
        if name not in sizes:
            raise BadCheckpoint(name, "file", "missing")
    files: dict[str, int] = {}
    for name, size in sizes.items():
        most = _most_bytes(name, limits)
        if most is None or (name != WEIGHTS_INDEX and is_weights(name) and (name == WEIGHTS) == indexed):
            continue
        if size is None or size > most:
            found = "unknown" if size is None else f"{size:,} bytes"
            raise BadCheckpoint(name, "size", f"{found}, where at most {most:,} are allowed")
        files[name] = size
    total, most = sum(files.values()), min(limits.max_hub_bytes, limits.max_weights_bytes)
    if total > most:
        raise InvalidSetting(field, f"{total / 1e6:,.1f} MB", f"at most {most / 1e6:,.1f} MB at once")
    return files


def _most_bytes(name: str, limits: Limits) -> int | None:
    """How large a file may be; None for one that is left where it is."""
    if name in (CONFIG, GENERATION, CARD, WEIGHTS_INDEX):
        return limits.max_config_bytes
    if name == TOKENIZER:
        return limits.max_tokenizer_bytes
    if is_copy_index(name):
        return limits.max_copy_indexes_bytes
    return limits.max_weights_bytes if is_weights(name) else None
