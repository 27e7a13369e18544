from __future__ import annotations

from typing import Any

import pytest

from textgen.benchmarks import page


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ("all of it", "all of it"),
        ([["append", [], " was"]], "it was"),
        ([["replace", [], "It"]], "It"),
        ([["append", [], " was"], ["append", [], " so"]], "it was so"),
        ([["replace", [], {"__type__": "update"}]], "it"),
        ([["replace", ["props", "value"], "x"]], "it"),
        ({"__type__": "update"}, "it"),
        ([], "it"),
        (None, "it"),
    ],
)
def test_a_text_is_followed_through_gradios_updates(update: Any, expected: str) -> None:
    assert page._changed("it", update) == expected


def test_nobody_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        page.main(["--users", "0"])
    assert "0 is not a whole number of at least 1" in capsys.readouterr().err
