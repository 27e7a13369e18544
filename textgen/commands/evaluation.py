"""`textgen evaluate` and `textgen index`: a model beside a text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textgen.commands.common import write_line
from textgen.config import AdaptationSettings, TextSettings, parse_settings
from textgen.errors import InvalidSetting
from textgen.files import temporary_folder
from textgen.options import given_settings
from textgen.terminal import StatusLine

_COUNTS = ("tokens", "chars", "bytes")
_MOST_STREAMS = 1024
# Tokens whose probabilities are held at once.
_TOKENS_AT_ONCE = 4096


def evaluate(options: argparse.Namespace) -> int:
    """`textgen evaluate`: figures as lines, or as a last line of JSON."""
    from textgen.jobs.checkpoints import open_checkpoint
    from textgen.training.device import choose_device

    adaptation = _adaptation(options)
    if not 1 <= options.streams <= _MOST_STREAMS:
        raise InvalidSetting("streams", options.streams, f"1 to {_MOST_STREAMS}")
    line = StatusLine(sys.stderr)
    device = choose_device(options.device)
    checkpoint, tokenizer = open_checkpoint(options.checkpoint, device=device)
    with _corpus(options, tokenizer, line) as corpus:
        result = _figures(checkpoint.model, corpus.heldout or corpus.train, options.streams, adaptation, line)
    line.clear()
    if options.json:
        facts: dict[str, Any] = {"checkpoint": str(options.checkpoint), "device": str(device)}
        facts["streams"] = options.streams
        if adaptation:
            facts["adaptation"] = adaptation.model_dump(exclude={"passes"})
        write_line(json.dumps({**result, **facts}))
    else:
        width = max(15, *map(len, result))
        for name, value in result.items():
            write_line(f"{name:>{width}}: {value:,}" if name in _COUNTS else f"{name:>{width}}: {value:,.4f}")
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
    write_line(f"{len(data):,} bytes in {path}: {made.covered:.1%} of the text's sequences of 8 tokens, {found}")
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


def _adaptation(options: argparse.Namespace) -> AdaptationSettings | None:
    given = given_settings(options, "adaptation")
    if given and not options.dynamic:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise InvalidSetting("dynamic", f"{flag} without it", "--dynamic beside the adaptation settings")
    if options.dynamic and options.streams > 1:
        raise InvalidSetting("streams", f"{options.streams} with --dynamic", "1 with it: what learns reads in order")
    return parse_settings(AdaptationSettings, given) if options.dynamic else None


def _figures(
    model: Any, part: Any, streams: int, adaptation: AdaptationSettings | None, line: StatusLine
) -> dict[str, Any]:
    """What is measured on a part of a text by name; names of what an adapting model reaches begin with `dynamic_`."""
    from textgen.training import evaluation

    sizes = {"chars": part.characters, "bytes": part.bytes}
    window = min(256, _TOKENS_AT_ONCE // streams)
    figures = evaluation.evaluate(
        model, part.ids, **sizes, streams=streams, window=window, progress=line.progress
    ).as_dict()
    if adaptation:
        dynamic = evaluation.evaluate_dynamically(
            model, part.ids, **sizes, settings=adaptation, progress=line.progress
        ).as_dict()
        figures |= {f"dynamic_{name}": value for name, value in dynamic.items() if name not in _COUNTS}
    return figures
