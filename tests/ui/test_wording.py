"""The files of the page's languages: what each must have, and that a file is all that another one takes."""

from __future__ import annotations

import json
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import textgen.ui
from textgen.errors import InvalidSetting, TextgenError
from textgen.ui.i18n import Language, languages, languages_for_browser
from textgen.ui.phrases import Phrases
from textgen.ui.phrases import placeholders as phrase_placeholders
from textgen.ui.wording import read_language, read_languages

FOLDER = Path(textgen.ui.__path__[0]) / "languages"
FILES = {file.stem: read_language(file) for file in FOLDER.glob("*.json")}
TEXTS = {code: file.by_key() for code, file in FILES.items()}
ERRORS = {f"error_{kind.code}": kind.template for kind in TextgenError.__subclasses__()}
ENGLISH = {**TEXTS["en"], **ERRORS}
OTHERS = sorted(FILES.keys() - {"en"})
PIG_LATIN: dict[str, Any] = {
    "name": "Igpay Atinlay",
    "locale": "qpl",
    "browsers": ["qpl"],
    "texts": {"page": {"generate": "Enerategay", "error_busy": "{waiting} equestsray areway aitingway."}},
    "scripts": {"Latin": "Atinlay"},
    "phrases": {"one of {choices}": "oneway ofway {choices}", "{*given} is not {*wanted}": "{wanted}, otnay {given}"},
}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def tell(code: Language, trouble: str, entries: Mapping[str, str]) -> None:
    """Fails with entries as the file would have them."""
    if entries:
        listed = json.dumps(entries, ensure_ascii=False, indent=2)
        pytest.fail(f"textgen/ui/languages/{code}.json {trouble}:\n{listed}", pytrace=False)


@pytest.mark.parametrize("code", OTHERS)
def test_every_text_is_there(code: Language) -> None:
    tell(code, "lacks these texts", {key: text for key, text in ENGLISH.items() if key not in TEXTS[code]})


@pytest.mark.parametrize("code", OTHERS)
def test_every_phrase_is_there(code: Language) -> None:
    wanted = {english for file in FILES.values() for english in file.phrases}
    lacking = sorted(wanted - FILES[code].phrases.keys())
    tell(code, "lacks these phrases, which another language has", {english: english for english in lacking})


@pytest.mark.parametrize("code", OTHERS)
def test_there_is_no_text_that_english_does_not_have(code: Language) -> None:
    tell(code, "has texts that nothing says", {key: text for key, text in TEXTS[code].items() if key not in ENGLISH})


@pytest.mark.parametrize("code", FILES)
def test_no_text_is_empty(code: Language) -> None:
    told = {**TEXTS[code], **FILES[code].phrases, **FILES[code].scripts}
    tell(code, "has empty texts", {key: text for key, text in told.items() if not text.strip()})


@pytest.mark.parametrize("code", OTHERS)
def test_texts_have_the_placeholders_of_the_english_ones(code: Language) -> None:
    wrong = {}
    for key, text in TEXTS[code].items():
        own, english = placeholders(text), placeholders(ENGLISH.get(key, text))
        # "what" is an English noun in an error, which may read better without.
        if not own <= english <= own | {"what"}:
            wrong[key] = f"{text} (English: {ENGLISH[key]})"
    tell(code, "has texts with other {placeholders} than the English ones", wrong)


@pytest.mark.parametrize("code", OTHERS)
def test_phrases_have_placeholders_of_the_english_ones(code: Language) -> None:
    phrases = FILES[code].phrases
    wrong = {told: own for told, own in phrases.items() if not placeholders(own) <= set(phrase_placeholders(told))}
    tell(code, "has phrases with other {placeholders} than the English ones", wrong)


@pytest.mark.parametrize("code", FILES)
def test_no_key_stands_in_a_file_twice(code: Language) -> None:
    twice: dict[str, str] = {}

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice.update({key: str(value) for key, value in pairs if keys.count(key) > 1})
        return dict(pairs)

    json.loads((FOLDER / f"{code}.json").read_text(encoding="utf-8"), object_pairs_hook=note)
    keys = [key for group in FILES[code].texts.values() for key in group]
    tell(code, "has keys twice", {**twice, **{key: TEXTS[code][key] for key in keys if keys.count(key) > 1}})


def test_english_leaves_the_sentences_of_errors_to_the_errors() -> None:
    tell("en", "has sentences of textgen/errors.py", {key: ERRORS[key] for key in ERRORS.keys() & TEXTS["en"].keys()})


