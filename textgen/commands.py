"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from textgen.config import (
    GenerationSettings,
    RunSettings,
    TextSettings,
    parse_settings,
    read_settings_file,
)
from textgen.errors import InvalidSetting, UnreadableText
from textgen.options import given_settings
from textgen.terminal import StatusLine, TrainingDisplay, report_lines

_BUDGETS = ("steps", "epochs", "minutes")
# A terminal's own user may let a model read whole books.
_MAX_PROMPT_CHARS = 50_000_000
_COUNTS = ("tokens", "chars", "bytes")


def train(options: argparse.Namespace) -> int:
    """`textgen train`: exit status 0 also when Ctrl-C stopped it, since what was trained is kept."""
    from textgen.jobs.training_run import resume_run, start_run

    line = StatusLine(sys.stderr)
    if options.resume is not None:
        _check_resume(options)
        run = resume_run(options.resume, device=options.device, progress=line.progress)
    else:
        if options.out is None:
            raise InvalidSetting("out", "nothing", "a folder for the run: --out DIR")
        settings = _run_settings(options)
        run = start_run(options.out, settings, device=options.device, progress=line.progress)
    for sentence in [*report_lines(run.corpus.reports), *filter(None, [run.corpus.note])]:
        line.print(sentence)
    display = TrainingDisplay(line, show_samples=not options.quiet)
    with _stopping_on_interrupt(run.stop, line):
        for event in run.events():
            display.show(event)
    folder = options.resume or options.out
    line.print(f"The run is in {folder}. Try it: textgen generate --checkpoint {folder}")
    if options.json:
        _write_line(json.dumps(_result(run.trainer)))
    return 0


def generate(options: argparse.Namespace) -> int:
    """`textgen generate`: streams the text to standard output, or prints one JSON line."""
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, TextDelta, TextEnd
    from textgen.training.device import choose_device

    given = given_settings(options, "generation")
    parse_settings(GenerationSettings, given)
    prompt = _standard_input() if options.prompt == "-" else options.prompt
    model = LoadedModel(
        options.checkpoint, device=choose_device(options.device), limits=Limits(max_prompt_chars=_MAX_PROMPT_CHARS)
    )
    # The checkpoint's own settings suit its model; what is asked for wins.
    settings = parse_settings(GenerationSettings, {**model.checkpoint.generation.model_dump(), **given})
    with _closing(model), model.generate(prompt, settings) as stream:
        if not options.json:
            sys.stdout.write(prompt)
        for event in stream:
            if isinstance(event, TextDelta) and not options.json:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, TextEnd) and options.json:
                _write_line(json.dumps(_generation(prompt, event, model), ensure_ascii=False))
            elif isinstance(event, TextEnd):
                sys.stdout.write("\n")
                for number, hypothesis in enumerate(event.hypotheses[1:], 2):
                    sys.stdout.write(f"\n[{number}] {prompt}{hypothesis.text}\n")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """`textgen evaluate`: figures as lines, or as a last line of JSON."""
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.text.corpus import build_corpus
    from textgen.training import evaluation
    from textgen.training.device import choose_device

    line = StatusLine(sys.stderr)
    device = choose_device(options.device)
    checkpoint, tokenizer = open_checkpoint(options.checkpoint, device=device)
    settings = parse_settings(TextSettings, {**given_settings(options, "text"), "heldout": options.heldout or 0.0})
    with tempfile.TemporaryDirectory(prefix="textgen-") as folder:
        files = [Path(file) for file in options.files]
        corpus = build_corpus(Path(folder) / "corpus", files, settings, tokenizer=tokenizer, progress=line.progress)
        part = corpus.heldout or corpus.train
        result = evaluation.evaluate(
            checkpoint.model, part.ids, chars=part.characters, bytes=part.bytes, progress=line.progress
        ).as_dict()
    line.clear()
    if options.json:
        _write_line(json.dumps({**result, "checkpoint": str(options.checkpoint), "device": str(device)}))
    else:
        for name, value in result.items():
            _write_line(f"{name:>15}: {value:,.4f}" if name not in _COUNTS else f"{name:>15}: {value:,}")
    return 0


def tokenizer_train(options: argparse.Namespace) -> int:
    """`textgen tokenizer train`."""
    from textgen.text.readers import open_text
    from textgen.text.tokenizer_training import train_tokenizer

    line = StatusLine(sys.stderr)
    settings = parse_settings(TextSettings, given_settings(options, "text"))
    texts = (block for file in options.files for block in open_text(Path(file), encoding=settings.encoding).blocks())
    result = train_tokenizer(texts, kind=settings.tokenizer, vocab_size=settings.vocab_size, progress=line.progress)
    result.tokenizer.save(options.out)
    if result.note:
        line.print(result.note)
    line.print(f"{result.tokenizer.vocab_size:,} pieces in {options.out}")
    return 0


