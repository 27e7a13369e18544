"""A model as a folder for ONNX Runtime, in a browser or elsewhere.

model.onnx, model_int8.onnx              the whole model in fp32 and in 8 bits, see `GraphBuilder.language_model`
tokenizer.json, tokenizer.model          the vocabulary, for JavaScript and for SentencePiece
generation_config.json                   settings that suit the model
example.html, generate.js, tokenizer.js  a page that generates
README.md, MODEL_CARD.md                 how to use all that; the checkpoint's own card, if it has one
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from textgen.engine.onnx_graph import GraphBuilder
from textgen.engine.onnx_products import Fp32Products, Int8Products, Products
from textgen.export.guide import guide
from textgen.export.tokenizer_json import tokenizer_json
from textgen.files import replace_folder
from textgen.model.checkpoint import CARD, GENERATION, TOKENIZER, Checkpoint, generation_json
from textgen.text.tokenizer import Tokenizer

GRAPHS: Mapping[str, type[Products]] = {"model.onnx": Fp32Products, "model_int8.onnx": Int8Products}
TOKENIZER_JSON, MODEL_CARD = "tokenizer.json", "MODEL_CARD.md"
PAGE = ("example.html", "generate.js", "tokenizer.js")


def export_onnx(folder: Path, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Replaces `folder`, atomically, by the checkpoint's model and its vocabulary.

    Raises `BadTokenizer` for a vocabulary that has more than those of this program, `BackendUnavailable` for a cell
    that has no graph, `CannotWrite`; what was there before then still is.
    """
    texts = {
        TOKENIZER_JSON: tokenizer_json(tokenizer),
        GENERATION: generation_json(checkpoint.generation),
        **{name: (files("textgen.export") / "page" / name).read_text(encoding="utf-8") for name in PAGE},
    }
    if checkpoint.card:
        texts[MODEL_CARD] = checkpoint.card

    def fill(new: Path) -> None:
        sizes = []
        for name, products in GRAPHS.items():
            graph = GraphBuilder(checkpoint.model, products()).language_model()
            sizes.append((new / name).write_bytes(graph.SerializeToString()))
        (new / CARD).write_text(guide(checkpoint.model, size_ratio=sizes[1] / sizes[0]), encoding="utf-8")
        (new / TOKENIZER).write_bytes(checkpoint.tokenizer_bytes)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")

    replace_folder(folder, fill)
