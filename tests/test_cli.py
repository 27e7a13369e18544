"""The command line in this process: quick, and all that a new process would add is Python's start."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from textgen import __version__
from textgen.cli import build_parser, main
from textgen.config import (
    AdaptationSettings,
    GenerationSettings,
    ModelSettings,
    RunSettings,
    Settings,
    TextSettings,
    TrainingSettings,
)
from textgen.errors import error_from_dict
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.manager import JobManager
from textgen.jobs.model_zip import pack_model
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.model.checkpoint import load_checkpoint
from textgen.text.vocabulary import same_pieces

SHAPE = ("--steps", "6", "--vocab-size", "300", "--embedding-size", "8", "--hidden-size", "8", "--device", "cpu")
ADAPTATION = AdaptationSettings.model_fields.keys() - {"passes"}
SMALL_TAUGHT = (
    *("--embedding-size", "8", "--hidden-size", "12", "--steps", "4", "--batch-size", "4", "--window", "10"),
    *("--precision", "fp32", "--quiet", "--evaluations", "2"),
)
QUICK = (*SHAPE, "--precision", "fp32", "--quiet", "--evaluations", "2")


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def last_json(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs `textgen …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


def settings_of(run: Path) -> Any:
    return RunFolder(run).settings()


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train",),
        ("generate",),
        ("evaluate",),
        ("export",),
        ("tokenizer",),
        ("tokenizer", "train"),
        ("import",),
        ("serve",),
    ],
)
def test_every_command_has_help(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments, "--help")
    assert result.status == 0
    assert result.out.startswith(" ".join(["usage: textgen", *arguments]))
    assert "None" not in result.out
    assert "()" not in result.out


def test_every_setting_is_an_option_with_its_help(cli: Cli) -> None:
    given: dict[str, list[type[Settings]]] = {
        "train": [TextSettings, TrainingSettings],
        "generate": [GenerationSettings],
    }
    for command, kinds in given.items():
        text = " ".join(cli(command, "--help").out.split())
        for kind in kinds:
            for name, field in kind.model_fields.items():
                assert "--" + name.replace("_", "-") in text
                assert str(field.description) in text
    assert all("--" + name.replace("_", "-") in cli("evaluate", "--help").out for name in ADAPTATION)
    train = cli("train", "--help").out
    assert all("--" + name.replace("_", "-") in train for name in ModelSettings.model_fields if name != "vocab_size")


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version") == Result(0, f"textgen {__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "required"),
        ("sing", "sing"),
        ("train", "out: nothing was given"),
        ("train --out new", "files: none was given"),
        ("train text.txt", "out: nothing was given"),
        ("train text.txt --out new --preset slow", "preset: slow was given; allowed: quick, balanced, thorough"),
        ("train text.txt --out new --steps 5 --minutes 1", "budget: steps and minutes was given"),
        ("train text.txt --out new --steps 5 --epochs 1 --minutes 1", "budget"),
        ("train text.txt --out new --steps 0", "training.steps: 0 was given; allowed: at least 1"),
        ("train text.txt --out new --steps 1e3", "--steps"),
        ("train text.txt --out new --minutes soon", "--minutes"),
        ("train text.txt --out new --minutes nan", "training.minutes"),
        ("train text.txt --out new --learning-rate -1", "training.learning_rate"),
        ("train text.txt --out new --weight-dropout 1", "training.weight_dropout"),
        ("train text.txt --out new --heldout 1", "text.heldout"),
        ("train text.txt --out new --cell transformer", "--cell"),
        ("train text.txt --out new --tokenizer words", "--tokenizer"),
        ("train text.txt --out new --no-such-option", "--no-such-option"),
        ("train text.txt --out new --encoding utf-99", "utf-99"),
        ("train text.txt --out new --device tpu", "--device"),
        ("train text.txt --out full --steps 5", "out: full was given; allowed: a new or empty folder"),
        ("train text.txt --out text.txt --steps 5", "a folder, not a file"),
        ("train gone.txt --out new --steps 5", "gone.txt cannot be read"),
        ("train full --out new --steps 5", "full"),
        ("train empty.txt --out new --steps 5", "found; at least"),
        ("train latin.txt --out new --encoding utf-8", "latin.txt: byte 3 is not valid utf-8"),
        ("train picture.png --out new", "picture.png does not look like text"),
        ("train text.txt --out new --base gone", "base: gone was given"),
        ("train text.txt --out new --base text.txt", "text.txt, folder"),
        ("train text.txt --out new --heldout-file gone.txt", "gone.txt cannot be read"),
        ("train text.txt --out new --config gone.yaml", "config: gone.yaml was given; allowed: a readable file"),
        ("train text.txt --out new --config broken.yaml", "a YAML file"),
        ("train text.txt --out new --config list.yaml", "a mapping"),
        ("train text.txt --out new --config unknown.yaml", "speed: an unknown setting was given"),
        ("train text.txt --out new --config deep.yaml", "model.wings: an unknown setting was given"),
        ("train text.txt --out new --config section.yaml", "text: ['a'] was given; allowed: a mapping of settings"),
        ("train text.txt --out new --config section.yaml --preset quick", "a mapping of settings"),
        ("train text.txt --out new --config plain.yaml", "budget: nothing was given"),
        ("train text.txt --out new --nproc-per-node 0", "nproc_per_node: 0 was given; allowed: 1 to 1024"),
        ("train text.txt --out new --nproc-per-node two", "--nproc-per-node"),
        ("train text.txt --out new --nnodes 2", "rdzv_endpoint: none was given; allowed: HOST:PORT of host 0"),
        ("train text.txt --out new --node-rank 1", "node_rank: 1 was given; allowed: 0 without --nnodes"),
        ("train text.txt --estimate --nproc-per-node 2", "estimate: --estimate with 2 processes was given"),
        ("train text.txt --nproc-per-node 2", "out: nothing was given"),
        ("train --resume full --nproc-per-node 2 --window 5", "resume: window beside it was given"),
        ("train --resume gone", "resume: gone was given; allowed: the folder of a training run"),
        ("train --resume full", "the folder of a training run"),
        ("train --resume full --out new", "resume: out beside it was given"),
        ("train text.txt --resume full", "resume: files beside it was given"),
        ("train --resume full --window 5", "resume: window beside it was given"),
        (
            "train text.txt --out new --nproc-per-node 3",
            "batch_size: 16 was given; allowed: a multiple of 3, the number of",
        ),
        ("train --resume full --preset quick", "resume: preset beside it was given"),
        ("generate", "checkpoint: nothing was given; allowed: a checkpoint or a run, since there is no"),
        ("generate --checkpoint gone", "gone, folder: there is no such folder"),
        ("generate --checkpoint full", "config.json, file: missing"),
        ("generate --checkpoint text.txt", "text.txt, folder"),
        ("generate --checkpoint gone --temperature 9", "temperature: 9.0 was given; allowed: at most 5.0"),
        ("generate --checkpoint gone --temperature hot", "--temperature"),
        ("generate --checkpoint gone --threads 0", "0 is not a number of threads"),
        ("generate --checkpoint gone --backend abacus", "--backend"),
        ("generate --checkpoint gone --logit-bias 5", "5 is not of the form ID=VALUE"),
        ("generate --checkpoint gone --logit-bias a=b", "logit_bias"),
        ("generate --checkpoint gone --num-beams 4 --num-beam-groups 3", "num_beam_groups: 3 was given"),
        ("generate --checkpoint gone --num-beams 4 --num-samples 2", "num_samples: 2 was given"),
        ("generate --checkpoint gone --top-p 0", "top_p: 0.0 was given; allowed: above 0.0"),
        ("generate --checkpoint gone --num-return 2", "num_return: 2 was given; allowed: at most num_beams (1)"),
        ("generate --checkpoint gone --min-new-tokens 9 --max-new-tokens 5", "min_new_tokens"),
        ("generate --checkpoint gone --stop=", "stop: an empty text was given"),
        ("generate --checkpoint gone --seed -1", "seed"),
        ("generate --checkpoint RUN --max-new-tokens 5000", "max_new_tokens: 5000 was given; allowed: at most 4000"),
        ("generate --checkpoint RUN --num-beams 33", "num_beams"),
        ("evaluate --checkpoint RUN", "FILE"),
        ("evaluate --checkpoint gone text.txt", "gone, folder"),
        ("evaluate --checkpoint RUN gone.txt", "gone.txt cannot be read"),
        ("evaluate --checkpoint RUN text.txt --heldout 1.5", "heldout: 1.5 was given; allowed: below 1.0"),
        ("evaluate --checkpoint RUN text.txt --heldout half", "--heldout"),
        ("evaluate --checkpoint RUN empty.txt", "found; at least"),
        ("evaluate --checkpoint RUN text.txt --window 8", "dynamic: --window without it was given"),
        ("evaluate --checkpoint RUN text.txt --dynamic --window 0", "window: 0 was given; allowed: at least 1"),
        ("evaluate --checkpoint RUN text.txt --dynamic --decay 1", "decay: 1.0 was given; allowed: below 1.0"),
        ("evaluate --checkpoint RUN text.txt --streams 0", "streams: 0 was given; allowed: 1 to 1024"),
        ("evaluate --checkpoint RUN text.txt --dynamic --streams 2", "streams: 2 with --dynamic was given; allowed: 1"),
        ("evaluate --checkpoint RUN latin.txt --encoding ascii", "latin.txt: byte 3 is not valid ascii"),
        ("export --checkpoint gone --out new", "gone, folder"),
        ("export --checkpoint RUN --out .", "out: . was given; allowed: a new or empty folder"),
        ("export --checkpoint RUN --out ..", "out: .. was given; allowed: a new or empty folder"),
        ("export --checkpoint RUN --out full", "out: full was given; allowed: a new or empty folder"),
        ("export --checkpoint RUN --out full --format onnx", "out: full was given; allowed: a new or empty folder"),
        (
            "export --checkpoint RUN --out new --format onnx --full",
            "--full: --format onnx was given; allowed: --format c",
        ),
        ("export --checkpoint RUN --out new --format onnx --max-file-mb 9", "--max-file-mb: --format onnx was given"),
        ("export --checkpoint RUN --out new --format pickle", "pickle"),
        ("tokenizer", "ACTION"),
        ("tokenizer train text.txt", "--out"),
        ("tokenizer train gone.txt --out new.model", "gone.txt cannot be read"),
        ("tokenizer train text.txt --out new.model --vocab-size 2", "vocab_size: 2 was given; allowed: at least 8"),
        ("tokenizer train empty.txt --out new.model", "at least"),
        ("tokenizer info gone.model", "gone.model"),
        ("tokenizer info text.txt", "text.txt: not a SentencePiece model"),
        ("tokenizer info full", "tokenizer.model"),
        ("serve --port web", "--port"),
        ("serve --nproc-per-node 0", "nproc_per_node: 0 was given; allowed: 1 to 1024"),
        ("bench nothing", "nothing"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    cli: Cli, tmp_path: Path, trained_run: Path, arguments: str, said: str
) -> None:
    (tmp_path / "text.txt").write_text("A text. " * 500)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 \xe0 la cr\xe8me\n".encode("latin-1") * 30)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"")
    configs = {"broken": "a: [", "list": "- a", "unknown": "speed: 9", "deep": "model: {wings: 2}"}
    configs |= {"section": "text: [a]", "plain": "model: {hidden_size: 8}"}
    for name, content in configs.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    before = digest(tmp_path)
    result = cli(*[trained_run if argument == "RUN" else argument for argument in arguments.split()])
    assert result.status == 2
    assert said in result.err
    assert result.out == ""
    assert re.fullmatch(r"[^\n]+[.\w]\n", result.err), result.err
    after = digest(tmp_path)
    # What fails while a text is read leaves a run that says so; nothing else is written, nothing changed.
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"new/config.json", "new/status.json", "new/.lock"}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.model", "generation_config.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\x00" * 50])
def test_damaged_checkpoints_are_one_sentence(
    cli: Cli, trained_run: Path, tmp_path: Path, file: str, damage: bytes
) -> None:
    shutil.copytree(trained_run / "checkpoints" / "best", tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(damage)
    if (file, damage) == ("generation_config.json", b"{}"):
        assert cli("generate", "--checkpoint", "bad", "--max-new-tokens", "2").status == 0
        return
    for arguments in (["generate"], ["evaluate", trained_run / "config.json"]):
        result = cli(*arguments, "--checkpoint", "bad")
        assert result.status == 2
        assert file in result.err
        assert result.err.count("\n") == 1


def test_text_is_streamed_after_the_prompt(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--prompt", "Mira ", "--seed", "3", "--max-new-tokens", "30")
    result = cli(*arguments)
    assert result.status == 0
    assert result.err == ""
    assert result.out.startswith("Mira ")
    assert result.out.endswith("\n")
    assert cli(*arguments) == result
    as_json = cli(*arguments, "--json")
    assert as_json.out.count("\n") == 1
    assert as_json.last_json["prompt"] + as_json.last_json["text"] + "\n" == result.out
    assert cli(*arguments[:-3], "4", *arguments[-2:]).out != result.out


def test_json_says_what_there_is_to_know(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--json", "--max-new-tokens", "5", "--min-new-tokens", "5")
    values = cli(*arguments).last_json
    assert values.keys() == {
        "prompt",
        "text",
        "reason",
        "tokens",
        "seconds",
        "tokens_per_second",
        "seed",
        "copied_share",
        "backend",
        "hypotheses",
    }
    assert (values["tokens"], values["reason"]) == (5, "length")
    assert values["hypotheses"][0]["text"] == values["text"]
    assert cli(*arguments, "--seed", values["seed"]).last_json["text"] == values["text"]


def test_the_backend_may_be_forced(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--json", "--max-new-tokens", "8", "--temperature", "0")
    names = {}
    for backend in ("auto", "onnx", "torch"):
        names[backend] = cli(*arguments, "--backend", backend, "--threads", "1").last_json["backend"]
    assert names["auto"] == names["onnx"] == "ONNX Runtime int8, 1 thread"
    assert names["torch"].startswith("PyTorch fp32")


def test_several_samples_come_one_after_the_other(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--prompt", "Mira ", "--seed", "3", "--max-new-tokens", "30")
    alone = cli(*arguments).out
    several = cli(*arguments, "--num-samples", "3").out
    texts = [item["text"] for item in cli(*arguments, "--num-samples", "3", "--json").last_json["hypotheses"]]
    assert len(set(texts)) == 3
    assert several.startswith(alone)
    assert several == f"Mira {texts[0]}\n\n[2] Mira {texts[1]}\n\n[3] Mira {texts[2]}\n"


def test_log_probabilities_are_told_when_asked_for(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--json", "--prompt", "Mira ", "--max-new-tokens", "6")
    assert "pieces" not in cli(*arguments).last_json
    values = cli(*arguments, "--top-logprobs", "2").last_json
    (tokens,) = values["pieces"]
    assert "".join(token["text"] for token in tokens) == values["text"]
    assert all(token["logprob"] <= token["alternatives"][0]["logprob"] <= 0.0 for token in tokens)
    assert all(len(token["alternatives"]) == 2 for token in tokens)


def test_a_search_tells_its_tokens_and_its_tree(cli: Cli, trained_run: Path) -> None:
    arguments = (
        "generate",
        "--checkpoint",
        trained_run,
        "--prompt",
        "Mira ",
        "--max-new-tokens",
        "5",
        "--num-beams",
        "3",
    )
    values = cli(*arguments, "--json", "--tree", "--top-logprobs", "1").last_json
    assert "".join(token["text"] for token in values["pieces"][0]) == values["text"]
    assert all(node["parent"] < place for place, node in enumerate(values["tree"]))
    refused = cli(*arguments, "--tree")
    assert (refused.status, refused.out) == (2, "")
    assert "--json" in refused.err


def test_what_a_model_thinks_of_a_text_is_told_token_by_token(
    cli: Cli, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Mira found\na key"
    arguments = ("score", "--checkpoint", trained_run, "--top-logprobs", "2")
    values = cli(*arguments, "--text", text, "--json").last_json
    assert "".join(token["text"] for token in values["pieces"]) == text
    assert values["nats"] == pytest.approx(-sum(token["logprob"] for token in values["pieces"]))
    assert values["nats_per_char"] == pytest.approx(values["nats"] / len(text))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    *lines, last, copied = cli(*arguments, "--text", "-").out.splitlines()
    assert len(lines) == values["tokens"]
    assert copied == f"copied from the training text: {values['copied_share']:.1%}"
    assert last == f"{values['nats']:.2f} nats, {values['nats_per_char']:.4f} for each character"
    assert cli(*arguments, "--text", "").status == 2


def test_copies_are_told_and_avoided(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--prompt", "Mira ", "--temperature", "0", "--json")
    values = cli(*arguments).last_json
    (best,) = values["hypotheses"]
    assert values["copied_share"] == best["copied_share"] > 0
    length = sum(end - start for start, end in best["copied_spans"])
    assert length == pytest.approx(best["copied_share"] * len(values["text"]))
    values = cli(*arguments, "--avoid-copying").last_json
    assert (values["copied_share"], values["hypotheses"][0]["copied_spans"]) == (0.0, [])


def test_a_checkpoint_gets_an_index_of_its_text(cli: Cli, trained_run: Path, small_text: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run / "checkpoints" / "best", "old")
    made = Path("old/copy_index.safetensors")
    whole = made.read_bytes()
    made.unlink()
    score = ("score", "--checkpoint", "old", "--text", "Mira", "--json")
    assert "copied_share" not in cli(*score).last_json
    refused = cli("generate", "--checkpoint", "old", "--avoid-copying")
    assert (refused.status, refused.out) == (2, "")
    assert "textgen index" in refused.err
    result = cli("index", "--checkpoint", "old", small_text, "--heldout", "0.1")
    assert result.status == 0
    assert made.read_bytes() == whole
    assert "100.0% of the text's sequences of 8 tokens, passages of 8 tokens or more" in result.out
    assert cli(*score).last_json["copied_share"] == 0.0
    assert cli("export", "--checkpoint", "old", "--out", "new").status == 0
    assert Path("new/copy_index.safetensors").read_bytes() == whole
    assert cli("index", "--checkpoint", "nowhere", small_text).status == 2


def test_biases_and_banned_texts_reach_the_engine(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--prompt", "Mira ", "--temperature", "0", "--json")
    word = cli(*arguments).last_json["text"].split()[0]
    assert word not in cli(*arguments, "--banned", word).last_json["text"]
    ended = cli(*arguments, "--logit-bias", "2=80").last_json
    assert (ended["text"], ended["reason"]) == ("", "eos")


@pytest.mark.parametrize("prompt", ["", "小猫看着 🌙\n", "\u2581 \u2581", "e\u0301\u200d"])
def test_any_prompt_is_read_from_standard_input(
    cli: Cli, trained_run: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    result = cli("generate", "--checkpoint", trained_run, "--prompt", "-", "--json", "--max-new-tokens", "3")
    assert result.status == 0
    assert result.last_json["prompt"] == prompt


@pytest.mark.parametrize(("errors", "said"), [("strict", "standard input: byte 3"), ("surrogateescape", "surrogate")])
def test_bytes_that_are_no_text_are_told(
    cli: Cli, trained_run: Path, monkeypatch: pytest.MonkeyPatch, errors: str, said: str
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"abc\xff"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stdin)
    result = cli("generate", "--checkpoint", trained_run, "--prompt", "-")
    assert result.status == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_a_terminal_that_cannot_show_a_character_shows_its_number(
    cli: Cli, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    result = cli("generate", "--checkpoint", trained_run, "--prompt", "小猫", "--max-new-tokens", "3", "--json")
    sys.stdout.flush()
    assert result.status == 0
    assert json.loads(buffer.getvalue())["prompt"] == "小猫"


def test_stop_strings_end_the_text(cli: Cli, trained_run: Path) -> None:
    arguments = ("generate", "--checkpoint", trained_run, "--prompt", "Old ", "--seed", "5", "--max-new-tokens", "60")
    whole = cli(*arguments, "--json").last_json["text"]
    stop = whole[9:16]
    result = cli(*arguments, "--json", "--stop", "never there", "--stop", stop).last_json
    assert result["reason"] == "stop"
    assert result["text"] == whole[: whole.index(stop)]
    assert cli(*arguments, "--stop", stop).out == f"Old {result['text']}\n"


def test_beams_print_every_result(cli: Cli, trained_run: Path) -> None:
    short = ("generate", "--checkpoint", trained_run, "--prompt", "The ", "--max-new-tokens", "10")
    arguments = (*short, "--num-beams", "3", "--num-return", "2")
    values = cli(*arguments, "--json").last_json
    first, second = (item["text"] for item in values["hypotheses"])
    assert values["text"] == first
    assert cli(*arguments).out == f"The {first}\n\n[2] The {second}\n"


def test_evaluation_prints_its_figures_as_the_last_line(cli: Cli, trained_run: Path, small_text: Path) -> None:
    result = cli("evaluate", "--checkpoint", trained_run, small_text, "--heldout", "0.1", "--json")
    assert result.status == 0
    figures = result.last_json
    assert figures.keys() >= {
        "nats_per_token",
        "nats_per_char",
        "bits_per_byte",
        "perplexity",
        "accuracy",
        "tokens",
        "chars",
        "bytes",
    }
    assert result.out.count("\n") == 1
    assert result.out.startswith("{")
    trained, _ = open_checkpoint(trained_run)
    for name in ("tokens", "chars", "bytes"):
        assert figures[name] == trained.figures[name]
    # The trainer reads the text in some streams side by side, the command from beginning to end.
    for name in ("nats_per_token", "nats_per_char", "bits_per_byte", "perplexity", "accuracy"):
        assert figures[name] == pytest.approx(trained.figures[name], rel=0.01)
    text = small_text.read_text(encoding="utf-8")
    assert figures["chars"] == pytest.approx(0.1 * len(text), abs=200)


def test_the_documents_that_are_scored_are_those_that_a_training_of_that_seed_held_out(
    cli: Cli, trained_run: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"The {'very ' * number}old king.\n" for number in range(60)), encoding="utf-8")
    shared = ("--split", "line", "--heldout", "0.3", "--heldout-by", "document")
    run = tmp_path / "run"
    assert cli("train", lines, "--out", run, "--base", trained_run, "--steps", "1", *shared, "--seed", "7").status == 0
    wanted = open_checkpoint(run)[0].figures["chars"]
    same, other = (
        cli("evaluate", "--checkpoint", run, lines, *shared, "--seed", seed, "--json").last_json["chars"]
        for seed in ("7", "8")
    )
    assert same == wanted != other


def test_without_a_share_the_whole_text_is_scored(cli: Cli, trained_run: Path, small_text: Path) -> None:
    text = small_text.read_text(encoding="utf-8")
    result = cli("evaluate", "--checkpoint", trained_run, small_text)
    lines = dict(line.split(":") for line in result.out.splitlines())
    figures = {name.strip(): float(value.replace(",", "")) for name, value in lines.items()}
    assert figures["chars"] == len(text)
    assert figures["bytes"] == len(text.encode())
    assert figures["nats_per_char"] < 0.6


def test_parts_that_are_read_side_by_side_give_nearly_the_same(cli: Cli, trained_run: Path, small_text: Path) -> None:
    whole, parts = (
        cli("evaluate", "--checkpoint", trained_run, small_text, "--streams", streams, "--json").last_json
        for streams in ("1", "5")
    )
    assert (whole["streams"], parts["streams"]) == (1, 5)
    assert parts["tokens"] == whole["tokens"]
    assert parts["nats_per_char"] != whole["nats_per_char"]
    assert parts["nats_per_char"] == pytest.approx(whole["nats_per_char"], rel=0.01)


def test_dynamic_evaluation_stands_beside_the_static_one(
    cli: Cli, trained_run: Path, small_text: Path, tmp_path: Path
) -> None:
    # Another language with the same letters, which the model has not learned: what it learns as it reads must show.
    text = small_text.read_text(encoding="utf-8")[:1500]
    (tmp_path / "other.txt").write_text("\n".join(line[::-1] for line in text.splitlines()) + "\n", encoding="utf-8")
    before = digest(trained_run)
    command = ("evaluate", "--checkpoint", trained_run, "other.txt")
    static = cli(*command, "--json").last_json
    settings = ("--learning-rate", "0.01", "--decay", "0.001", "--window", "16")
    result = cli(*command, "--dynamic", *settings, "--json")
    assert result.status == 0
    both = result.last_json
    assert both.items() >= static.items()
    figures = {"nats_per_token", "nats_per_char", "bits_per_byte", "perplexity", "accuracy"}
    assert both.keys() - static.keys() == {"adaptation", *(f"dynamic_{name}" for name in figures)}
    assert both["adaptation"] == {"learning_rate": 0.01, "decay": 0.001, "window": 16}
    assert both["dynamic_nats_per_char"] < 0.9 * both["nats_per_char"]
    assert both["dynamic_accuracy"] > both["accuracy"]
    assert digest(trained_run) == before
    lines = dict(line.split(":") for line in cli(*command, "--dynamic", *settings).out.splitlines())
    shown = {name.strip(): float(value.replace(",", "")) for name, value in lines.items()}
    assert shown.keys() == {*figures, "tokens", "chars", "bytes", *(f"dynamic_{name}" for name in figures)}
    assert shown["dynamic_nats_per_char"] == pytest.approx(both["dynamic_nats_per_char"], abs=1e-4)


def test_a_text_in_another_encoding_scores_the_same(
    cli: Cli, trained_run: Path, small_text: Path, tmp_path: Path
) -> None:
    text = small_text.read_text(encoding="utf-8")[:4000]
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text(text, encoding="utf-16")
    (tmp_path / "c.txt").write_text(text, encoding="gb18030")
    scores = [
        cli("evaluate", "--checkpoint", trained_run, *arguments, "--json").last_json["nats_per_char"]
        for arguments in (["a.txt"], ["b.txt"], ["c.txt", "--encoding", "gb18030"])
    ]
    assert scores[0] == scores[1] == scores[2]


def test_a_vocabulary_is_trained_and_shown(cli: Cli, small_text: Path) -> None:
    result = cli("tokenizer", "train", small_text, "--out", "new/a.model", "--tokenizer", "bpe", "--vocab-size", "330")
    assert result.status == 0
    assert "330 pieces in new/a.model" in result.err
    info = cli("tokenizer", "info", "new/a.model", "--text", "小猫 the ☃", "--json").last_json
    assert info["vocab_size"] == 330
    assert info["sha256"] == hashlib.sha256(Path("new/a.model").read_bytes()).hexdigest()
    assert len(info["ids"]) == len(info["pieces"])
    assert "<0xE2>" in info["pieces"]
    plain = cli("tokenizer", "info", "new/a.model").out
    assert "vocab_size: 330" in plain


def test_a_vocabulary_too_large_for_its_text_is_told(cli: Cli, small_text: Path) -> None:
    result = cli("tokenizer", "train", small_text, "--out", "a.model", "--vocab-size", "9000")
    assert result.status == 0
    assert "9000 were asked for" in result.err.replace(",", "")


def test_the_vocabulary_of_a_run_is_shown(cli: Cli, trained_run: Path) -> None:
    _, tokenizer = open_checkpoint(trained_run)
    info = cli("tokenizer", "info", trained_run, "--json").last_json
    assert info == {"vocab_size": tokenizer.vocab_size, "sha256": tokenizer.sha256}


def test_a_run_is_trained_resumed_and_reported(cli: Cli, small_text: Path) -> None:
    result = cli("train", small_text, "--out", "run", *QUICK, "--json")
    assert result.status == 0
    values = result.last_json
    assert values["step"] == 6
    assert values["nats_per_char"] == open_checkpoint(Path("run"))[0].figures["nats_per_char"]
    assert "Finished after" in result.err
    assert "textgen generate --checkpoint run" in result.err
    resumed = cli("train", "--resume", "run", "--json", "--device", "cpu")
    assert resumed.status == 0
    assert resumed.last_json["nats_per_char"] == values["nats_per_char"]
    assert "going on at step 6" in resumed.err


def test_a_run_is_trained_longer(cli: Cli, small_text: Path) -> None:
    assert cli("train", small_text, "--out", "run", *QUICK).status == 0
    longer = cli("train", "--resume", "run", "--steps", "4", "--json", "--device", "cpu")
    assert longer.status == 0
    assert longer.last_json["step"] == 10
    assert settings_of(Path("run")).training.steps == 10


def test_an_estimate_leaves_nothing_behind(cli: Cli, small_text: Path) -> None:
    before = sorted(Path().rglob("*"))
    result = cli("train", small_text, "--estimate", *QUICK, "--json")
    assert result.status == 0
    assert result.last_json["training"]["steps"] == 6
    assert result.last_json["training"]["tokens_per_second"] > 0
    assert "tokens/s" in result.err
    assert sorted(Path().rglob("*")) == before


def test_a_base_may_get_more_pieces(cli: Cli, trained_run: Path) -> None:
    Path("new.txt").write_text("Zeppelins quacked under jukeboxes, and zeppelins zigzagged.\n" * 200)
    arguments = ["train", "new.txt", "--base", trained_run, "--steps", "2", "--batch-size", "2", "--quiet"]
    refused = cli(*arguments, "--out", "kept", "--vocab-size", "350")
    assert refused.status == 2
    assert "--base-vocabulary extend or new" in refused.err
    extend = ["--base-vocabulary", "extend", "--vocab-size", "350"]
    result = cli(*arguments, "--out", "extended", *extend, "--device", "cpu")
    assert result.status == 0
    assert "were added to the" in result.err
    _, before = open_checkpoint(trained_run)
    _, after = open_checkpoint(Path("extended"))
    assert after.vocab_size > before.vocab_size


@pytest.mark.slow
def test_flags_win_over_the_file_and_the_file_over_the_preset(cli: Cli, small_text: Path) -> None:
    Path("a.yaml").write_text(
        "training: {steps: 7, window: 11, batch_size: 3}\nmodel:\n  hidden_size: 9\n  embedding_size: 7\n"
        "text:  # nothing here\nsample_prompts: [月]\n",
        encoding="utf-8",
    )
    arguments = ("train", small_text, "--config", "a.yaml", "--quiet", "--window", "12", "--vocab-size", "290")
    assert cli(*arguments, "--preset", "quick", "--out", "preset").status == 0
    settings = settings_of(Path("preset"))
    training = settings.training
    assert (training.steps, training.minutes, training.window, training.batch_size) == (7, None, 12, 3)
    assert (settings.model.hidden_size, settings.model.embedding_size) == (9, 7)
    assert training.output_dropout == 0.4  # of the preset, for a small text
    assert settings.sample_prompts == ("月",)
    assert settings.text.vocab_size == 290
    # A file is a whole recipe: without --preset, what it leaves out has the plain default.
    assert cli(*arguments, "--out", "plain", "--hidden-size", "10").status == 0
    settings = settings_of(Path("plain"))
    assert settings.training.output_dropout == 0.0
    assert (settings.model.hidden_size, settings.model.embedding_size) == (10, 7)


def test_one_budget_replaces_another(cli: Cli, small_text: Path) -> None:
    Path("a.yaml").write_text("training: {epochs: 50}\nmodel: {hidden_size: 8, embedding_size: 8}\n")
    assert cli("train", small_text, "--out", "run", "--config", "a.yaml", "--steps", "2", "--quiet").status == 0
    assert settings_of(Path("run")).training.steps == 2
    assert settings_of(Path("run")).training.epochs is None


@pytest.mark.slow
def test_the_settings_of_a_run_train_the_same_model_again(cli: Cli, small_text: Path) -> None:
    assert cli("train", small_text, "--out", "first", *QUICK, "--seed", "4").status == 0
    assert cli("train", "--out", "second", "--config", "first/config.json", "--quiet").status == 0
    first, second = (open_checkpoint(Path(name, "checkpoints", "last"))[0].model for name in ("first", "second"))
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert settings_of(Path("first")) == settings_of(Path("second"))


@pytest.mark.slow
def test_what_ships_writes_where_no_other_is_named(cli: Cli, trained_run: Path) -> None:
    Path("checkpoints").mkdir()
    shutil.copytree(resolve_checkpoint(trained_run), Path("checkpoints", "fairy-tales"))
    arguments = ("generate", "--prompt", "Mira ", "--seed", "3", "--max-new-tokens", "5")
    assert cli(*arguments) == cli(*arguments, "--checkpoint", trained_run)
    assert cli("score", "--text", "Mira ").out == cli("score", "--text", "Mira ", "--checkpoint", trained_run).out


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["mogrifier-lstm", "gru", "rnn", "update-gate-lstm"])
def test_every_cell_trains_resumes_and_generates(cli: Cli, small_text: Path, cell: str) -> None:
    assert cli("train", small_text, "--out", "run", *QUICK, "--cell", cell).status == 0
    assert cli("train", "--resume", "run").status == 0
    result = cli("generate", "--checkpoint", "run", "--json", "--max-new-tokens", "3")
    assert result.last_json["tokens"] > 0
    assert settings_of(Path("run")).model.cell == cell


@pytest.mark.slow
def test_networks_side_by_side_are_a_model_like_any_other(cli: Cli, small_text: Path) -> None:
    """Trained, resumed, listed, scored, exported both ways, and the base of another."""
    assert cli("train", small_text, "--out", "pair", *QUICK, "--members", "2").status == 0
    assert cli("train", "--resume", "pair", "--steps", "2").status == 0
    assert cli("generate", "--checkpoint", "pair", "--json", "--max-new-tokens", "3").last_json["tokens"] > 0
    assert cli("evaluate", "--checkpoint", "pair", small_text, "--dynamic", "--json").last_json["nats_per_char"] > 0
    assert "2 networks, each lstm" in cli("models", "--models", ".").out
    made, _ = open_checkpoint(Path("pair"))
    assert "2 networks that learned for themselves" in made.card
    assert cli("export", "--checkpoint", "pair", "--out", "small").status == 0
    assert cli("export", "--checkpoint", "pair", "--out", "onnx", "--format", "onnx").status == 0
    assert ": lstm, 2 networks of 1 layer of" in Path("onnx/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", Path("onnx/README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    written = subprocess.run([sys.executable, "-X", "utf8", "-c", code], cwd="onnx", capture_output=True, check=True)
    assert written.stdout
    assert cli("train", small_text, "--out", "tuned", "--base", "small", "--steps", "2", "--quiet").status == 0
    assert open_checkpoint(Path("tuned"))[0].model.settings.members == 2


def test_a_base_is_fine_tuned_and_stays_as_it_is(cli: Cli, trained_run: Path, small_text: Path) -> None:
    before = digest(trained_run)
    result = cli("train", small_text, "--out", "run", "--base", trained_run, "--steps", "4", "--quiet", "--json")
    assert result.status == 0
    assert digest(trained_run) == before
    base, tokenizer = open_checkpoint(trained_run)
    tuned, own = open_checkpoint(Path("run"))
    assert own.sha256 == tokenizer.sha256
    assert tuned.model.settings == base.model.settings
    assert tuned.lineage["base"]["name"] == "tiny"
    assert result.last_json["nats_per_char"] < 2 * base.figures["nats_per_char"]


@pytest.mark.parametrize("given", [("--hidden-size", "8"), ("--cell", "gru"), ("--vocab-size", "300")])
def test_a_base_brings_its_own_shape(cli: Cli, trained_run: Path, small_text: Path, given: tuple[str, str]) -> None:
    result = cli("train", small_text, "--out", "run", "--base", trained_run, "--steps", "4", *given)
    assert result.status == 2
    assert given[0] in result.err
    assert not Path("run").exists()


def test_teachers_are_learned_from_and_kept_with_the_run(cli: Cli, trained_run: Path, small_text: Path) -> None:
    taught = ["--teacher", trained_run, "--teacher", trained_run / "checkpoints" / "last", "--written-rows", "2"]
    result = cli("train", small_text, "--out", "run", *taught, *SMALL_TAUGHT, "--json")
    assert result.status == 0
    assert result.last_json["nats_per_char"] > 0
    made, own = open_checkpoint(Path("run"))
    assert same_pieces(own, open_checkpoint(trained_run)[1])
    assert [teacher["name"] for teacher in made.lineage["teachers"]] == ["tiny", "tiny"]
    assert settings_of(Path("run")).model.hidden_size == 12
    assert cli("train", "--resume", "run", "--steps", "2").status == 0
    assert "--vocab-size beside them" in cli("train", small_text, *taught, "--out", "no", "--vocab-size", "300").err
    assert "teachers: gone was given" in cli("train", small_text, "--teacher", "gone", "--out", "no").err
    assert "teachers beside it" in cli("train", "--resume", "run", *taught[:2]).err


def test_a_run_with_teachers_can_be_estimated(cli: Cli, trained_run: Path, small_text: Path) -> None:
    alone = cli("train", small_text, "--estimate", *SMALL_TAUGHT, "--json").last_json["training"]
    result = cli("train", small_text, "--estimate", "--teacher", trained_run, *SMALL_TAUGHT, "--json")
    assert result.last_json["training"]["steps"] == alone["steps"]


def test_separate_heldout_text_is_what_is_scored(cli: Cli, small_text: Path, tmp_path: Path) -> None:
    text = small_text.read_text(encoding="utf-8")
    (tmp_path / "held.txt").write_text(text[:2000], encoding="utf-8")
    result = cli("train", small_text, "--out", "run", *QUICK, "--heldout-file", "held.txt", "--json")
    assert result.last_json["chars"] == 2000


def test_an_export_is_half_the_size_and_nearly_the_same(cli: Cli, trained_run: Path, small_text: Path) -> None:
    assert cli("export", "--checkpoint", trained_run, "--out", "half").status == 0
    assert cli("export", "--checkpoint", trained_run, "--out", "full", "--full").status == 0
    sizes = [Path(name, "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    scores = [
        cli("evaluate", "--checkpoint", name, small_text, "--heldout", "0.1", "--json").last_json["nats_per_char"]
        for name in ("half", "full", trained_run)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    assert scores[1] == scores[2]


def test_an_export_may_be_spread_over_small_files(cli: Cli, trained_run: Path) -> None:
    assert cli("export", "--checkpoint", trained_run, "--out", "whole").status == 0
    assert cli("export", "--checkpoint", trained_run, "--out", "spread", "--max-file-mb", "0.02").status == 0
    assert len(list(Path("spread").glob("model-*-of-*.safetensors"))) > 1
    texts = [
        cli("generate", "--checkpoint", name, "--prompt", "The ", "--seed", "1", "--max-new-tokens", "20").out
        for name in ("whole", "spread")
    ]
    assert texts[0] == texts[1] != ""
    wrong = cli("export", "--checkpoint", trained_run, "--out", "other", "--max-file-mb", "0")
    assert wrong.status == 2
    assert "max-file-mb" in wrong.err


def test_an_export_for_onnx_runtime_is_a_folder_of_its_own_kind(cli: Cli, trained_run: Path) -> None:
    result = cli("export", "--checkpoint", trained_run, "--format", "onnx", "--out", "web")
    assert result.status == 0
    assert result.out.endswith("MB in web\n")
    assert {"model.onnx", "model_int8.onnx", "tokenizer.json", "example.html"} <= {
        path.name for path in Path("web").iterdir()
    }
    assert cli("generate", "--checkpoint", "web", "--prompt", "a").status == 2


def test_work_that_fails_is_status_one(cli: Cli, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = cli("export", "--checkpoint", trained_run, "--out", "file/below")
    assert result.status == 1
    assert "could not be written" in result.err
    assert result.err.count("\n") == 1
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "run" / "corpus" / "train.bin").write_bytes(b"")
    result = cli("train", "--resume", "run")
    assert result.status == 1
    assert "train.bin" in result.err


def test_with_json_what_is_wrong_is_told_in_json_too(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    result = cli("train", "text.txt", "--out", "run", "--base", "gone", "--steps", "3", "--json")
    assert result.status == 2
    assert str(error_from_dict(result.last_json["error"])) == result.err.strip()


def test_the_parser_keeps_what_was_given_apart_from_defaults() -> None:
    options = vars(build_parser().parse_args(["train", "a", "--window", "5", "--reset-at-document-ends"]))
    given = {name: value for name, value in options.items() if "." in name}
    assert given == {"training.window": 5, "training.reset_at_document_ends": True}


class TestImport:
    def test_documents_become_texts_with_a_report(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text("<html><p>One</p><p>two \x1b[2J</p>", encoding="utf-8")
        (tmp_path / "b.csv").write_text("title,text\nA,first row\nB,first row\n", encoding="utf-8")
        result = cli("import", "a.html", "b.csv", "--out", "texts")
        assert result.status == 0
        seen = "1 of them seen before"
        assert result.out.splitlines() == [
            "a.html → 0001.txt: 13 characters, utf-8, 1 document, Latin 100%",
            f"b.csv → 0002.txt: 18 characters, utf-8, 2 documents, {seen}, column “text” of title, text, Latin 100%",
        ]
        assert (tmp_path / "texts" / "0001.txt").read_text(encoding="utf-8") == "One\n\ntwo \x1b[2J\n"
        named = cli("import", "b.csv", "--out", "others", "--column", "title", "--json")
        (file,) = named.last_json["files"]
        assert (file["column"], file["characters"], file["problem"]) == ("title", 2, None)

    def test_what_cannot_be_read_is_said(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")
        (tmp_path / "b.docx").write_text("text")
        result = cli("import", "a.txt", "b.docx", "c.txt", "--out", "texts")
        assert result.status == 1
        assert result.out.splitlines()[1:] == [
            "b.docx is damaged, or no DOCX file.",
            "c.txt cannot be read: No such file or directory.",
        ]
        assert cli("import", "a.txt", "--out", "a.txt").status == 1
        assert cli("import", "a.txt", "--out", "texts", "--encoding", "nonsense").status == 2


class TestModels:
    def test_lists_them_with_where_they_are_from(self, trained_run: Path, tmp_path: Path, cli: Cli) -> None:
        shutil.copytree(trained_run, tmp_path / "runs" / "tiny")
        RunFolder(tmp_path / "runs" / "tiny").write_about(title="T\x1b[2J")
        shutil.copytree(trained_run / "checkpoints" / "best", tmp_path / "checkpoints" / "mine")
        asked = ("models", "--models", tmp_path / "checkpoints", "--runs", tmp_path / "runs")
        mine, tiny = cli(*asked).out.splitlines()
        assert mine.startswith(f"{tmp_path / 'checkpoints' / 'mine'}  mine  lstm 1 × 64, 82,632 parameters, 360 pieces")
        assert "/checkpoints/best  T\ufffd[2J (a run)  lstm 1 × 64" in tiny
        facts = json.loads(cli(*asked, "--json").out)
        assert [model["origin"] for model in facts] == ["ships", "run"]
        assert facts[0]["nats_per_char"] == load_checkpoint(tmp_path / "checkpoints" / "mine").figures["nats_per_char"]

    def test_none_and_no_folder_are_sentences(self, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "checkpoints").mkdir()
        assert cli("models", "--models", tmp_path / "checkpoints", "--runs", "gone").out == "No models here.\n"
        result = cli("models", "--models", "gone")
        assert (result.status, result.err) == (2, "models: gone was given; allowed: folders that exist.\n")

    def test_a_zip_becomes_a_checkpoint(self, trained_run: Path, tmp_path: Path, cli: Cli) -> None:
        archive = pack_model(trained_run, "Tales", tmp_path)
        result = cli("import-model", archive, "--out", tmp_path / "tales")
        assert (result.status, result.out) == (0, f"Tales.zip is in {tmp_path / 'tales'}\n")
        assert load_checkpoint(tmp_path / "tales").figures["step"] > 0
        again = cli("import-model", archive, "--out", tmp_path / "tales")
        assert (again.status, again.err[:4]) == (2, "out:")
        archive.write_bytes(b"Once upon a time")
        refused = cli("import-model", archive, "--out", tmp_path / "other")
        assert (refused.status, refused.err) == (1, "Tales.zip is damaged, or no ZIP file.\n")
        assert cli("import-model", tmp_path / "gone.zip", "--out", tmp_path / "other").status == 2
        assert not (tmp_path / "other").exists()


class TestRuns:
    @pytest.fixture
    def runs(self, trained_run: Path, tmp_path: Path) -> Path:
        shutil.copytree(trained_run, tmp_path / "runs" / "tiny")
        RunFolder(tmp_path / "runs" / "tiny").write_about(title="T\x1b[2J")
        return tmp_path / "runs"

    def test_lists_them(self, runs: Path, cli: Cli) -> None:
        result = cli("runs", "--runs", runs)
        assert result.out == "tiny  T\ufffd[2J  finished, step 150, 100%\n"
        (facts,) = json.loads(cli("runs", "--runs", runs, "--json").out)
        assert (facts["id"], facts["state"], facts["step"], facts["position"]) == ("tiny", "finished", 150, None)

    def test_they_are_where_the_environment_says(
        self, runs: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs.rename(tmp_path / "elsewhere")
        assert cli("runs").status == 2
        monkeypatch.setenv("TEXTGEN_RUNS", str(tmp_path / "elsewhere"))
        assert cli("runs").out.startswith("tiny  ")
        (tmp_path / "checkpoints").mkdir()
        assert "tiny" in cli("models").out

    def test_one_is_discarded(self, runs: Path, cli: Cli) -> None:
        assert cli("runs", "discard", "tiny", "--runs", runs).out == f"No runs in {runs}.\n"
        assert not (runs / "tiny").exists()

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["pause", "tiny"], "run: one that is finished was given; allowed: one that waits or trains."),
            (["resume", "tiny"], "run: one that is finished"),
            (["stop"], "run: none was given; allowed: an ID with every action but list."),
            (["list", "tiny"], "run: tiny was given"),
            (["pause", "../tiny"], "run “../tiny” was not found; there is: tiny."),
            (["pause", "tiny", "--minutes", "3"], "minutes: --minutes with pause"),
        ],
    )
    def test_what_cannot_be_done_is_a_sentence(self, runs: Path, cli: Cli, arguments: list[str], sentence: str) -> None:
        result = cli("runs", *arguments, "--runs", runs)
        assert result.status != 0
        assert sentence in result.err
        assert (runs / "tiny").is_dir()

    @pytest.mark.slow
    def test_a_run_that_trains_is_steered(self, small_text: Path, tmp_path: Path, cli: Cli) -> None:
        settings = RunSettings(
            files=(str(small_text),),
            text=TextSettings(vocab_size=300, tokenizer="char"),
            model=ModelSettings(embedding_size=8, hidden_size=12),
            training=TrainingSettings(steps=10_000_000, batch_size=4, window=10, evaluations=10_000, precision="fp32"),
        )
        manager = JobManager(tmp_path / "runs", device="cpu", threads=1, niceness=0)
        run_id = manager.submit(settings, title="Live")

        def listed() -> dict[str, Any]:
            (facts,) = json.loads(cli("runs", "--runs", manager.root, "--json").out)
            return facts

        def wait_for(state: str, *, beyond: int = 0) -> int:
            deadline = time.monotonic() + 240
            while (facts := listed())["state"] != state or (facts["step"] or 0) <= beyond:
                assert time.monotonic() < deadline, facts
                time.sleep(0.1)
            return facts["step"]

        try:
            wait_for("running")
            assert cli("runs", "pause", run_id, "--runs", manager.root).status == 0
            paused = wait_for("paused")
            resumed = cli("runs", "resume", run_id, "--runs", manager.root)
            assert (resumed.status, resumed.err) == (0, "")
            wait_for("running", beyond=paused)
            assert cli("runs", "stop", run_id, "--runs", manager.root).status == 0
            wait_for("stopped", beyond=paused)
            assert open_checkpoint(manager.root / run_id)[0].figures["elapsed_seconds"] > 0
        finally:
            manager.discard(run_id)
