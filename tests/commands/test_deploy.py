"""What `textgen deploy` is asked for; what then happens on the Hub is in tests/remote/test_space.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from textgen.cli import main


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--variable", "TEXTGEN_ADMIN_KEY=word"), "variable: TEXTGEN_ADMIN_KEY was given; allowed: --secret"),
        (
            ("--variable", "TEXTGEN_TRAINING=maybe"),
            "variable: TEXTGEN_TRAINING=maybe was given; allowed: TEXTGEN_TRAIN",
        ),
        (("--read-only", "--variable", "TEXTGEN_TRAINING=on"), "variable: TEXTGEN_TRAINING=on was given; allowed: off"),
        (("--variable", "TEXTGEN_MAX_BEAMS=lots"), "TEXTGEN_MAX_BEAMS: lots was given"),
        (("--variable", "NAME"), "variable: NAME was given; allowed: NAME=VALUE"),
        (("--secret", "TEXTGEN_NOT_SET"), "secret: TEXTGEN_NOT_SET (not set here) was given"),
        (("--hardware", ""), "hardware: '' was given; allowed: the Hub's name of a machine"),
        (("--storage", "runs"), "storage: runs was given; allowed: USER/NAME"),
    ],
)
def test_what_no_space_can_have_is_told(
    option: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "anna/studio", *option, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_a_dry_run_lists_everything(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTGEN_ADMIN_KEY", "word")
    options = ["--models", str(trained_run), "--read-only", "--variable", "TEXTGEN_MAX_BEAMS=4"]
    options += ["--secret", "TEXTGEN_ADMIN_KEY", "--storage", "anna/runs", "--dry-run"]
    options += ["--private", "--hardware", "t4-small"]
    assert main(["deploy", "anna/studio", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    settings = ["variable TEXTGEN_MAX_BEAMS=4", "variable TEXTGEN_TRAINING=off", "secret TEXTGEN_ADMIN_KEY"]
    assert lines[-6:] == [*settings, "storage anna/runs", "hardware t4-small", "private"]
    files = {name: size for size, name in (line.split() for line in lines[:-7])}
    assert {"README.md", "app.py", "textgen/cli.py", f"checkpoints/{trained_run.name}/tokenizer.model"} <= files.keys()
    total = sum(int(size.replace(",", "")) for size in files.values())
    assert lines[-7].split() == [f"{total:,}", "bytes", "in", str(len(files)), "files"]
