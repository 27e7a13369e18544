"""`textgen generate` and `textgen score`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import exp, isfinite
from pathlib import Path
from typing import Any

from textgen.commands.common import standard_input, write_line
from textgen.config import GenerationSettings, parse_settings
from textgen.errors import InvalidSetting
from textgen.files import cache_folder
from textgen.options import given_settings

# The model that the page opens with, where what ships is at hand.
SHIPS = Path("checkpoints", "fairy-tales")
# A terminal's own user may let a model read whole books.
_MAX_PROMPT_CHARS = 50_000_000


def generate(options: argparse.Namespace) -> int:
    """`textgen generate`: streams the text to standard output, or prints one JSON line."""
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, Running, TextDelta, TextEnd
    from textgen.training.device import choose_device

    given = given_settings(options, "generation")
    parse_settings(GenerationSettings, given)
    if options.tree and not options.json:
        raise InvalidSetting("tree", "--tree without --json", "--json beside it")
    prompt = standard_input() if options.prompt == "-" else options.prompt
    running = Running(choose_device(options.device), options.backend, options.threads, cache_folder(os.environ))
    model = LoadedModel(_checkpoint(options), running=running, limits=Limits(max_prompt_chars=_MAX_PROMPT_CHARS))
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
                write_line(json.dumps(result, ensure_ascii=False))
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
    text = standard_input() if options.text == "-" else options.text
    running = Running(choose_device(options.device), options.backend, options.threads, cache_folder(os.environ))
    model = LoadedModel(_checkpoint(options), running=running, limits=Limits())
    with _closing(model):
        sample = model.score(text, top_logprobs=given.top_logprobs)
        nats = -sum(token.logprob for token in sample.tokens)
        facts: dict[str, Any] = {"tokens": len(sample.tokens), "nats": nats, "nats_per_char": nats / len(text)}
        if options.json:
            facts |= {"pieces": _pieces(sample), "backend": model.engine.backend_name}
            write_line(json.dumps({**facts, **_copied(sample)}))
            return 0
    for token in sample.tokens:
        others = "  ".join(f"{_shown(other.text)} {exp(other.logprob):.1%}" for other in token.alternatives)
        write_line(f"{token.logprob:9.4f} {exp(token.logprob):6.1%}  {_shown(token.text):<16} {others}".rstrip())
    write_line(f"{nats:.2f} nats, {nats / len(text):.4f} for each character")
    if sample.copied:
        write_line(f"copied from the training text: {sample.copied.share:.1%}")
    return 0


def _checkpoint(options: argparse.Namespace) -> Path:
    """The one that is asked for, or the one that ships."""
    if options.checkpoint is None and not SHIPS.is_dir():
        raise InvalidSetting("checkpoint", "nothing", f"a checkpoint or a run, since there is no {SHIPS} here")
    return options.checkpoint or SHIPS


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
