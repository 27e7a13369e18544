from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

import textgen.ui
from textgen import errors
from textgen.ui.i18n import Language, build_i18n, known_language, say, say_error, texts

LANGUAGES: tuple[Language, Language] = ("en", "zh")
EXAMPLES: list[errors.TextgenError] = [
    errors.InvalidSetting("temperature", "hot", "a {number}"),
    errors.UnreadableText("a.txt", 3, "utf-8"),
    errors.NotText("a.txt"),
    errors.MissingFile("a.txt", "no such file"),
    errors.NoText("training text", "nothing", "a few sentences"),
    errors.BadTokenizer("tokenizer.model", "damaged"),
    errors.BadCorpus("train.bin", "damaged"),
    errors.BadCheckpoint("config.json", "model", "damaged"),
    errors.NotFound("model", "x", ""),
    errors.CannotWrite("a.txt", "full"),
    errors.Busy(64),
    errors.BrokenModel(3),
    errors.EngineClosed(),
    errors.TrainingDiverged(3, float("nan")),
]
GENERATING = (
    errors.InvalidSetting,
    errors.NotFound,
    errors.BadCheckpoint,
    errors.BadTokenizer,
    errors.Busy,
    errors.BrokenModel,
    errors.EngineClosed,
)


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def keys_used() -> set[str]:
    """Every literal that the page's code looks up: in say(…), i18n(…) and slider(…)."""
    found: set[str] = set()
    for path in Path(textgen.ui.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in ("say", "i18n", "slider") and isinstance(first, ast.Constant):
                    assert isinstance(first.value, str)
                    found |= {first.value} | ({f"{first.value}_info"} if node.func.id == "slider" else set())
    return found


def test_every_text_is_there_in_both_languages() -> None:
    for key, pair in texts().items():
        assert all(text.strip() for text in pair), key
        assert placeholders(pair[0]) >= placeholders(pair[1]), key
        # What the Chinese leaves out is an English noun in an error, which reads better without.
        assert placeholders(pair[0]) - placeholders(pair[1]) <= {"what"}, key


def test_chinese_is_chinese() -> None:
    latin = {"top_k", "top_p", "language"}
    for key, (_, chinese) in texts().items():
        if key not in latin:
            assert any("一" <= character <= "鿿" for character in chinese), key


def test_every_key_that_the_page_looks_up_exists() -> None:
    used = keys_used()
    assert len(used) > 30
    assert used <= set(texts())
    assert {f"reason_{reason}" for reason in ("eos", "length", "stop", "cancelled", "deadline")} <= set(texts())


def test_browsers_get_both_names_of_chinese() -> None:
    translations = build_i18n().translations
    assert set(translations) >= {"en", "zh", "zh-CN"}
    assert translations["zh"] == translations["zh-CN"]
    assert translations["en"].keys() == translations["zh"].keys() == texts().keys()


@pytest.mark.parametrize(("name", "language"), [("zh", "zh"), ("en", "en"), ("fr", "en"), (None, "en"), (["zh"], "en")])
def test_an_unknown_language_is_english(name: object, language: Language) -> None:
    assert known_language(name) == language


def test_values_are_filled_in() -> None:
    assert say("status_beams", "en", tokens="3", rate="{rate}") == "3 tokens · {rate} tokens/s"
    assert say("status_beams", "zh", tokens="3", rate="7") == "3 个词元 · 每秒 7 个"


def test_every_error_class_has_an_example() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    assert {type(example) for example in EXAMPLES} == {
        kind for kind in classes if issubclass(kind, errors.TextgenError) and kind is not errors.TextgenError
    }
    codes = [type(example).code for example in EXAMPLES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: error.code)
def test_every_error_is_a_sentence_in_both_languages(error: errors.TextgenError) -> None:
    # Settings are called by the labels of the page.
    assert say_error(error, "en").lower() == str(error).lower()
    chinese = say_error(error, "zh")
    assert "{" not in chinese.replace("{number}", "")
    if isinstance(error, GENERATING):
        assert any("一" <= character <= "鿿" for character in chinese)
        params = placeholders(texts()[f"error_{error.code}"][1])
        # A setting's name and bounds are said in Chinese too.
        own = {"field", "allowed"} if error.code == "invalid_setting" else set()
        assert all(str(error.params[name]) in chinese for name in params - own)
    else:
        assert chinese


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_unexpected_error_tells_nothing_of_the_inside(language: Language) -> None:
    sentence = say_error(KeyError("/secret/path"), language)
    assert sentence == say("error_unexpected", language)
    assert "secret" not in sentence
