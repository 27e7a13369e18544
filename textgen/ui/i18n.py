"""What the page says, in English and simplified Chinese.

Labels are translated in the browser (`gr.I18n`); what a handler writes is translated here, in the language that the
page names with every request. (Not in a cookie: inside the frame of a Space it would be one of a third party.)
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import gradio as gr

from textgen.errors import TextgenError
from textgen.limits import Limits
from textgen.ui.control_texts import control_texts
from textgen.ui.controls import controls
from textgen.ui.texts import page_texts
from textgen.ui.train_texts import EXPERT_FIELDS, train_texts

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@cache
def texts() -> dict[str, tuple[str, str]]:
    """Every text of the page by its key: English, Chinese."""
    return {**page_texts(), **control_texts(), **train_texts()}


def build_i18n() -> gr.I18n:
    """The labels for the browser. Both zh and zh-CN are needed: browsers name either."""
    english = {key: pair[0] for key, pair in texts().items()}
    chinese = {key: pair[1] for key, pair in texts().items()}
    return gr.I18n(**{"en": english, "zh": chinese, "zh-CN": chinese})


def known_language(name: object) -> Language:
    """The language a page says it is in; English for anything unknown."""
    return "zh" if name == "zh" else "en"


def say(key: str, language: Language, **values: object) -> str:
    """The text of `key` with its values filled in."""
    return texts()[key][0 if language == "en" else 1].format(**values)


def say_error(error: Exception, language: Language) -> str:
    """A sentence for an error, never a stack trace."""
    if not isinstance(error, TextgenError):
        return say("error_unexpected", language)
    key = f"error_{error.code}"
    if key not in texts():
        return str(error)
    params = dict(error.params)
    if error.code == "invalid_setting":
        params["field"] = say_setting(str(params["field"]), language)
        allowed = str(params["allowed"])
        params["allowed"] = _in_chinese(allowed) if language == "zh" else _with_labels(allowed)
    return say(key, language, **params)


_OTHER_LABELS = {
    "prompt": "document",
    "model": "model",
    "files": "document",
    "title": "title",
    "preset": "preset",
    "sample_prompts": "prompts",
    "runs": "runs",
    "base_vocabulary": "vocabulary",
    "parameters": "parameters",
}


def say_setting(field: str, language: Language) -> str:
    """What the page calls a setting; its own name where the page does not have it."""
    section, _, name = field.rpartition(".")
    if name in EXPERT_FIELDS and section in ("", "text", "model", "training"):
        return say(name, language)
    labels = {control.field: control.key for control in controls(Limits())} | _OTHER_LABELS
    label = labels.get(field.partition(".")[0]) or labels.get(name)
    return say(label, language) if label else field


_CHINESE_PHRASES = (
    (r"(\d+) to (\d+) characters", r"\1 到 \2 个字符"),
    (r"text files, or pasted text", "文本文件，或粘贴的文本"),
    (r"at least one file with text", "至少一个有文本的文件"),
    (r"at least one text file", "至少一个文本文件"),
    (r"at most (\S+) MB at once", r"一次不超过 \1 MB"),
    (r"one of steps, epochs and minutes", "训练时长"),
    (r"a whole number from 0, or nothing", "不小于 0 的整数，或留空"),
    (r"a whole number", "整数"),
    (r"a number", "数字"),
    (r"at most max_new_tokens \((\d+)\)", r"不超过长度（\1）"),
    (r"a divisor of num_beams \((\d+)\)", r"能整除集束数（\1）的数"),
    (r"lines such as (.+) or (.+)", r"形如 \1 或 \2 的行"),
    (r"words that are one piece of the model's vocabulary", "在模型词表中为单个词元的词"),
    (r"token ids from (\d+) to (\d+)", r"从 \1 到 \2 的词元编号"),
    (
        r"models with an index of their training text; textgen index makes one",
        "带有训练文本索引的模型；可用命令 textgen index 生成",
    ),
    (r"at most (\S+) characters", r"最多 \1 个字符"),
    (r"at most (\S+) items", r"最多 \1 项"),
    (r"at most", "不超过"),
    (r"at least", "不小于"),
    (r"above", "大于"),
    (r"below", "小于"),
    (r" \(256 bytes, .+\)", "（256 个字节、换行、四个特殊词元和几个词元）"),
    (r"keep or new, as .+", "沿用模型的或重新训练；此模型的词表无法扩充"),
    (r" and ", "，且"),
)


def _with_labels(allowed: str) -> str:
    """The names of settings as the page calls them."""
    for control in controls(Limits()):
        if "_" in control.field:  # other names are words that may mean themselves
            allowed = re.sub(rf"\b{control.field}\b", f"“{say(control.key, 'en')}”", allowed)
    return allowed


def _in_chinese(allowed: str) -> str:
    for pattern, chinese in _CHINESE_PHRASES:
        allowed = re.sub(pattern, chinese, allowed)
    return allowed
