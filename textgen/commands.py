"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import exp, isfinite
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from textgen.config import (
    AdaptationSettings,
    GenerationSettings,
    RunSettings,
    TextSettings,
    TrainingBudget,
    parse_settings,
    read_settings_file,
)
from textgen.errors import InvalidSetting, UnreadableText
from textgen.files import cache_folder, runs_folder, temporary_folder
from textgen.job_commands import check_job_options, train_elsewhere
from textgen.options import given_settings
from textgen.space_commands import deploy_space
from textgen.terminal import (
    StatusLine,
    TrainingDisplay,
    estimate_lines,
    import_lines,
    model_facts,
    model_line,
    report_lines,
    run_facts,
    run_line,
)

_BUDGETS = ("steps", "epochs", "minutes")
# A terminal's own user may let a model read whole books.
_MAX_PROMPT_CHARS = 50_000_000
_MAX_OWN_FILES = 100_000
_MAX_OWN_BYTES = 20_000_000_000
_MAX_OWN_SECONDS = 86_400.0
_COUNTS = ("tokens", "chars", "bytes")


def train(options: argparse.Namespace) -> int:
    """`textgen train`: exit status 0 also when Ctrl-C stopped it, since what was trained is kept."""
    check_job_options(options)
    if options.on is not None:
        return train_elsewhere(options, _run_settings(options), _token(options))
    from textgen.jobs.torchrun import launched_by_torchrun

    line = StatusLine(sys.stderr)
    if options.resume is None and not options.estimate and options.out is None:
        raise InvalidSetting("out", "nothing", "a folder for the run: --out DIR")
    torchrun = _torchrun(options)
    if torchrun.world_size > 1 and not launched_by_torchrun(os.environ):
        return _train_together(torchrun, options, line)
    if options.resume is None and options.estimate:
        return _estimate(options, line)
    from textgen.jobs.rank import joined

    with joined(os.environ, options.device) as rank:
        if options.resume is not None:
            run = rank.resume(options.resume, longer=_check_resume(options), progress=line.progress)
        else:
            run = rank.start(options.out, _run_settings(options), progress=line.progress)
        with _stopping_on_interrupt(run.stop, line) if rank.ranks.alone else rank.obeying(run):
            _show(run, TrainingDisplay(line, show_samples=not options.quiet) if rank.leads else None, line)
        if rank.leads:
            folder = options.resume or options.out
            line.print(f"The run is in {folder}. Try it: textgen generate --checkpoint {folder}")
            if options.json:
                _write_line(json.dumps(_result(run.trainer)))
    return 0


def _show(run: Any, display: TrainingDisplay | None, line: StatusLine) -> None:
    """Trains, and shows that where there is a `display`."""
    for sentence in [*report_lines(run.corpus.reports), *filter(None, [run.corpus.note])] if display else []:
        line.print(sentence)
    for event in run.events():
        if display is not None:
            display.show(event)


def _torchrun(options: argparse.Namespace) -> Any:
    """The call of torchrun that the options ask for, checked."""
    from textgen.jobs.torchrun import Torchrun

    names = ("nproc_per_node", "nnodes", "node_rank", "rdzv_endpoint", "max_restarts")
    torchrun = Torchrun(**{name: getattr(options, name) for name in names})
    torchrun.check()
    if torchrun.world_size > 1 and options.estimate:
        raise InvalidSetting("estimate", f"--estimate with {torchrun.world_size} processes", "one process")
    return torchrun


def _train_together(torchrun: Any, options: argparse.Namespace, line: StatusLine) -> int:
    """Lets torchrun run this very command in every process, and answers for them."""
    from textgen.jobs.supervision import Supervisor

    if options.resume is not None:
        _check_resume(options)
    with temporary_folder() as folder:
        supervisor = Supervisor(folder)
        with _stopping_on_interrupt(supervisor.stop, line):
            supervisor.run(torchrun.command("textgen", options.given), torchrun.environment(os.environ))
    return 0


