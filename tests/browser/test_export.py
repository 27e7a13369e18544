"""An exported folder in a real browser, with onnxruntime-web beside it and nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import pages
from tests.engine.helpers import tiny_model
from tests.text.samples import CHINESE, ENGLISH, JAPANESE, RUSSIAN, TRICKY
from textgen.config import CELLS, GenerationSettings
from textgen.export import export_onnx
from textgen.export.guide import ORT_WEB_VERSION
from textgen.export.tokenizer_json import tokenizer_json
from textgen.jobs.checkpoints import open_checkpoint
from textgen.limits import Limits
from textgen.model import LanguageModel
from textgen.model.checkpoint import Checkpoint
from textgen.studio import LoadedModel, Running, TextEnd
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, train_tokenizer
from textgen.text.vocabulary import extend_tokenizer

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SHAKESPEARE = Path(__file__).parents[2] / "checkpoints" / "shakespeare"
WEB = Path(__file__).parent / "node_modules" / "onnxruntime-web"
WEB_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def ort_web() -> Path:
    """The folder of onnxruntime-web's files.

    Without it a test is skipped, or fails where TEXTGEN_REQUIRE_ORT_WEB is set: `make test` sets it on machines that
    have npm or can install it.
    """
    if WEB.is_dir():
        return WEB / "dist"
    message = "onnxruntime-web is missing: run make browser, or npm ci in tests/browser."
    if os.environ.get("TEXTGEN_REQUIRE_ORT_WEB"):
        pytest.fail(message)
    pytest.skip(message)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def static(folder: Path) -> Iterator[str]:
    """The address of a plain web server of the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def served(ort_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the folder of the exported Shakespeare with onnxruntime-web in its place."""
    folder = tmp_path_factory.mktemp("web") / "shakespeare"
    export_onnx(folder, *open_checkpoint(SHAKESPEARE))
    (folder / "ort").mkdir()
    for name in WEB_FILES:
        shutil.copy(ort_web / name, folder / "ort")
    with static(folder) as address:
        yield address, folder


@pytest.fixture
def page(browser: Browser, served: tuple[str, Path]) -> Iterator[Page]:
    with pages(browser, ready="#text") as open_:
        page = open_(served[0], address="/example.html")
        expect(page.locator("#status")).to_be_empty()
        yield page


def write(page: Page, prompt: str, file: str, temperature: float, tokens: int) -> str:
    """What the page writes after the prompt."""
    page.locator("#text").fill(prompt)
    page.locator("#file").select_option(file)
    page.locator("#temperature").fill(str(temperature))
    page.locator("#length").fill(str(tokens))
    page.locator("#go").click()
    expect(page.locator("#go")).to_be_enabled(timeout=PATIENCE_MS)
    expect(page.locator("#status")).to_contain_text("tokens/s")
    written = page.locator("#text").input_value()
    assert written.startswith(prompt)
    return written.removeprefix(prompt)


def test_the_page_writes_the_text_that_the_engine_writes(page: Page) -> None:
    prompt, settings = "ROMEO:\nBut soft! ", GenerationSettings(temperature=0.0, max_new_tokens=40)
    running = Running(torch.device("cpu"), backend="torch", threads=1)
    model = LoadedModel(SHAKESPEARE, running=running, limits=Limits())
    try:
        with model.generate(prompt, settings) as stream:
            (end,) = [event for event in stream if isinstance(event, TextEnd)]
    finally:
        model.close()
    assert write(page, prompt, "model.onnx", 0, 40) == end.text != ""
    assert "40 tokens" in str(page.locator("#status").text_content())


def test_the_page_draws_by_chance_among_what_the_settings_leave(page: Page, served: tuple[str, Path]) -> None:
    texts = {write(page, "JULIET:\n", "model_int8.onnx", 1.0, 30) for _ in range(3)}
    assert len(texts) == 3
    config = json.loads((served[1] / "generation_config.json").read_text(encoding="utf-8"))
    page.reload()
    expect(page.locator("#temperature")).to_have_value(str(config["temperature"]))
    counted = page.evaluate(
        """async () => {
            const { choose } = await import("./generate.js");
            const logits = Float32Array.from([0.5, 0.1, 0.3, 0.1], Math.log);
            const seen = (settings) => {
                const counts = [0, 0, 0, 0];
                for (let i = 0; i < 4000; i++) counts[choose(logits, settings)] += 1 / 4000;
                return counts;
            };
            return [{}, { temperature: 0 }, { top_k: 2 }, { top_p: 0.7 }, { min_p: 0.5 }, { temperature: 0.5 }].map(
                (settings) => seen({ temperature: 1, ...settings }));
        }"""
    )
    some = [0.625, 0, 0.375, 0]
    sharper = np.array([0.25, 0.01, 0.09, 0.01]) / 0.36
    expected = np.array([[0.5, 0.1, 0.3, 0.1], [1, 0, 0, 0], some, some, some, sharper])
    np.testing.assert_allclose(counted, expected, atol=0.05)
    assert not np.any(np.array(counted)[1:5, [1, 3]])


def test_stop_keeps_what_was_written(page: Page) -> None:
    page.locator("#text").fill("KING ")
    page.locator("#length").fill("100000")
    page.locator("#go").click()
    page.wait_for_function("document.getElementById('text').value.length > 30", timeout=PATIENCE_MS)
    page.locator("#stop").click()
    expect(page.locator("#status")).to_contain_text("tokens/s", timeout=PATIENCE_MS)
    expect(page.locator("#go")).to_be_enabled()
    assert len(page.locator("#text").input_value()) > 30


RUN = """async ([file, ids]) => {
    const model = await ort.InferenceSession.create(file);
    let state = {};
    for (const { name, shape } of model.inputMetadata.slice(1))
        state[name] = new ort.Tensor("float32", new Float32Array(shape[1]), [1, shape[1]]);
    const logits = [];
    for (const piece of [ids.slice(0, -3), ...ids.slice(-3).map((id) => [id])]) {
        const found = await model.run({ token_ids: new ort.Tensor("int64", piece, [1, piece.length]), ...state });
        for (const name of Object.keys(state)) state[name] = found[`next_${name}`];
        logits.push(...found.logits.data);
    }
    await model.release();
    return logits;
}"""


def export_beside(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A folder of `model` in a served one."""
    export_onnx(folder, Checkpoint(model, tokenizer.to_bytes()), tokenizer)
    return folder


def test_every_cell_runs_in_the_browser_as_it_does_in_python(page: Page, served: tuple[str, Path]) -> None:
    tokenizer = open_checkpoint(SHAKESPEARE)[1]
    ids = list(range(1, 21))
    for cell in CELLS:
        model = tiny_model(cell, vocab_size=tokenizer.vocab_size, hidden_size=32, embedding_size=16)
        folder = export_beside(served[1] / cell, model, tokenizer)
        for name in ("model.onnx", "model_int8.onnx"):
            found = np.reshape(page.evaluate(RUN, [f"{cell}/{name}", ids]), (len(ids), -1))
            session = ort.InferenceSession(folder / name)
            state = {part.name: np.zeros((1, 32), np.float32) for part in session.get_inputs()[1:]}
            (expected,) = session.run(["logits"], {"token_ids": np.array([ids]), **state})
            # In 8 bits the last digit of a tanh may decide between two levels.
            tolerance = {"model.onnx": 1e-4, "model_int8.onnx": 0.05}[name]
            np.testing.assert_allclose(found, expected[0], atol=tolerance, err_msg=f"{cell}/{name}")


def test_a_model_of_more_than_25_mb_runs_in_the_browser(page: Page, served: tuple[str, Path]) -> None:
    tokenizer = open_checkpoint(SHAKESPEARE)[1]
    model = tiny_model("gru", vocab_size=tokenizer.vocab_size, hidden_size=960, embedding_size=256)
    folder = export_beside(served[1] / "large", model, tokenizer)
    assert (folder / "model.onnx").stat().st_size > 25_000_000
    with torch.inference_mode():
        expected, _ = model(torch.tensor([[1, 5, 6, 7]]), model.initial_state(1))
    found = np.reshape(page.evaluate(RUN, ["large/model.onnx", [1, 5, 6, 7]]), (4, -1))
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-3, atol=1e-3)


