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
    about: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with Hub front matter: data, what it comes from, figures, samples, and the command that made it.

    What is not known is left out, never made up; files are named, but not where they lie. `about` is what about.json
    says of a run that was started from the page: its title, and what texts and base were called there.
    """
    model, about, files = settings.model, about or {}, [report.name for report in corpus.reports]
    title = str(about.get("title") or name)
    given = [str(text["name"]) for text in about.get("texts") or () if text.get("path")]
    files = given if len(given) == len(files) else files
    bases = [str(base) for base in about.get("lineage") or _bases(lineage or {})]
    shape = f"{model.cell}, {model.num_layers} × {model.hidden_size} units, embedding {model.embedding_size}"
    shape += f", {model.vocab_size} pieces"
    if model.members > 1:
        shape = f"{model.members} networks that learned for themselves and write together, each {shape}"
    lines = [
        "---",
        "library_name: textgen-studio",
        "pipeline_tag: text-generation",
        f"tags: [recurrent, {model.cell}, sentencepiece]",
        "---",
        "",
        f"# {title}",
        "",
        f"A recurrent language model made with Textgen Studio: {shape}.",
        "",
        "## Data",
        "",
        *(
            f"- {file}: {report.characters:,} characters, {report.encoding}"
            for file, report in zip(files, corpus.reports, strict=True)
        ),
        "",
        f"Trained on {corpus.train.characters:,} characters"
        + (f"; {corpus.heldout.characters:,} were held out." if corpus.heldout else "; nothing was held out."),
        "",
        *_lineage_lines(bases, (lineage or {}).get("teachers") or ()),
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
    return "\n".join([*lines, *_command_lines(name, settings, files, bases)])


def _bases(lineage: Mapping[str, Any]) -> list[str]:
    """What the model started from, what that had started from, and so on."""
    found: list[str] = []
    base = lineage.get("base")
    while isinstance(base, dict) and base.get("name"):
        found.append(str(base["name"]))
        base = base["lineage"].get("base") if isinstance(base.get("lineage"), dict) else None
    return found


def _lineage_lines(bases: Sequence[str], teachers: Sequence[Mapping[str, Any]]) -> list[str]:
    started = ", which was started from ".join(f"*{base}*" for base in bases)
    taught = ", ".join(f"*{teacher['name']}*" for teacher in teachers)
    told = [f"It was started from {started}."] if bases else []
    told += [f"It learned from {taught} beside its text (knowledge distillation)."] if teachers else []
    return ["## Lineage", "", *told, ""] if told else []


def _command_lines(name: str, settings: RunSettings, files: Sequence[str], bases: Sequence[str]) -> list[str]:
    content = settings.model_dump(mode="json", exclude_none=True, exclude={"files", "heldout_files"})
    content["base"] = bases[0] if settings.base is not None and bases else None
    content["teachers"] = [run_of(Path(teacher)).name for teacher in settings.teachers]
    kept = {field: value for field, value in content.items() if value}
    heldout = [part for file in settings.heldout_files for part in ("--heldout-file", Path(file).name)]
    command = shlex.join(["textgen", "train", *files, *heldout, "--config", "train.yaml", "--out", f"runs/{name}"])
    config = yaml.safe_dump(kept, allow_unicode=True, sort_keys=False).rstrip("\n")
    return [
        *("## How it was made", ""),
        *_block(command, "shell"),
        *("With this as `train.yaml`:", ""),
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
