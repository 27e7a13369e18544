from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import textgen.ui
from textgen import errors
from textgen.config import CELLS, GenerationSettings, RunSettings, TextSettings, parse_settings
from textgen.engine.requests import FinishReason
from textgen.jobs.run_status import RunState
from textgen.limits import Limits
from textgen.shelf import ModelOrigin
from textgen.text.tokenizer_training import check_vocab_size
from textgen.training.presets import PresetName
from textgen.training.verdict import VerdictKind
from textgen.ui.controls import PRESETS, controls
from textgen.ui.i18n import (
    EXPERT_FIELDS,
    Language,
    PageI18n,
    build_i18n,
    known_language,
    languages,
    say,
    say_error,
    say_list,
    say_script,
)

LANGUAGES = tuple(languages())
TEXTS = languages()["en"].texts
EXAMPLES: list[errors.TextgenError] = [
    errors.InvalidSetting("temperature", "hot", "a {number}"),
    errors.UnreadableText("a.txt", 3, "utf-8"),
    errors.NotText("a.txt"),
    errors.MissingFile("a.txt", "no such file"),
    errors.NoText("training text", "nothing", "a few sentences"),
    errors.BadTokenizer("tokenizer.model", "damaged"),
    errors.BadCorpus("train.bin", "damaged"),
    errors.BadCheckpoint("config.json", "model", "damaged"),
    errors.NotFound("run", "x", ""),
    errors.CannotWrite("a.txt", "full"),
    errors.Busy(64),
    errors.LearningElsewhere(2),
    errors.BrokenModel(3),
    errors.EngineClosed(),
    errors.DeadlineExceeded(30.0),
    errors.BackendUnavailable("onnx", "no such package"),
    errors.TrainingDiverged(3, float("nan")),
    errors.NoRoom(1_000_000, 500_000_000),
    errors.CannotStart("no such program"),
    errors.OutOfMemory(16, 48),
    errors.Abandoned(),
    errors.Cancelled(),
    errors.ProcessesEnded(),
    errors.HoldsNoText("a.txt"),
    errors.PicturesOfText("a.pdf"),
    errors.DamagedFile("a.docx", "DOCX"),
    errors.EncryptedFile("a.pdf"),
    errors.UnsupportedFile("a.doc", "DOC", "txt, md"),
    errors.NestedArchive("a.zip/b.zip"),
    errors.UnsafeMember("a.zip/../b.txt"),
    errors.ArchiveBomb("a.zip/b.txt", 100.0),
    errors.FileTooLarge("a.txt", 200_000_000),
    errors.ImportTooLarge("a.txt", 600_000_000),
    errors.TooManyFiles("a.txt", 1000),
    errors.EndlessField("a.csv", 7, 20_000_000),
    errors.BadLines("a.jsonl", 3, 17),
    errors.NoSuchColumn("a.csv", "text", ("title", "author")),
    errors.ImportTooSlow("a.pdf", 300.0),
    errors.ImportTooBig("a.pdf", 2_000_000_000),
    errors.ImportFailed("a.pdf"),
    errors.HubNotFound("a/b", "huggingface.co"),
    errors.HubNoRevision("a/b", "v2", "huggingface.co"),
    errors.HubForbidden("a/b", "huggingface.co"),
    errors.HubGated("a/b", "huggingface.co"),
    errors.HubUnreachable("a/b", "huggingface.co", "no route to host"),
    errors.HubRefused("a/b", "huggingface.co", "HTTP 418"),
    errors.GpuRefused("The quota is used up."),
    errors.JobFailed("ERROR", "exit code 1", "https://huggingface.co/jobs/a/1"),
]
# Keys that are put together of a word and a choice: those of every choice, and no other.
FAMILIES: dict[str, tuple[str, ...]] = {
    "state": get_args(RunState),
    "stage": ("reading", "tokenizer", "encoding", "indexing", "timing"),
    "progress": ("uploading", "downloading", "unpacking", "checking", "finishing"),
    "verdict": get_args(VerdictKind),
    "preset": get_args(PresetName),
    "vocabulary": get_args(TextSettings.model_fields["base_vocabulary"].annotation),
    "reason": get_args(FinishReason),
    "early_stopping": get_args(GenerationSettings.model_fields["early_stopping"].annotation),
    "fold": ("sampling", "repetition", "beams", "several", "words"),
    "origin": get_args(ModelOrigin),
    "cell": CELLS,
    "error": tuple(error.code for error in EXAMPLES),
}


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


def test_chinese_is_chinese() -> None:
    latin = {"top_k", "top_p", "min_p", "typical_p", "token_label", "cell_lstm", "cell_gru", "cell_rnn"}
    for key, chinese in languages()["zh"].texts.items():
        if key not in latin:
            assert any("一" <= character <= "鿿" for character in chinese), key


