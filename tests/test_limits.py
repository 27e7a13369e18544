from __future__ import annotations

import json

import pytest

from textgen.errors import InvalidSetting
from textgen.limits import Limits, limits_from


def test_a_host_sets_its_limits_by_their_names() -> None:
    assert limits_from({}, shared=False) == Limits()
    assert limits_from({}, shared=True).max_run_minutes < Limits().max_run_minutes
    given = {"TEXTGEN_MAX_RUN_MINUTES": "7.5", "TEXTGEN_MAX_UPLOAD_BYTES": "1000", "TEXTGEN_RUNS": "elsewhere"}
    limits = limits_from(given, shared=True)
    assert (limits.max_run_minutes, limits.max_upload_bytes) == (7.5, 1000)


@pytest.mark.parametrize("given", ["", "many", "-1", "0", "nan", "inf", "1.5"])
def test_a_limit_that_is_none_is_told(given: str) -> None:
    with pytest.raises(InvalidSetting, match="TEXTGEN_MAX_UPLOAD_BYTES"):
        limits_from({"TEXTGEN_MAX_UPLOAD_BYTES": given}, shared=False)


def test_limits_reach_another_process() -> None:
    limits = Limits(max_runs_training_per_device=0, lease_seconds=1.5, max_model_parameters=7)
    assert Limits.from_json(limits.to_json()) == limits


def test_limits_of_another_version_of_the_program_are_understood() -> None:
    told = {"lease_seconds": 5.0, "max_of_something_new": 3}
    assert Limits.from_json(json.dumps(told)) == Limits(lease_seconds=5.0)
