"""`textgen import` and `textgen tokenizer`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from textgen.commands.common import write_line
from textgen.config import TextSettings, parse_settings
from textgen.options import given_settings
from textgen.terminal import StatusLine, import_lines

_MAX_OWN_FILES = 100_000
_MAX_OWN_BYTES = 20_000_000_000
_MAX_OWN_SECONDS = 86_400.0


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
        write_line(json.dumps({"files": [text.as_dict() for text in texts]}, ensure_ascii=False))
    else:
        for sentence in import_lines(texts):
            write_line(sentence)
    return 0 if all(text.usable for text in texts) else 1


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
        write_line(json.dumps(facts, ensure_ascii=False))
    else:
        for name, value in facts.items():
            write_line(f"{name}: {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0
