"""The README.md of an exported folder."""

from __future__ import annotations

from itertools import chain

from textgen import __version__
from textgen.engine.onnx_graph import OPSET, state_names
from textgen.model.language_model import LanguageModel
from textgen.text.tokenizer import BOS_ID, EOS_ID

# The version that the tests drive in a browser.
ORT_WEB_VERSION = "1.30.0"

_GUIDE = """# A recurrent language model for ONNX Runtime

Made by Textgen Studio {version}, but it works without that: {shape}.

| file | what it is |
|---|---|
| `model.onnx` | the whole model in fp32 |
| `model_int8.onnx` | the same with 8-bit weights: {ratio} % of the size, nearly as good, faster outside browsers |
| `tokenizer.json` | the vocabulary, to be read by any program |
| `tokenizer.model` | the same for SentencePiece |
| `generation_config.json` | settings that suit the model |
| `example.html`, `generate.js`, `tokenizer.js` | a page that generates, in plain JavaScript |

## In a browser

The page wants three files of the npm package onnxruntime-web in a folder `ort`, and asks no other host for anything.
In this folder:

```
npm pack onnxruntime-web@{ort_web}
tar -xzf onnxruntime-web-{ort_web}.tgz package/dist && mkdir ort
mv package/dist/ort.wasm.min.js package/dist/ort-wasm-simd-threaded.mjs package/dist/ort-wasm-simd-threaded.wasm ort
rm -r package onnxruntime-web-{ort_web}.tgz
python3 -m http.server --bind 127.0.0.1
```

Then open <http://127.0.0.1:8000/example.html>. Any web server will do; so will another path, which stands in
`example.html`. Only a browser that opens the page as a file will not: it may not load the others from there.

## The graphs

Both are called alike, with any number of texts in a batch and any number of tokens at once: first with the whole
beginning, then with one token at a time and the state of the call before.

| input | type | shape | |
|---|---|---|---|
| `token_ids` | int64 | [batch, time] | before a text stands `<bos>`, which is {bos} |
{inputs}

| output | type | shape | |
|---|---|---|---|
| `logits` | float32 | [batch, time, {vocab}] | what follows each token: their softmax is its probability |
{outputs}

ONNX opset {opset}, standard operators only. In Python:

```python
import numpy as np
import onnxruntime
import sentencepiece

model = onnxruntime.InferenceSession("model_int8.onnx")
tokenizer = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model")
names = [part.name for part in model.get_inputs() if part.name != "token_ids"]
state = {{name: np.zeros((1, {hidden}), np.float32) for name in names}}
ids = [{bos}, *tokenizer.encode("Once upon a time")]
written = []
for _ in range(40):
    logits, *after = model.run(None, {{"token_ids": np.array([ids]), **state}})
    state = dict(zip(names, after))
    ids = [int(logits[0, -1, {eos}:].argmax()) + {eos}]  # the likeliest, without <unk> and <bos>
    if ids == [{eos}]:  # the end of the text
        break
    written += ids
print(tokenizer.decode(written))
```

## tokenizer.json

`kind` says how text is cut (`unigram`, `bpe` or `char`), `pieces` holds [piece, score, type] for each token id. In
pieces ▁ (U+2581) stands for a space. Characters that have no piece are spelled in those of the type `byte`; so is a ▁
in the text, which SentencePiece by itself takes for a space. `tokenizer.js` does all that in some 120 lines:
`encode(text)`, `decode(ids)`, and `decoder()` for ids that come one at a time.
"""


def guide(model: LanguageModel, *, size_ratio: float) -> str:
    """How to use what was exported of `model`, in Markdown; `size_ratio` is that of its graphs, 8 bits to fp32."""
    shape, names = model.settings, list(chain.from_iterable(state_names(model)))
    layers = f"{shape.num_layers} layer{'' if shape.num_layers == 1 else 's'} of {shape.hidden_size}"

    if shape.members > 1:
        layers = f"{shape.members} networks of {layers}"

    def row(name: str, meaning: str) -> str:
        return f"| `{name}` | float32 | [batch, {shape.hidden_size}] | {meaning} |"

    return _GUIDE.format(
        version=__version__,
        shape=f"{shape.cell}, {layers}, {shape.vocab_size:,} tokens, {_rounded(model.num_parameters)} parameters",
        ratio=f"{100 * size_ratio:.0f}",
        inputs="\n".join(row(name, "the state: zeros before a text") for name in names),
        outputs="\n".join(row(f"next_{name}", f"`{name}` of the next call") for name in names),
        ort_web=ORT_WEB_VERSION,
        opset=OPSET,
        vocab=shape.vocab_size,
        hidden=shape.hidden_size,
        bos=BOS_ID,
        eos=EOS_ID,
    )


def _rounded(count: int) -> str:
    """A number as people say it: "999", "12.3 thousand", "4.6 M"."""
    if count < 1_000:
        return str(count)
    return f"{count / 1e3:.1f} thousand" if count < 999_950 else f"{count / 1e6:.1f} M"
