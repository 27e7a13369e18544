"""The model card of a run's checkpoints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from textgen.config import RunSettings
from textgen.jobs.run_folder import run_of
from textgen.text.corpus import Corpus


def model_card(
    name: str,
    settings: RunSettings,
    corpus: Corpus,
    figures: Mapping[str, Any],
    *,
    lineage: Mapping[str, Any] | None = None,
    samples: Sequence[str] = (),
) -> str:
    """Markdown with Hub front matter: data, what it comes from, figures, samples, and the command that made it.

    What is not known is left out, never made up; files are named, but not where they lie.
    """
    model = settings.model
    shape = f"{model.cell}, {model.num_layers} × {model.hidden_size} units, embedding {model.embedding_size}"
    shape += f", {model.vocab_size} pieces"
    lines = [
        "---",
        "library_name: textgen-studio",
        "pipeline_tag: text-generation",
        "tags: [recurrent, lstm, sentencepiece]",
        "---",
        "",
        f"# {name}",
        "",
        f"A recurrent language model made with Textgen Studio: {shape}.",
        "",
        "## Data",
        "",
        *(f"- {report.name}: {report.characters:,} characters, {report.encoding}" for report in corpus.reports),
        "",
        f"Trained on {corpus.train.characters:,} characters"
        + (f"; {corpus.heldout.characters:,} were held out." if corpus.heldout else "; nothing was held out."),
        "",
        *_lineage_lines(lineage or {}),
    ]
    if "nats_per_char" in figures:
        lines += [
            "## On the held-out text",
            "",
            "| figure | value |",
            "|---|---|",
            f"| nats per character | {figures['nats_per_char']:.4f} |",
            f"| bits per byte | {figures['bits_per_byte']:.4f} |",
            f"| perplexity per token | {figures['perplexity']:.2f} |",
            f"| accuracy of the likeliest token | {figures['accuracy']:.3f} |",
            f"| optimizer steps | {figures['step']} |",
            "",
        ]
    if any(samples):
        lines += ["## Samples", "", "As they came.", "", *(line for text in samples if text for line in _block(text))]
    return "\n".join([*lines, *_command_lines(name, settings)])


def _lineage_lines(lineage: Mapping[str, Any]) -> list[str]:
    """What the model started from, and what that had started from, and what it learned from beside the text."""
    bases: list[str] = []
    base = lineage.get("base")
    while isinstance(base, dict) and base.get("name"):
        bases.append(f"*{base['name']}*")
        base = base["lineage"].get("base") if isinstance(base.get("lineage"), dict) else None
    teachers = [f"*{teacher['name']}*" for teacher in lineage.get("teachers", ())]
    told = [f"It was started from {', which was started from '.join(bases)}."] if bases else []
    told += [f"It learned from {', '.join(teachers)} beside its text (knowledge distillation)."] if teachers else []
    return ["## Lineage", "", *told, ""] if told else []


def _command_lines(name: str, settings: RunSettings) -> list[str]:
    content = settings.model_dump(mode="json", exclude_none=True, exclude={"files", "heldout_files"})
    content["base"] = None if settings.base is None else run_of(Path(settings.base)).name
    content["teachers"] = [run_of(Path(teacher)).name for teacher in settings.teachers]
    kept = {field: value for field, value in content.items() if value}
    files = [Path(file).name for file in settings.files]
    heldout = [part for file in settings.heldout_files for part in ("--heldout-file", Path(file).name)]
    command = shlex.join(["textgen", "train", *files, *heldout, "--config", "train.yaml", "--out", f"runs/{name}"])
    config = yaml.safe_dump(kept, allow_unicode=True, sort_keys=False).rstrip("\n")
    return [
        "## How it was made",
        "",
        *_block(command, "shell"),
        "With this as `train.yaml`:",
        "",
        *_block(config, "yaml"),
    ]


def _block(text: str, language: str = "text") -> list[str]:
    """The text as it is, whatever fences are in it."""
    longest, run = 2, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * (longest + 1)
    return [f"{fence}{language}", text, fence, ""]