def _estimate(options: argparse.Namespace, line: StatusLine) -> int:
    """`textgen train --estimate`: what a run would cost; leaves nothing behind."""
    from textgen.jobs.base import open_base
    from textgen.jobs.estimate import estimate_run
    from textgen.jobs.teachers import given_vocabulary, open_teachers
    from textgen.text.corpus import build_corpus

    settings = _run_settings(options)
    base = open_base(settings)
    teachers = open_teachers(settings, base)
    with temporary_folder() as folder:
        corpus = build_corpus(
            folder / "corpus",
            [Path(file) for file in settings.files],
            settings.text,
            tokenizer=given_vocabulary(base, teachers),
            heldout_files=[Path(file) for file in settings.heldout_files],
            seed=settings.training.seed,
            progress=line.progress,
        )
        models = [teacher.checkpoint.model for teacher in teachers]
        estimate = estimate_run(settings, corpus, base, models, options.device, out=options.out or Path.cwd())
    line.clear()
    for sentence in estimate_lines(estimate):
        line.print(sentence)
    if options.json:
        _write_line(json.dumps(asdict(estimate)))
    return 0


def generate(options: argparse.Namespace) -> int:
    """`textgen generate`: streams the text to standard output, or prints one JSON line."""
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, Running, TextDelta, TextEnd
    from textgen.training.device import choose_device

    given = given_settings(options, "generation")
    parse_settings(GenerationSettings, given)
    if options.tree and not options.json:
        raise InvalidSetting("tree", "--tree without --json", "--json beside it")
    prompt = _standard_input() if options.prompt == "-" else options.prompt
    running = Running(choose_device(options.device), options.backend, options.threads, cache_folder(os.environ))
    model = LoadedModel(options.checkpoint, running=running, limits=Limits(max_prompt_chars=_MAX_PROMPT_CHARS))
    if model.backend.note and options.backend == "auto":
        print(f"Running on {model.backend.name}: {model.backend.note}.", file=sys.stderr)
    # The checkpoint's own settings suit its model; what is asked for wins.
    settings = parse_settings(GenerationSettings, {**model.defaults.model_dump(), **given})
    with _closing(model), model.generate(prompt, settings) as stream:
        if not options.json:
            sys.stdout.write(prompt)
        for event in stream:
            if isinstance(event, TextDelta) and not options.json and event.sample == 0:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, TextEnd) and options.json:
                result = _generation(
                    prompt,
                    event,
                    stream.backend_name,
                    with_tokens=settings.top_logprobs > 0,
                    with_tree=options.tree,
                )
                _write_line(json.dumps(result, ensure_ascii=False))
            elif isinstance(event, TextEnd):
                sys.stdout.write("\n")
                for number, hypothesis in enumerate(event.hypotheses[1:], 2):
                    sys.stdout.write(f"\n[{number}] {prompt}{hypothesis.text}\n")
    return 0


