"""The model card of a run's checkpoints."""

from __future__ import annotations

from typing import Any

from textgen.config import RunSettings
from textgen.text.corpus import Corpus


def model_card(name: str, settings: RunSettings, corpus: Corpus, figures: dict[str, Any]) -> str:
    """Markdown with Hub front matter: data, shape, figures. What is not known is left out, never made up."""
    model, training = settings.model, settings.training
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
    lines += ["## Settings", "", "```yaml", *_settings_lines(training.model_dump()), "```", ""]
    return "\n".join(lines)


def _settings_lines(values: dict[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in values.items() if value is not None]