def trained(kind: TokenizerKind, text: str = ENGLISH) -> Tokenizer:
    return train_tokenizer([text], kind=kind, vocab_size=400).tokenizer


def extended(kind: TokenizerKind) -> Tokenizer:
    return extend_tokenizer(trained(kind), trained(kind, RUSSIAN))


VOCABULARIES: dict[str, Callable[[], Tokenizer]] = {
    "shakespeare": lambda: open_checkpoint(SHAKESPEARE)[1],
    "chinese": lambda: trained("unigram", CHINESE),
    "unigram": lambda: extended("unigram"),
    "bpe": lambda: extended("bpe"),
    "char": lambda: extended("char"),
}


def wild(generator: random.Random, tokenizer: Tokenizer) -> str:
    """Pieces of the vocabulary and characters of every kind, in no order."""
    pieces = [tokenizer.piece(number).replace("▁", " ") for number in range(4, tokenizer.vocab_size)]
    kinds: list[Callable[[], str]] = [
        lambda: generator.choice(pieces),
        lambda: generator.choice(" \n▁\t\0aeiou"),
        lambda: chr(generator.choice([generator.randrange(0x20, 0x3000), generator.randrange(0xE000, 0x110000)])),
        lambda: generator.choice(TRICKY),
        lambda: generator.choice(["the", "and", "of", "you", "king", "queen"]) + " ",
    ]
    return "".join(generator.choice(kinds)() for _ in range(generator.randrange(60)))