def score(options: argparse.Namespace) -> int:
    """`textgen score`: what a model thinks of a text, token by token."""
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, Running
    from textgen.training.device import choose_device

    given = parse_settings(GenerationSettings, given_settings(options, "generation"))
    text = _standard_input() if options.text == "-" else options.text
    running = Running(choose_device(options.device), options.backend, options.threads, cache_folder(os.environ))
    model = LoadedModel(options.checkpoint, running=running, limits=Limits())
    with _closing(model):
        sample = model.score(text, top_logprobs=given.top_logprobs)
        nats = -sum(token.logprob for token in sample.tokens)
        facts: dict[str, Any] = {"tokens": len(sample.tokens), "nats": nats, "nats_per_char": nats / len(text)}
        if options.json:
            facts |= {"pieces": _pieces(sample), "backend": model.engine.backend_name}
            _write_line(json.dumps({**facts, **_copied(sample)}))
            return 0
    for token in sample.tokens:
        others = "  ".join(f"{_shown(other.text)} {exp(other.logprob):.1%}" for other in token.alternatives)
        _write_line(f"{token.logprob:9.4f} {exp(token.logprob):6.1%}  {_shown(token.text):<16} {others}".rstrip())
    _write_line(f"{nats:.2f} nats, {nats / len(text):.4f} for each character")
    if sample.copied:
        _write_line(f"copied from the training text: {sample.copied.share:.1%}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """`textgen evaluate`: figures as lines, or as a last line of JSON."""
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.training.device import choose_device

    adaptation = _adaptation(options)
    line = StatusLine(sys.stderr)
    device = choose_device(options.device)
    checkpoint, tokenizer = open_checkpoint(options.checkpoint, device=device)
    with _corpus(options, tokenizer, line) as corpus:
        result = _figures(checkpoint.model, corpus.heldout or corpus.train, adaptation, line)
    line.clear()
    if options.json:
        facts: dict[str, Any] = {"checkpoint": str(options.checkpoint), "device": str(device)}
        if adaptation:
            facts["adaptation"] = adaptation.model_dump(exclude={"passes"})
        _write_line(json.dumps({**result, **facts}))
    else:
        width = max(15, *map(len, result))
        for name, value in result.items():
            _write_line(f"{name:>{width}}: {value:,}" if name in _COUNTS else f"{name:>{width}}: {value:,.4f}")
    return 0


def index(options: argparse.Namespace) -> int:
    """`textgen index`: gives a checkpoint, or the best one of a run, an index of the text that it was trained on."""
    from textgen.files import write_atomically
    from textgen.jobs.checkpoints import open_checkpoint, open_copy_index
    from textgen.jobs.copy_index import build_copy_index
    from textgen.jobs.run_folder import resolve_checkpoint
    from textgen.model.checkpoint import COPY_INDEX
    from textgen.text.copy_indexes import CopyIndexes

    line = StatusLine(sys.stderr)
    checkpoint, tokenizer = open_checkpoint(options.checkpoint)
    before = open_copy_index(checkpoint)
    with _corpus(options, tokenizer, line) as corpus:
        made = build_copy_index(corpus, progress=line.progress)
    # What the models before it have learned from stays.
    indexes = CopyIndexes((made, *(before.parts[1:] if before else ())))
    data, path = indexes.to_bytes(), resolve_checkpoint(options.checkpoint) / COPY_INDEX
    write_atomically(path, data)
    line.clear()
    found = f"passages of {made.fewest_tokens} tokens or more"
    _write_line(f"{len(data):,} bytes in {path}: {made.covered:.1%} of the text's sequences of 8 tokens, {found}")
    return 0


@contextmanager
def _corpus(options: argparse.Namespace, tokenizer: Any, line: StatusLine) -> Iterator[Any]:
    """The files that are named, divided as they were for a training, in tokens; for as long as the context lasts."""
    from textgen.text.corpus import build_corpus

    settings = parse_settings(TextSettings, {**given_settings(options, "text"), "heldout": options.heldout or 0.0})
    files = [Path(file) for file in options.files]
    with temporary_folder() as folder:
        yield build_corpus(
            folder / "corpus",
            files,
            settings,
            tokenizer=tokenizer,
            seed=options.seed,
            progress=line.progress,
        )


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

    megabytes = options.max_file_mb
    if megabytes is not None and not 0 < megabytes < math.inf:
        raise InvalidSetting("--max-file-mb", megabytes, "a number of megabytes above 0")
    if options.format == "onnx" and (options.full or megabytes is not None):
        given = "--full" if options.full else "--max-file-mb"
        raise InvalidSetting(given, "--format onnx", "--format checkpoint; onnx has fp32 and int8, each in one file")
    checkpoint, tokenizer = open_checkpoint(options.checkpoint)
    _check_unused(options.out)
    if options.format == "onnx":
        from textgen.export import export_onnx

        export_onnx(options.out, checkpoint, tokenizer)
    else:
        save_checkpoint(
            options.out,
            checkpoint,
            weight_format="float32" if options.full else "float16",
            max_file_bytes=None if megabytes is None else int(megabytes * 1e6),
        )
    size = sum(path.stat().st_size for path in options.out.iterdir())
    _write_line(f"{size / 1e6:.1f} MB in {options.out}")
    return 0


def push(options: argparse.Namespace) -> int:
    """`textgen push`: a checkpoint, or the best one of a run, goes to the Hugging Face Hub."""
    from textgen.hub import push
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.jobs.run_folder import resolve_checkpoint

    line = StatusLine(sys.stderr)
    folder = resolve_checkpoint(options.checkpoint)
    open_checkpoint(folder)
    address = push(folder, options.repo_id, token=_token(options), private=options.private, progress=line.progress)
    line.clear()
    _write_line(f"It is at {address}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """`textgen pull`: a model from the Hugging Face Hub becomes a checkpoint folder."""
    from textgen.hub import pull, split_address
    from textgen.jobs.checkpoints import check_checkpoint

    _check_unused(options.out)
    line = StatusLine(sys.stderr)
    commit = pull(
        options.repo_id,
        options.out,
        downloads=cache_folder(os.environ) / "hub",
        revision=options.revision,
        token=_token(options),
        check=check_checkpoint,
        progress=line.progress,
    )
    line.clear()
    name, _ = split_address(options.repo_id)
    _write_line(f"{name}, commit {commit[:12]}, is in {options.out}")
    return 0


def models(options: argparse.Namespace) -> int:
    """`textgen models`: the models that the page offers, where they are from, and how good they are."""
    from textgen.shelf import Shelf
    from textgen.studio import Studio

    folders = options.models or [Path("checkpoints")]
    _check_folders(folders)
    shelf = Shelf(Studio([*folders, runs_folder(os.environ, Path(), options.runs)], device="cpu"))
    listed = [model_facts(model) for model in shelf.models()]
    if options.json:
        _write_line(json.dumps(listed, ensure_ascii=False))
    elif not listed:
        _write_line("No models here.")
    for facts in [] if options.json else listed:
        _write_line(model_line(facts))
    return 0


def import_model(options: argparse.Namespace) -> int:
    """`textgen import-model`: a zip of a model becomes a checkpoint folder."""
    from textgen.jobs.model_zip import unpack_model

    _check_unused(options.out)
    line = StatusLine(sys.stderr)
    unpack_model(options.archive, options.out, name=options.archive.name, progress=line.progress)
    line.clear()
    _write_line(f"{options.archive.name} is in {options.out}")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """`textgen deploy`: the app becomes a Space on the Hugging Face Hub."""
    return deploy_space(options, _token(options))


def import_files(options: argparse.Namespace) -> int:
    """`textgen import`: files as plain text; exit status 1 if one of them gave none."""
    from textgen.limits import Limits
    from textgen.text.importing import ImportSource, import_texts

    line = StatusLine(sys.stderr)
    sources = [ImportSource(Path(file), Path(file).name, options.encoding, options.column) for file in options.files]
    # Unlike an upload, the machine is one's own, and so is the time.
    limits = Limits(
        max_import_files=_MAX_OWN_FILES,
        max_import_member_bytes=_MAX_OWN_BYTES,
        max_import_total_bytes=_MAX_OWN_BYTES,
        max_import_seconds=_MAX_OWN_SECONDS,
        max_import_file_seconds=_MAX_OWN_SECONDS,
    )
    texts = import_texts(sources, options.out, limits=limits, progress=line.progress)
    line.clear()
    if options.json:
        _write_line(json.dumps({"files": [text.as_dict() for text in texts]}, ensure_ascii=False))
    else:
        for sentence in import_lines(texts):
            _write_line(sentence)
    return 0 if all(text.usable for text in texts) else 1


RUN_ACTIONS = ("list", "pause", "stop", "resume", "discard")


def runs(options: argparse.Namespace) -> int:
    """`textgen runs`: the list of runs, or one of the page's verbs for one of them."""
    from textgen.jobs.manager import JobManager

    def device() -> str:
        from textgen.training.device import choose_device  # imports torch, which the list does not need

        return str(choose_device(options.device))

    if options.minutes is not None and options.action != "resume":
        raise InvalidSetting("minutes", f"--minutes with {options.action}", "--minutes with resume")
    if (options.run_id is None) != (options.action == "list"):
        raise InvalidSetting("run", options.run_id or "none", "an ID with every action but list")
    folder = runs_folder(os.environ, Path(), options.runs)
    if not folder.is_dir():
        raise InvalidSetting("runs", str(folder), "a folder of runs")
    manager = JobManager(folder, device=device)
    longer = {"minutes": options.minutes} if options.minutes is not None else None
    if options.action == "resume":
        manager.resume(options.run_id, longer=longer)
    elif options.action != "list":
        {"pause": manager.pause, "stop": manager.stop, "discard": manager.discard}[options.action](options.run_id)
    listed = [run_facts(view) for view in manager.runs()]
    if options.json:
        _write_line(json.dumps(listed, ensure_ascii=False))
    elif not listed:
        _write_line(f"No runs in {folder}.")
    for facts in [] if options.json else listed:
        _write_line(run_line(facts))
    return 0


def serve(options: argparse.Namespace) -> NoReturn:
    """`textgen serve`: the app, until Ctrl-C or SIGTERM."""
    from textgen.imports import quick_imports

    with quick_imports():
        from textgen.api.routes import api_for
        from textgen.jobs.torchrun import Torchrun
        from textgen.limits import limits_from
        from textgen.ui.server import keeps_runs, people_from, root_path_from, serve_forever, training_folder

    Torchrun(nproc_per_node=1 if options.nproc_per_node is None else options.nproc_per_node).check()
    if not 1 <= options.port <= 65_535:
        raise InvalidSetting("port", options.port, "1 to 65535")
    _check_folders(options.models or [])
    runs = training_folder(os.environ, Path(), options.runs)
    folders = [*(options.models or [Path("checkpoints")]), *([runs] if runs is not None else [])]
    people = people_from(os.environ, runs)
    limits = limits_from(os.environ, shared=people.shared)
    if options.nproc_per_node is not None:
        limits = replace(limits, training_processes=options.nproc_per_node)
    serve_forever(
        folders,
        runs=runs,
        runs_last=keeps_runs(os.environ, runs),
        people=people,
        routes=api_for(os.environ, people.of(None)),
        limits=limits,
        host=options.host,
        port=options.port,
        root_path=root_path_from(os.environ, options.root_path),
        device=options.device,
        backend=options.backend,
        threads=options.threads,
        open_browser=options.open,
    )


def _token(options: argparse.Namespace) -> str | None:
    """What was given; without that the client of the Hub looks for HF_TOKEN and for a login."""
    return _standard_input().strip() if options.token_stdin else None


def _check_folders(models: Sequence[Path]) -> None:
    for folder in models:
        if not folder.is_dir():
            raise InvalidSetting("models", str(folder), "folders that exist")


def _check_unused(out: Path) -> None:
    # "." and its like cannot step aside for what takes their place.
    if not out.name or out.name == ".." or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise InvalidSetting("out", str(out), "a new or empty folder")


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UnreadableText("standard input", error.start, error.encoding) from None


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _adaptation(options: argparse.Namespace) -> AdaptationSettings | None:
    given = given_settings(options, "adaptation")
    if given and not options.dynamic:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise InvalidSetting("dynamic", f"{flag} without it", "--dynamic beside the adaptation settings")
    return parse_settings(AdaptationSettings, given) if options.dynamic else None


def _figures(model: Any, part: Any, adaptation: AdaptationSettings | None, line: StatusLine) -> dict[str, Any]:
    """What is measured on a part of a text by name; names of what an adapting model reaches begin with `dynamic_`."""
    from textgen.training import evaluation

    sizes = {"chars": part.characters, "bytes": part.bytes}
    figures = evaluation.evaluate(model, part.ids, **sizes, progress=line.progress).as_dict()
    if adaptation:
        dynamic = evaluation.evaluate_dynamically(
            model, part.ids, **sizes, settings=adaptation, progress=line.progress
        ).as_dict()
        figures |= {f"dynamic_{name}": value for name, value in dynamic.items() if name not in _COUNTS}
    return figures


def _check_resume(options: argparse.Namespace) -> TrainingBudget | None:
    """How much longer the run is to be trained, if at all; nothing else may stand beside --resume."""
    others = ("out", "preset", "base", "teachers", "config", "heldout_files", "sample_prompts")
    given = [name for name in others if getattr(options, name) is not None]
    given += [name for section in _SECTIONS for name in given_settings(options, section) if name not in _BUDGETS]
    given += ["files"] if options.files else []
    given += ["estimate"] if options.estimate else []
    if given:
        allowed = "--resume DIR, and a budget to train longer; the run knows its text and settings"
        raise InvalidSetting("resume", f"{given[0]} beside it", allowed)
    budget = given_settings(options, "training")
    return parse_settings(TrainingBudget, budget) if budget else None


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
    if options.teachers is not None:
        asked["teachers"] = [str(Path(teacher).resolve()) for teacher in options.teachers]
    if options.sample_prompts is not None:
        asked["sample_prompts"] = options.sample_prompts
    layers = [
        {name: content[name] for name in _SECTIONS},
        {name: given_settings(options, name) for name in _SECTIONS},
    ]
    checked = parse_settings(RunSettings, asked)
    if checked.teachers:
        _check_beside_teachers(layers[-1])
    if checked.base is not None:
        _check_beside_base(_merged([layer["text"] for layer in layers]), layers[-1])
    if options.preset is not None or options.config is None:
        layers.insert(0, _preset(options.preset or "quick", checked, layers))
    for section in _SECTIONS:
        asked[section] = _merged([layer[section] for layer in layers])
    return parse_settings(RunSettings, asked)


def _check_beside_base(text: dict[str, Any], given: dict[str, Any]) -> None:
    choice = text.get("base_vocabulary", "keep")
    fixed = [*given["model"]]
    if choice != "new":
        fixed += [name for name in ("tokenizer",) if name in given["text"]]
    if choice == "keep":
        fixed += [name for name in ("vocab_size",) if name in given["text"]]
    if fixed:
        allowed = "no shape, and no vocabulary without --base-vocabulary extend or new: a base brings its own"
        raise InvalidSetting("base", f"--{fixed[0].replace('_', '-')} beside it", allowed)


def _check_beside_teachers(given: dict[str, Any]) -> None:
    for name in ("tokenizer", "vocab_size"):
        if name in given["text"]:
            raise InvalidSetting("teachers", f"--{name.replace('_', '-')} beside them", "none: they bring theirs")


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
    asked = _merged([layer["training"] for layer in layers])
    # As a section of its run, so that what is wrong with it is told by its whole name.
    budget = parse_settings(
        RunSettings, {"training": {name: asked[name] for name in _BUDGETS if name in asked}}
    ).training
    return preset_settings(name, survey, base=settings.base is not None, budget=budget)


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


def _generation(prompt: str, end: Any, backend_name: str, *, with_tokens: bool, with_tree: bool) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "text": end.text,
        "reason": end.reason,
        "tokens": end.tokens,
        "seconds": round(end.seconds, 4),
        "tokens_per_second": round(end.tokens_per_second, 1),
        "seed": end.seed,
        "backend": backend_name,
        **({} if end.copied_share is None else {"copied_share": end.copied_share}),
        "hypotheses": [{"text": item.text, "score": item.score, **_copied(item)} for item in end.hypotheses],
        **({"pieces": [_pieces(sample) for sample in end.samples]} if with_tokens else {}),
        **({"tree": [asdict(node) for node in end.tree]} if with_tree else {}),
    }


def _copied(text: Any) -> dict[str, Any]:
    """What of a text is copied from the training text, where the model has an index of that."""
    if text.copied is None:
        return {}
    return {"copied_share": text.copied.share, "copied_spans": [list(span) for span in text.copied.spans]}


def _finite(logprob: float) -> float | None:
    """JSON has no word for the logarithm of 0."""
    return logprob if isfinite(logprob) else None


def _shown(text: str) -> str:
    """A token in one line whose spaces are seen."""
    return json.dumps(text, ensure_ascii=False)


def _pieces(sample: Any) -> list[dict[str, Any]]:
    """The tokens of a sample with their log-probabilities and alternatives."""
    return [
        {
            "text": token.text,
            "logprob": token.logprob,
            "warped_logprob": token.warped_logprob,
            "alternatives": [
                {"text": other.text, "logprob": other.logprob, "warped_logprob": _finite(other.warped_logprob)}
                for other in token.alternatives
            ],
        }
        for token in sample.tokens
    ]


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