def test_every_key_that_the_page_looks_up_exists() -> None:
    used = keys_used()
    assert len(used) > 30
    assert used <= {"language", *TEXTS}  # what the button that switches languages says is another one's name
    assert family_keys() <= set(TEXTS)


def family_keys() -> set[str]:
    expert = {key for name in EXPERT_FIELDS for key in (name, f"{name}_info")}
    return expert | {f"{family}_{name}" for family, names in FAMILIES.items() for name in names}


def test_no_text_is_left_that_nothing_says() -> None:
    by_control = {key for control in controls(Limits()) for key in (control.key, f"{control.key}_info")}
    built = {"presets", "presets_info", *PRESETS, *family_keys()}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(textgen.ui.__path__[0]).glob("*.py")]
    literals = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(TEXTS.keys() - by_control - built - literals) == []


def test_browsers_get_both_names_of_chinese() -> None:
    translations = build_i18n().translations
    assert set(translations) >= {"en", "zh", "zh-CN"}
    assert translations["zh"] == translations["zh-CN"]
    assert translations["en"].keys() == translations["zh"].keys()
    assert [*translations["en"].values()] == [*TEXTS.values(), "中文"]
    assert translations["zh"][f"{PageI18n.KEY_PREFIX}language"] == "English"


def test_what_people_call_their_things_is_no_key() -> None:
    i18n = build_i18n()
    keys = set(i18n.translations["en"])
    assert all(i18n(key).key in keys for key in TEXTS)
    assert keys.isdisjoint(TEXTS)
    assert all(key.startswith(PageI18n.KEY_PREFIX) for key in keys)


@pytest.mark.parametrize(("name", "language"), [("zh", "zh"), ("en", "en"), ("fr", "en"), (None, "en"), (["zh"], "en")])
def test_an_unknown_language_is_english(name: object, language: Language) -> None:
    assert known_language(name) == language


def test_lists_and_scripts_are_told_as_the_language_does() -> None:
    assert say_list([say_script(name, "en") for name in ("Han", "Thai")], "en") == "Han, Thai"
    assert say_list([say_script(name, "zh") for name in ("Han", "Thai", "Osage")], "zh") == "汉字、泰文、Osage"


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
def test_every_error_can_be_kept_as_json(error: errors.TextgenError) -> None:
    again = errors.error_from_dict(json.loads(json.dumps(errors.error_as_dict(error))))
    assert (type(again), str(again)) == (type(error), str(error))


def test_what_has_no_name_on_the_page_is_told_in_plain_words() -> None:
    gone = errors.NotFound("model", "fetched-20260101-000000-abc", "River, tiny")
    assert say_error(gone, "en") == "This model is not there, or not any longer. There is: River, tiny."
    assert say_error(gone, "zh") == "该模型不存在或已被删除。现有：River, tiny。"
    for given, key in (("none", "error_no_token"), ("something else", "error_bad_token")):
        for language in LANGUAGES:
            assert say_error(errors.InvalidSetting("token", given, "a token"), language) == say(key, language)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: error.code)
def test_every_error_is_a_sentence_in_both_languages(error: errors.TextgenError) -> None:
    # Settings are called by the labels of the page.
    assert say_error(error, "en").lower() == str(error).lower()
    chinese = say_error(error, "zh")
    assert "{" not in chinese.replace("{number}", "")
    assert any("一" <= character <= "鿿" for character in chinese)
    params = placeholders(languages()["zh"].texts[f"error_{error.code}"])
    # A setting's name and bounds are said in Chinese too, and what was found and needed.
    own = {"invalid_setting": {"field", "allowed"}, "no_text": {"given", "needed"}, "not_found": {"known"}}.get(
        error.code, set()
    )
    assert all(str(error.params[name]) in chinese for name in params - own)


def test_settings_in_what_is_allowed_are_called_by_their_labels() -> None:
    error = errors.InvalidSetting("num_beam_groups", 3, "a divisor of num_beams (4)")
    assert say_error(error, "en") == "Groups of beams: 3 was given; allowed: a divisor of “Beams” (4)."
    too_many = errors.InvalidSetting("stop", tuple(map(str, range(17))), "at most 16 items")
    assert say_error(too_many, "en") == "Stop at: 17 entries was given; allowed: at most 16 items."


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_unexpected_error_tells_nothing_of_the_inside(language: Language) -> None:
    sentence = say_error(KeyError("/secret/path"), language)
    assert sentence == say("error_unexpected", language)
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("field", "english", "chinese"),
    [
        ("training.learning_rate", "Learning rate", "学习率"),
        ("model.cell", "Cell", "单元"),
        ("minutes", "Minutes", "分钟"),
        ("sample_prompts.0", "Sample prompts", "样例开头"),
        ("title", "Title", "标题"),
    ],
)
def test_settings_of_training_are_called_by_their_labels(field: str, english: str, chinese: str) -> None:
    error = errors.InvalidSetting(field, "x", "1 to 80 characters")
    assert say_error(error, "en") == f"{english}: x was given; allowed: 1 to 80 characters."
    assert say_error(error, "zh") == f"{chinese}：给出的是 x；允许：1 到 80 个字符。"


