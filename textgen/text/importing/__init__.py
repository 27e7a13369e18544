"""Uploaded files and pasted text → plain UTF-8 text to train on, with a report for each.

Formats: txt, md, html, csv, tsv, jsonl, docx, epub, pdf with a text layer, srt, and zip of these. Files are read in a
process of their own with bounds on time and memory (`importer`, `child`, `worker`); one module for each format turns it
into a stream of text (`conversion`), which `sink` writes and reports on.
"""

from __future__ import annotations

from textgen.text.importing.fit import VocabularyFit, vocabulary_fit
from textgen.text.importing.formats import FORMATS
from textgen.text.importing.importer import import_texts, write_pasted
from textgen.text.importing.records import ImportedText, ImportSource

__all__ = [
    "FORMATS",
    "ImportSource",
    "ImportedText",
    "VocabularyFit",
    "import_texts",
    "vocabulary_fit",
    "write_pasted",
]
