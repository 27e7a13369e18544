"""Bounds that protect the machine. A limit's name carries its unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from textgen.errors import InvalidSetting


@dataclass(frozen=True)
class Limits:
    """Passed to whatever must stay bounded; tests and hosts make their own."""

    max_prompt_chars: int = 20_000
    max_new_tokens: int = 4_000
    max_beams: int = 32
    max_waiting_requests: int = 64
    max_rows: int = 512
    max_adapted_requests: int = 2
    max_prefix_cache_bytes: int = 64_000_000
    max_models_bytes: int = 4_000_000_000
    request_deadline_seconds: float = 600.0
    max_config_bytes: int = 1_000_000
    max_tokenizer_bytes: int = 64_000_000
    max_weights_bytes: int = 8_000_000_000
    # Of one text; and of all texts that a model and those before it have learned from.
    max_copy_index_bytes: int = 700_000
    max_copy_indexes_bytes: int = 2_100_000
    max_hub_bytes: int = 8_000_000_000
    max_runs_training_per_device: int = 1
    training_niceness: int = 15
    training_processes: int = 1
    max_queued_runs: int = 1_000
    max_queued_runs_per_person: int = 8
    max_runs_per_person: int = 200
    max_run_minutes: float = 10_000.0
    max_run_title_chars: int = 80
    max_model_parameters: int = 500_000_000
    max_upload_bytes: int = 200_000_000
    max_person_bytes: int = 20_000_000_000
    min_free_disk_bytes: int = 500_000_000
    max_start_attempts: int = 3
    lease_seconds: float = 60.0
    heartbeat_seconds: float = 300.0
    # Where a GPU is lent by the call: how long one call trains.
    training_slice_seconds: float = 40.0
    # Uploads become text in a process of its own. Files count after unpacking; sizes are those of what is read.
    max_import_files: int = 1_000
    max_import_member_bytes: int = 200_000_000
    max_import_total_bytes: int = 600_000_000
    max_import_ratio: float = 100.0
    max_import_field_chars: int = 20_000_000
    max_import_seconds: float = 900.0
    max_import_file_seconds: float = 300.0
    max_import_memory_bytes: int = 2_000_000_000

    def to_json(self) -> str:
        """For a process that must keep to the same limits."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Limits:
        """What `to_json` wrote, perhaps in another version of the program: only limits known here are taken over."""
        known = {limit.name for limit in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


_SHARED: Mapping[str, float] = {
    "max_run_minutes": 60.0,
    "max_queued_runs": 50,
    "max_queued_runs_per_person": 3,
    "max_runs_per_person": 20,
    "max_person_bytes": 2_000_000_000,
    "max_upload_bytes": 50_000_000,
    "max_hub_bytes": 500_000_000,
    "max_model_parameters": 50_000_000,
}


def limits_from(environment: Mapping[str, str], *, shared: bool) -> Limits:
    """What a host allows: `TEXTGEN_` and the name of a limit in capitals sets it; a shared host begins stricter.

    Raises `InvalidSetting` for what is no number above 0.
    """
    values: dict[str, float] = dict(_SHARED) if shared else {}
    for limit in fields(Limits):
        name = f"TEXTGEN_{limit.name.upper()}"
        given = environment.get(name)
        if given is None:
            continue
        try:
            value = int(given) if isinstance(limit.default, int) else float(given)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise InvalidSetting(name, given, "a number above 0")
        values[limit.name] = value
    return Limits(**values)  # type: ignore[arg-type]
