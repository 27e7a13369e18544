from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from textgen.errors import BadLines, HoldsNoText, ImportFailed, TextgenError, error_from_dict
from textgen.limits import Limits
from textgen.text.importing.acceptance import checked_result, next_path
from textgen.text.importing.job import BadEvent
from textgen.text.importing.records import ImportedText


def record(**changes: Any) -> dict[str, Any]:
    honest = ImportedText(
        "x", "txt", Path("/tmp/x"), "utf-8", True, 4, 3, 1, 0, ("one",), (), None, (("Latin", 1.0),), None
    )
    return {**honest.as_dict(), **changes}


def test_an_honest_record_is_taken_under_our_name_and_path(tmp_path: Path) -> None:
    path = tmp_path / "0-0.txt"
    path.write_text("one\n")
    result = checked_result(record(name="other", path="/etc/passwd"), "a.txt", path, Limits())
    assert (result.name, result.path, result.first_lines, result.problem) == ("a.txt", path, ("one",), None)


@pytest.mark.parametrize(
    "content",
    [
        None, [], {}, record(bytes=-1), record(characters="3"), record(documents=True), record(kind="exe"),
        record(problem={"code": "nonsense", "params": {}}), record(problem={"code": "holds_no_text", "params": {}}),
        record(problem=7), record(first_lines=3), record(scripts=[["Latin"]]), record(scripts=[["Latin", "x"]]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_record_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadEvent):
        checked_result(content, "a.txt", tmp_path / "x", Limits())


def test_files_that_are_not_what_they_should_be_are_none(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    makers = {
        "missing": lambda path: None,
        "a link": lambda path: path.symlink_to(secret),
        "another name of a file": lambda path: os.link(secret, path),
        "a pipe": os.mkfifo,
        "a folder": lambda path: path.mkdir(),
        "not UTF-8": lambda path: path.write_bytes(b"\xff"),
        "empty": lambda path: path.write_bytes(b""),
        "too large": lambda path: path.write_bytes(b"x" * 50),
    }
    for name, make in makers.items():
        path = tmp_path / name
        make(path)
        result = checked_result(record(), "a.txt", path, Limits(max_import_member_bytes=10))
        assert result.path is None, name
        assert isinstance(result.problem, ImportFailed)


def test_long_things_are_cut(tmp_path: Path) -> None:
    long, many = "x" * 10_000, ["y"] * 10_000
    problem = {"code": "bad_lines", "params": {"file": long, "count": 1, "line": 2}}
    content = record(first_lines=[long], columns=many, column=long, encoding=long, problem=problem, path=None)
    result = checked_result(content, "a.txt", tmp_path / "x", Limits())
    assert isinstance(result.problem, BadLines)
    assert len(str(result.problem)) < 500
    assert len(str(result.as_dict())) < 5_000


def test_a_warning_stays_beside_a_text(tmp_path: Path) -> None:
    path = tmp_path / "0-0.txt"
    path.write_text("one\n")
    problem = {"code": "bad_lines", "params": {"file": "a.jsonl", "count": 1, "line": 2}}
    result = checked_result(record(problem=problem), "a.jsonl", path, Limits())
    assert result.usable
    assert isinstance(result.problem, BadLines)


def test_new_files_are_numbered_after_those_that_are_there(tmp_path: Path) -> None:
    for name in ("0007.txt", "other.txt", "12.txt"):
        (tmp_path / name).touch()
    assert [next_path(tmp_path).name for _ in range(2)] == ["0008.txt", "0009.txt"]


def test_errors_are_kept_by_code_and_params() -> None:
    error = error_from_dict({"code": "holds_no_text", "params": {"file": "a.txt"}})
    assert isinstance(error, HoldsNoText)
    assert str(error) == "a.txt holds no text."
    wrong: list[dict[str, Any]] = [
        {},
        {"code": "error", "params": {}},
        {"code": "holds_no_text"},
        {"code": [], "params": {}},
    ]
    for content in wrong:
        with pytest.raises(ValueError, match="no error of ours"):
            error_from_dict(content)
    assert issubclass(type(error), TextgenError)