# Of what people do elsewhere: from the command line, with files of settings, in code.
NOT_ON_THE_PAGE = {"address", "config", "device", "name", "out", "position", "resume", "state", "teachers", "token id"}
NOT_ON_THE_PAGE |= {"max_restarts", "nnodes", "node_rank", "rdzv_endpoint"}
ENGLISH = re.compile(r"[A-Za-z]{2,}[ ,;]+[A-Za-z]{2,}")


def sentences_on_settings() -> Iterator[errors.TextgenError]:
    """Every `InvalidSetting` and `NoText` that the code below the page may raise, with 7 for every value."""

    def text_of(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts) or "7"

    root = Path(textgen.ui.__path__[0]).parent
    below = [path for part in ("jobs", "hub", "text") for path in (root / part).rglob("*.py")]
    for path in [*root.glob("*.py"), *below, root / "training" / "distributed.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in ("InvalidSetting", "NoText") and path.name != "spaces.py":
                assert isinstance(node, ast.Call)
                field, given, needed = map(text_of, node.args)
                if field not in NOT_ON_THE_PAGE and name == "InvalidSetting":
                    yield errors.InvalidSetting(field, given, needed)
                elif name == "NoText":
                    yield errors.NoText(field, given, needed)


@pytest.mark.slow
def test_no_english_is_left_in_what_a_chinese_page_says_on_settings() -> None:
    sentences = {say_error(error, "zh"): str(error) for error in sentences_on_settings()}
    assert len(sentences) > 25
    assert {told: english for told, english in sentences.items() if ENGLISH.search(told)} == {}


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("training", {"learning_rate": 0}, "学习率：给出的是 0；允许：大于 0.0。"),
        ("training", {"batch_size": 70_000}, "批大小：给出的是 70000；允许：不超过 65536。"),
        ("training", {"window": "x"}, "窗口：给出的是 x；允许：整数。"),
        ("training", {"minutes": "x"}, "分钟：给出的是 x；允许：数字。"),
        ("training", {"minutes": 1, "steps": 2}, "分钟：给出的是 steps、minutes；允许：步数、遍数、分钟三者之一。"),
        ("text", {"vocab_size": 3}, "词元数：给出的是 3；允许：不小于 8。"),
        ("text", {"split": ""}, "文档分隔：给出的是 ''；允许：至少 1 个字符。"),
        (
            "model",
            {"cell": "x"},
            "单元：给出的是 x；允许：'lstm'、'mogrifier-lstm'、'gru'、'rnn'、'update-gate-lstm' 之一。",
        ),
    ],
)
def test_what_is_wrong_with_a_training_setting_is_told_in_chinese(
    section: str, values: dict[str, object], expected: str
) -> None:
    with pytest.raises(errors.InvalidSetting) as caught:
        parse_settings(RunSettings, {section: values})
    assert say_error(caught.value, "zh") == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.BadCheckpoint("tokenizer.model", "file", "missing"), "模型文件有误：tokenizer.model，file：缺失。"),
        (errors.BadCheckpoint("config.json", "content", "not valid JSON"), "不是有效的 JSON"),
        (errors.BadCheckpoint("config.json", "format", "None is not 'textgen-checkpoint'"), "None 不是 'textgen"),
        (errors.BadCheckpoint("a.safetensors", "b", "shape (2,) where config.json implies (3,)"), "表明是 (3,)"),
        (errors.BadCheckpoint("model.safetensors", "size", "9 bytes, more than the 8 allowed"), "超过允许的 8 字节"),
    ],
)
def test_what_is_wrong_with_a_model_is_told_in_chinese(error: errors.TextgenError, expected: str) -> None:
    assert expected in say_error(error, "zh")


def test_states_are_told_in_chinese() -> None:
    error = errors.InvalidSetting("run", "one that is finished", "one that is failed, paused")
    assert say_error(error, "zh") == "训练任务：给出的是 已完成的任务；允许：失败、已暂停的任务。"


def test_what_is_wrong_with_a_vocabulary_is_told_in_chinese() -> None:
    with pytest.raises(errors.InvalidSetting) as too_small:
        check_vocab_size(9)
    assert say_error(too_small.value, "zh") == (
        "词元数：给出的是 9；允许：不小于 264（256 个字节、换行符、四个特殊符号和若干词元）。"
    )
    allowed = "keep or new, as the vocabulary of this model cannot be extended"
    fixed = errors.InvalidSetting("text.base_vocabulary", "extend", allowed)
    assert say_error(fixed, "zh") == "词表：给出的是 extend；允许：沿用模型的或重新训练；此模型的词表无法扩充。"
    assert say_error(fixed, "en").startswith("Vocabulary: extend was given; allowed: keep or new")
