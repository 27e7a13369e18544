"""`textgen models`, `export`, `import-model`, `push` and `pull`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

from textgen.commands.common import check_folders, check_unused, given_token, write_line
from textgen.errors import InvalidSetting
from textgen.files import cache_folder, runs_folder
from textgen.terminal import StatusLine, model_facts, model_line


def models(options: argparse.Namespace) -> int:
    """`textgen models`: the models that the page offers, where they are from, and how good they are."""
    from textgen.shelf import Shelf
    from textgen.studio import Studio

    folders = options.models or [Path("checkpoints")]
    check_folders(folders)
    shelf = Shelf(Studio([*folders, runs_folder(os.environ, Path(), options.runs)], device="cpu"))
    listed = [model_facts(model) for model in shelf.models()]
    if options.json:
        write_line(json.dumps(listed, ensure_ascii=False))
    elif not listed:
        write_line("No models here.")
    for facts in [] if options.json else listed:
        write_line(model_line(facts))
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
    check_unused(options.out)
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
    write_line(f"{size / 1e6:.1f} MB in {options.out}")
    return 0


def import_model(options: argparse.Namespace) -> int:
    """`textgen import-model`: a zip of a model becomes a checkpoint folder."""
    from textgen.jobs.model_zip import unpack_model

    check_unused(options.out)
    line = StatusLine(sys.stderr)
    unpack_model(options.archive, options.out, name=options.archive.name, progress=line.progress)
    line.clear()
    write_line(f"{options.archive.name} is in {options.out}")
    return 0


def push(options: argparse.Namespace) -> int:
    """`textgen push`: a checkpoint, or the best one of a run, goes to the Hugging Face Hub."""
    from textgen.hub import push
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.jobs.run_folder import resolve_checkpoint

    line = StatusLine(sys.stderr)
    folder = resolve_checkpoint(options.checkpoint)
    open_checkpoint(folder)
    address = push(folder, options.repo_id, token=given_token(options), private=options.private, progress=line.progress)
    line.clear()
    write_line(f"It is at {address}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """`textgen pull`: a model from the Hugging Face Hub becomes a checkpoint folder."""
    from textgen.hub import pull, split_address
    from textgen.jobs.checkpoints import check_checkpoint

    check_unused(options.out)
    line = StatusLine(sys.stderr)
    commit = pull(
        options.repo_id,
        options.out,
        downloads=cache_folder(os.environ) / "hub",
        revision=options.revision,
        token=given_token(options),
        check=check_checkpoint,
        progress=line.progress,
    )
    line.clear()
    name, _ = split_address(options.repo_id)
    write_line(f"{name}, commit {commit[:12]}, is in {options.out}")
    return 0
