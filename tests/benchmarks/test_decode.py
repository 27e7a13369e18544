from __future__ import annotations

import json
from pathlib import Path

import pytest

from textgen.benchmarks import decode

SMALL = (
    "--rounds",
    "1",
    "--streams",
    "5",
    "--hidden-size",
    "16",
    "--vocab-size",
    "400",
    "--tokens",
    "12",
    "--threads",
    "1",
)


@pytest.mark.parametrize(
    "arguments",
    [("--rounds", "0"), ("--streams", "0"), ("--hidden-size", "0"), ("--tokens", "-3"), ("--threads", "x")],
)
def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as caught:
        decode.main(arguments)
    assert caught.value.code == 2
    assert f"{arguments[1]} is not a whole number" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_is_measured(capsys: pytest.CaptureFixture[str], trained_run: Path, small_text: Path) -> None:
    assert decode.main([*SMALL, "--checkpoint", str(trained_run), "--text", str(small_text)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratios = (
        "single_stream_speedup",
        "engine_efficiency",
        "batch32_gain",
        "prefill_gain",
        "roofline",
        "transformers_ratio",
    )
    assert all(figures[name] > 0 for name in ratios)
    assert figures["backend"] == "ONNX Runtime int8, 1 thread"
    assert figures["streams"] == 5
    assert figures["streams_worst_gap_ms"] > 0
    # One nat a token is far more than rounding weights to 8 bits may cost.
    assert abs(figures["nats_per_token_int8"] - figures["nats_per_token_fp32"]) < 0.02
    assert figures["nats_per_token_fp32"] > 0.1
