"""What the page says, in English and simplified Chinese.

Labels are translated in the browser (`gr.I18n`); what a handler writes is translated here, in the language that the
page names with every request. (Not in a cookie: inside the frame of a Space it would be one of a third party.)
"""

from __future__ import annotations

import re
from typing import Literal

import gradio as gr

from textgen.errors import TextgenError

Language = Literal["en", "zh"]


def texts() -> dict[str, tuple[str, str]]:
    """Every text of the page by its key: English, Chinese."""
    return {
        "tab_generate": ("Generate", "生成"),
        "language": ("中文", "English"),
        "model": ("Model", "模型"),
        "document": ("Text", "文本"),
        "document_info": (
            "Write a beginning; the model continues it here. Ctrl+Enter generates, Esc stops.",
            "写一个开头，模型会接着写下去。Ctrl+Enter 生成，Esc 停止。",
        ),
        "document_placeholder": ("Once upon a time …", "从前……"),
        "generate": ("Generate", "生成"),
        "stop": ("Stop", "停止"),
        "undo": ("Undo", "撤销"),
        "redo": ("Redo", "重做"),
        "take": ("Use this", "采用"),
        "clear": ("Clear", "清空"),
        "examples": ("Beginnings to try", "试试这些开头"),
        "temperature": ("Temperature", "温度"),
        "temperature_info": (
            "0 always takes the likeliest piece; higher is wilder.",
            "0 总选最可能的词；越高越奔放。",
        ),
        "length": ("Length (tokens)", "长度（词元）"),
        "length_info": ("How many tokens to add at most.", "最多新增多少个词元。"),
        "beams": ("Beams", "集束数"),
        "beams_info": (
            "1 samples. More searches for the likeliest text; temperature then has no effect.",
            "1 表示随机采样；更多则搜索最可能的文本，此时温度不起作用。",
        ),
        "more": ("More settings", "更多设置"),
        "top_k": ("Top-k", "Top-k"),
        "top_k_info": ("Choose among the k likeliest tokens only; 0 is off.", "只从最可能的 k 个词元中选；0 为关闭。"),
        "top_p": ("Top-p", "Top-p"),
        "top_p_info": (
            "Choose among the likeliest tokens that together reach this probability; 1 is off.",
            "只从累计概率达到此值的最可能词元中选；1 为关闭。",
        ),
        "min_tokens": ("Shortest length (tokens)", "最短长度（词元）"),
        "min_tokens_info": ("Do not end the text before.", "在此之前不结束文本。"),
        "length_penalty": ("Length penalty", "长度惩罚"),
        "length_penalty_info": (
            "For beams: above 0 favours longer texts, below 0 shorter ones.",
            "用于集束搜索：大于 0 偏好长文本，小于 0 偏好短文本。",
        ),
        "num_return": ("Results", "结果数"),
        "num_return_info": ("For beams: how many finished texts to show.", "用于集束搜索：显示多少个结果。"),
        "seed": ("Seed", "随机种子"),
        "seed_info": (
            "The same seed and settings give the same text. Empty: a new one each time.",
            "相同的种子与设置得到相同的文本；留空则每次不同。",
        ),
        "stop_texts": ("Stop at", "停止文本"),
        "stop_texts_info": (
            "End before one of these texts appears; one per line.",
            "出现其中任一文本前结束；每行一个。",
        ),
        "about": ("About this model", "关于此模型"),
        "status_reading": ("Reading the text …", "正在读取文本……"),
        "status_writing": (
            "{tokens} tokens · {rate} tokens/s · seed {seed}",
            "{tokens} 个词元 · 每秒 {rate} 个 · 种子 {seed}",
        ),
        "status_searching": (
            "{tokens} tokens · {rate} tokens/s · searching",
            "{tokens} 个词元 · 每秒 {rate} 个 · 搜索中",
        ),
        "status_beams": ("{tokens} tokens · {rate} tokens/s", "{tokens} 个词元 · 每秒 {rate} 个"),
        "reason_eos": ("the text came to its end", "文本自然结束"),
        "reason_length": ("full length", "达到长度"),
        "reason_stop": ("stop text reached", "遇到停止文本"),
        "reason_cancelled": ("stopped", "已停止"),
        "reason_deadline": ("out of time", "超时"),
        "hypotheses": ("Best so far", "当前最佳"),
        "results": ("Results", "结果"),
        "score": ("score", "得分"),
        "no_models": (
            "There is no model here yet. Train one with: textgen train FILE --out runs/NAME",
            "这里还没有模型。可用命令训练：textgen train 文件 --out runs/名称",
        ),
        "about_shape": (
            "{cell}, {layers} × {hidden} units, embedding {embedding}, {vocab} pieces",
            "{cell}，{layers} 层 × {hidden} 单元，嵌入 {embedding}，词表 {vocab}",
        ),
        "about_figures": (
            "On held-out text: {nats} nats per character, accuracy {accuracy}",
            "留出文本：每字符 {nats} nats，准确率 {accuracy}",
        ),
        "about_device": ("Runs on {device} ({backend})", "运行于 {device}（{backend}）"),
        "error_invalid_setting": (
            "{field}: {given} was given; allowed: {allowed}.",
            "{field}：给出的是 {given}；允许：{allowed}。",
        ),
        "error_busy": (
            "{waiting} requests are already waiting; please try again in a moment.",
            "已有 {waiting} 个请求在等待，请稍后再试。",
        ),
        "error_not_found": (
            "{what} “{name}” was not found; there is: {known}.",
            "没有找到“{name}”；现有：{known}。",
        ),
        "error_bad_checkpoint": ("{file}, {field}: {problem}.", "模型文件有误：{file}，{field}：{problem}。"),
        "error_bad_tokenizer": ("{file}: {problem}.", "词表文件有误：{file}：{problem}。"),
        "error_broken_model": (
            "The model's output at new token {index} is not a number; its weights are damaged.",
            "模型在第 {index} 个新词元处的输出不是数值；它的权重已损坏。",
        ),
        "error_engine_closed": (
            "The model is being unloaded; please try again in a moment.",
            "模型正在卸载，请稍后再试。",
        ),
        "error_unexpected": (
            "Something went wrong on our side; your text is unchanged. Details are in the server's log.",
            "程序出错了，您的文本没有改动。详情见服务器日志。",
        ),
    }


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
        label = _SETTING_LABELS.get(str(params["field"]))
        params["field"] = say(label, language) if label else params["field"]
        params["allowed"] = _in_chinese(str(params["allowed"])) if language == "zh" else params["allowed"]
    return say(key, language, **params)


# The page calls some settings by other names than the program does.
_SETTING_LABELS = {
    "temperature": "temperature",
    "max_new_tokens": "length",
    "num_beams": "beams",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_new_tokens": "min_tokens",
    "length_penalty": "length_penalty",
    "num_return": "num_return",
    "seed": "seed",
    "stop": "stop_texts",
    "prompt": "document",
}
_CHINESE_PHRASES = (
    (r"a whole number from 0, or nothing", "不小于 0 的整数，或留空"),
    (r"a whole number", "整数"),
    (r"a number", "数字"),
    (r"at most max_new_tokens \((\d+)\)", r"不超过长度（\1）"),
    (r"at most (\S+) items", r"最多 \1 项"),
    (r"at most", "不超过"),
    (r"at least", "不小于"),
    (r"above", "大于"),
    (r"below", "小于"),
    (r" and ", "，且"),
)


def _in_chinese(allowed: str) -> str:
    for pattern, chinese in _CHINESE_PHRASES:
        allowed = re.sub(pattern, chinese, allowed)
    return allowed