def tokenizer_info(options: argparse.Namespace) -> int:
    """`textgen tokenizer info`."""
    from textgen.jobs.run_folder import resolve_checkpoint
    from textgen.text.tokenizer import Tokenizer

    path = options.path
    tokenizer = Tokenizer.load(resolve_checkpoint(path) / "tokenizer.model" if path.is_dir() else path)
    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "sha256": tokenizer.sha256}
    if options.text is not None:
        ids = tokenizer.encode(options.text)
        facts |= {"ids": ids, "pieces": [tokenizer.piece(number) for number in ids]}
    if options.json:
        _write_line(json.dumps(facts, ensure_ascii=False))
    else:
        for name, value in facts.items():
            _write_line(f"{name}: {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def export(options: argparse.Namespace) -> int:
    """`textgen export`: a checkpoint, or the best one of a run, as a folder to hand on."""
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.model.checkpoint import save_checkpoint

    checkpoint, _ = open_checkpoint(options.checkpoint)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise InvalidSetting("out", str(options.out), "a new or empty folder")
    save_checkpoint(options.out, checkpoint, weight_format="float32" if options.full else "float16")
    size = sum(path.stat().st_size for path in options.out.iterdir())
    _write_line(f"{size / 1e6:.1f} MB in {options.out}")
    return 0


def serve(options: argparse.Namespace) -> int:
    """`textgen serve`: the app, until Ctrl-C."""
    from textgen.ui.server import serve_forever

    if not 1 <= options.port <= 65_535:
        raise InvalidSetting("port", options.port, "1 to 65535")
    for folder in options.models or []:
        if not folder.is_dir():
            raise InvalidSetting("models", str(folder), "folders that exist")
    folders = options.models or [Path("checkpoints"), Path("runs")]
    serve_forever(folders, host=options.host, port=options.port, device=options.device, open_browser=options.open)
    return 0


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UnreadableText("standard input", error.start, error.encoding) from None


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _check_resume(options: argparse.Namespace) -> None:
    others = ("out", "preset", "base", "config", "heldout_files", "sample_prompts")
    given = [name for name in others if getattr(options, name) is not None]
    given += [name for section in _SECTIONS for name in given_settings(options, section)]
    given += ["files"] if options.files else []
    if given:
        raise InvalidSetting(
            "resume", f"{given[0]} beside it", "--resume DIR alone; the run knows its text and settings"
        )


def _run_settings(options: argparse.Namespace) -> RunSettings:
    """Preset, then config file, then options: what comes later wins."""
    content = read_settings_file(options.config) if options.config else {}
    for name in _SECTIONS:
        content[name] = {} if content.get(name) is None else content[name]
        if not isinstance(content[name], dict):
            raise InvalidSetting(name, content[name], "a mapping of settings")
    asked: dict[str, Any] = {name: content[name] for name in content if name not in _SECTIONS}
    if options.files:
        asked["files"] = [str(Path(file).resolve()) for file in options.files]
    if options.heldout_files:
        asked["heldout_files"] = [str(Path(file).resolve()) for file in options.heldout_files]
    if options.base is not None:
        asked["base"] = str(Path(options.base).resolve())
    if options.sample_prompts is not None:
        asked["sample_prompts"] = options.sample_prompts
    layers = [
        {name: content[name] for name in _SECTIONS},
        {name: given_settings(options, name) for name in _SECTIONS},
    ]
    checked = parse_settings(RunSettings, asked)
    if checked.base is not None:
        _check_beside_base(layers[-1])
    if options.preset is not None or options.config is None:
        layers.insert(0, _preset(options.preset or "quick", checked, layers))
    for section in _SECTIONS:
        asked[section] = _merged([layer[section] for layer in layers])
    return parse_settings(RunSettings, asked)


def _check_beside_base(given: dict[str, Any]) -> None:
    fixed = [*given["model"], *(name for name in ("tokenizer", "vocab_size") if name in given["text"])]
    if fixed:
        allowed = "no shape and no vocabulary: a base brings its own"
        raise InvalidSetting("base", f"--{fixed[0].replace('_', '-')} beside it", allowed)


_SECTIONS = ("text", "model", "training")


def _preset(name: str, settings: RunSettings, layers: list[dict[str, Any]]) -> dict[str, Any]:
    from textgen.text.readers import open_text
    from textgen.training.presets import preset_settings, survey_text

    if not settings.files:
        raise InvalidSetting("files", "none", "at least one text file")
    encoding = layers[-1]["text"].get("encoding") or layers[0]["text"].get("encoding")
    files = [open_text(Path(file), encoding=encoding) for file in settings.files]
    size = sum(Path(file).stat().st_size for file in settings.files)
    survey = survey_text((block for file in files for block in file.blocks()), total_bytes=size)
    return preset_settings(name, survey, base=settings.base is not None)


def _merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in _BUDGETS):
            # One budget replaces another: --steps wins over a preset's minutes.
            merged = {name: value for name, value in merged.items() if name not in _BUDGETS}
        merged |= layer
    return merged


def _result(trainer: Any) -> dict[str, Any]:
    best = trainer.best
    return {
        "step": trainer.step,
        "elapsed_seconds": round(trainer.elapsed_seconds, 1),
        **(best.as_dict() if best else {}),
    }


def _generation(prompt: str, end: Any, model: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "text": end.text,
        "reason": end.reason,
        "tokens": end.tokens,
        "seconds": round(end.seconds, 4),
        "tokens_per_second": round(end.tokens_per_second, 1),
        "seed": end.seed,
        "backend": model.engine.backend_name,
        "hypotheses": [{"text": item.text, "score": item.score} for item in end.hypotheses],
    }


@contextmanager
def _closing(model: Any) -> Iterator[None]:
    try:
        yield
    finally:
        model.close()


@contextmanager
def _stopping_on_interrupt(stop: Any, line: StatusLine) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) stops after the step; a second one interrupts at once."""

    def first(_number: int, _frame: FrameType | None) -> None:
        line.print("Stopping after this step; what was trained is saved. Ctrl-C again to leave at once.")
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