def texts_for(tokenizer: Tokenizer) -> list[str]:
    generator = random.Random(0)
    long = "".join(wild(generator, tokenizer) for _ in range(40))
    words = " ".join(generator.choices(ENGLISH.split(), k=3000))
    return [
        *TRICKY,
        *(ENGLISH, CHINESE, JAPANESE, RUSSIAN, "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪" * 9),
        *(wild(generator, tokenizer) for _ in range(100)),
        *(long, words, "x" * 5000 + " y" * 3000),
    ]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_text_is_cut_and_joined_as_python_does_it(page: Page, vocabulary: str) -> None:
    tokenizer = VOCABULARIES[vocabulary]()
    texts = texts_for(tokenizer)
    generator = random.Random(1)
    lists = [[generator.randrange(tokenizer.vocab_size) for _ in range(50)] for _ in range(100)]
    encoded, decoded = page.evaluate(
        """async ([vocabulary, texts, lists]) => {
            const { Tokenizer } = await import("./tokenizer.js");
            const tokenizer = new Tokenizer(JSON.parse(vocabulary));
            return [texts.map((text) => tokenizer.encode(text)), lists.map((ids) => tokenizer.decode(ids))];
        }""",
        [tokenizer_json(tokenizer), texts, [*lists, *map(tokenizer.encode, texts)]],
    )
    for text, ids in zip(texts, encoded, strict=True):
        assert ids == tokenizer.encode(text), repr(text[:200])
    assert decoded == [*map(tokenizer.decode, lists), *texts]


def test_half_a_character_waits_for_its_other_half(page: Page) -> None:
    _, tokenizer = open_checkpoint(SHAKESPEARE)
    ids = tokenizer.encode("a🌙b\ufeff")
    pieces = page.evaluate(
        """async (ids) => {
            const { Tokenizer } = await import("./tokenizer.js");
            const decoder = new Tokenizer(await (await fetch("tokenizer.json")).json()).decoder();
            return [...ids.map((id) => decoder(id)), decoder()];
        }""",
        ids,
    )
    stream = tokenizer.stream()
    assert pieces == [*map(stream.push, ids), stream.flush()]
    assert "".join(pieces) == "a🌙b\ufeff"


def test_the_guide_names_the_version_that_is_tested() -> None:
    locked = json.loads((WEB.parents[1] / "package-lock.json").read_text(encoding="utf-8"))
    assert locked["packages"]["node_modules/onnxruntime-web"]["version"] == ORT_WEB_VERSION
    assert locked["packages"][""]["dependencies"]["onnxruntime-web"] == ORT_WEB_VERSION