def test_languages_differ_in_how_they_are_found() -> None:
    for known in ([file.name for file in FILES.values()], [file.locale for file in FILES.values()]):
        assert len(set(known)) == len(known)
    tags = [tag.lower() for file in FILES.values() for tag in file.browsers]
    assert len(set(tags)) == len(tags) >= len(FILES)


def folder_with(tmp_path: Path, **files: Any) -> Path:
    shutil.copytree(FOLDER, tmp_path / "languages")
    for code, content in files.items():
        (tmp_path / "languages" / f"{code}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "languages"


def test_what_a_language_lacks_is_english(tmp_path: Path) -> None:
    found = read_languages(folder_with(tmp_path, qpl=PIG_LATIN), {"top_a": "Top a", "stop": "Top"})
    assert list(found) == ["en", "qpl", "zh"]
    own = found["qpl"]
    assert own.texts.keys() == found["en"].texts.keys() == found["zh"].texts.keys()
    assert own.texts["generate"] == "Enerategay"
    assert own.texts["stop"] == "Stop"
    assert own.texts["top_a"] == "Top a"
    assert own.texts["error_engine_closed"] == "The model is being unloaded; please try again in a moment."
    assert own.phrases.say("one of steps, epochs or minutes") == "oneway ofway steps, epochs, minutes"
    assert own.phrases.say("a fish is not a bird or two") == "a bird or two, otnay a fish"
    assert own.phrases.say("at most 3 MB") == "at most 3 MB"


def test_placeholders_of_a_phrase_take_words_or_lists() -> None:
    table = {"{count} bytes": "B {count}", "{*anything} bytes": "BB {anything}", "one that is {states}": "{states}!"}
    phrases = Phrases(table, " / ", {"queued": "waiting"})
    assert phrases.say("7 bytes") == "B 7"
    assert phrases.say("some more bytes") == "BB some more"
    assert phrases.say("one that is queued, odd") == "waiting / odd!"
    assert phrases.say("one that is queued or odd") == "one that is queued or odd"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({**PIG_LATIN, "text": {}}, "qpl.json: text: an unknown setting was given"),
        ({**PIG_LATIN, "texts": {"page": {"stop": 3}}}, "qpl.json: texts.page.stop: 3 was given"),
        ({"name": "Igpay"}, "qpl.json: locale"),
        ([], "qpl.json: settings"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_place(tmp_path: Path, content: object, told: str) -> None:
    with pytest.raises(InvalidSetting, match=told):
        read_languages(folder_with(tmp_path, qpl=content), {})


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "qpl.json").write_bytes(b'{"name": "Igpay",\xff')
    with pytest.raises(InvalidSetting, match=r"qpl\.json"):
        read_languages(folder, {})


def test_browsers_are_served_by_the_longest_tag_that_fits() -> None:
    known = languages_for_browser()
    assert list(known["locales"]) == list(languages())
    lengths = [len(tag) for tag, _ in known["browsers"]]
    assert lengths == sorted(lengths, reverse=True)
    assert dict(known["browsers"])["zh"] == "zh"


_PROGRAM = """
import json, sys
from textgen.errors import Busy
from textgen.ui.i18n import PageI18n, build_i18n, known_language, languages_for_browser, say, say_error, say_in_all
labels = {
    tag: [texts[PageI18n.KEY_PREFIX + key] for key in ("generate", "stop", "language")]
    for tag, texts in build_i18n().translations.items()
}
said = [say("generate", known_language("qpl")), say_error(Busy(3), "qpl"), json.loads(say_in_all("generate"))]
json.dump({"labels": labels, "said": said, "browser": languages_for_browser()}, sys.stdout)
"""


@pytest.mark.slow
def test_one_file_is_all_that_another_language_takes(tmp_path: Path) -> None:
    package = tmp_path / "textgen"
    shutil.copytree(FOLDER.parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "ui" / "languages" / "qpl.json").write_text(json.dumps(PIG_LATIN), encoding="utf-8")
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["labels"] == {
        "en": ["Generate", "Stop", "Igpay Atinlay"],
        "qpl": ["Enerategay", "Stop", "中文"],
        "zh": ["生成", "停止", "English"],
        "zh-CN": ["生成", "停止", "English"],
    }
    in_all = {"en": "Generate", "qpl": "Enerategay", "zh": "生成"}
    assert told["said"] == ["Enerategay", "3 equestsray areway aitingway.", in_all]
    assert told["browser"]["locales"] == {"en": "en", "qpl": "qpl", "zh": "zh-CN"}
    assert ["qpl", "qpl"] in told["browser"]["browsers"]
