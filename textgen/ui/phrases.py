"""Chinese for the phrases that errors of ours are put together of."""

from __future__ import annotations

import re

from textgen.ui.train_texts import train_texts

# A whole phrase, and what stands for it.
_WHOLE = {
    "none": "无",
    "nothing": "无",
    "none that can be read": "没有可读取的",
    "text files, or pasted text": "文本文件，或粘贴的文本",
    "at least one file with text": "至少一个有文本的文件",
    "at least one text file": "至少一个文本文件",
    "files that changed while they were read": "读取期间发生变化的文件",
    "files that stay as they are": "保持不变的文件",
    "what the file is called": "文件的名称",
    "a text that takes minutes to prepare": "需要数分钟准备的文本",
    "start without an estimate": "不估算，直接开始",
    "a size that this text supports": "此文本所支持的大小",
    "one of steps, epochs and minutes": "步数、遍数、分钟三者之一",
    "one that waits or trains": "排队或训练中的任务",
    "a run that no other process is training": "没有被其他进程训练的任务",
    "a run that has trained, to be trained longer": "已训练过的任务",
    "the folder of a training run": "训练任务的文件夹",
    "an unknown setting": "未知的设置",
    "the settings of the documentation": "文档中列出的设置",
    "a whole number": "整数",
    "a whole number from 0, or nothing": "不小于 0 的整数，或留空",
    "a number": "数字",
    "a number above 0": "大于 0 的数字",
    "characters that are seen": "可见字符",
    "one that no other model or run has": "未被其他模型或训练任务使用的标题",
    "an empty text": "空文本",
    "a text or a list of token ids": "文本或词元编号的列表",
    "1 in write; stream gives several texts": "write 中只能是 1；需要多个文本请用 stream",
    "a lone surrogate": "不完整的 Unicode 字符",
    "complete Unicode characters": "完整的 Unicode 字符",
    "texts of at least one character": "非空文本",
    "at least one character": "非空文本",
    "a few sentences": "几句话",
    "one character": "一个字符",
    "one token": "一个词元",
    "two tokens": "两个词元",
    "fewer than two tokens": "不到两个词元",
    "two; or hold out a share of the text": "两份；或改为留出文本的一部分",
    "words that are one piece of the model's vocabulary": "在模型词表中为单个词元的词",
    "its process ended at once, see log.txt": "进程一启动就结束了，详见 log.txt",
    "keep or new, as the vocabulary of this model cannot be extended": "沿用模型的或重新训练；此模型的词表无法扩充",
    "USER/NAME, of letters, digits, “-”, “_” and “.”": "用户名/模型名，由字母、数字、“-”、“_”和“.”组成",
    "a new name: a model of another kind is there already": "一个新名称：已有同名的其他类型模型",
    "a new name: a public repository of this one is there already": "一个新名称：已有同名的公开仓库",
    "something else": "其他内容",
    "a branch, a tag or a commit": "分支、标签或提交",
    "a token of the Hub": "Hub 令牌",
    "a token of the Hub that may write": "有写入权限的 Hub 令牌",
    # Of checkpoints, vocabularies and prepared texts.
    "missing": "缺失",
    "unexpected tensor": "多余的张量",
    "tensor missing": "缺少张量",
    "not valid JSON": "不是有效的 JSON",
    "not a JSON object": "不是 JSON 对象",
    "not a mapping": "不是键值映射",
    "leads out of the folder": "指向文件夹之外",
    "there is no such folder": "没有这个文件夹",
    "missing or of the wrong kind": "缺失或类型不对",
    "holds values that are not finite numbers": "含有非有限数值",
    "the file is not the one that config.json names": "与 config.json 所指的文件不一致",
    "of another run or damaged": "属于其他任务或已损坏",
    "a link, or leads out of the archive": "是链接，或指向压缩包之外",
    "there more than once": "出现了不止一次",
    "no model in it; one is a folder with config.json and tokenizer.model": (
        "其中没有模型；模型是含有 config.json 和 tokenizer.model 的文件夹"
    ),
    "a list of files that is longer than any model's": "文件列表比任何模型的都长",
    "one whose run has ended": "训练已结束的模型",
    "one of your own: trained, fetched or imported": "你自己的模型：训练、获取或导入的",
    "a model without an index": "没有索引的模型",
    "a checkpoint or a run that is there": "现有的检查点或任务",
    "one that no waiting run starts from": "没有等待中的任务以其为起点的任务",
    "models with an index of their training text; textgen index makes one": (
        "带有训练文本索引的模型；可用命令 textgen index 生成"
    ),
}
# Patterns that a whole phrase may have.
_PATTERNS = (
    (r"one that “(.+)” is to start from", r"“\1”将以其为起点的任务"),
    (r"(steps|epochs) and (epochs|minutes)", r"\1、\2"),
    (r"(\S+) to (\S+) characters", r"\1 到 \2 个字符"),
    (r"(\S+) characters", r"\1 个字符"),
    (r"(\S+) bytes, more than the (\S+) allowed", r"\1 字节，超过允许的 \2 字节"),
    (r"(\S+) bytes, where at most (\S+) are allowed", r"\1 字节，最多允许 \2 字节"),
    (r"more than the (\S+) bytes that its repository names", r"超过仓库所标明的 \1 字节"),
    (r"unknown, where at most (\S+) are allowed", r"大小未知，最多允许 \1 字节"),
    (r"shape (.+) where config.json implies (.+)", r"形状为 \1，而 config.json 表明是 \2"),
    (r"(\S+) where config.json says (\S+)", r"\1，而 config.json 写明 \2"),
    (r"(\d+) pieces where config.json says (\d+)", r"\1 个词元，而 config.json 写明 \2"),
    (r"(\d+) models in it, where one is wanted", r"其中有 \1 个模型，而只需要一个"),
    (r"(.+) is not (.+)", r"\1 不是 \2"),
    (r"(.+) is unknown; this program reads version (\d+)", r"未知版本 \1；本程序读取版本 \2"),
    (r"not a safetensors file \(.*\)", "不是 safetensors 文件"),
    (r"(.+) was found; allowed: (.+)", r"发现 \1；允许：\2"),
    (r"(\S+) bytes", r"\1 字节"),
    (r"(\S+) entries", r"\1 项"),
    (r"(\S+) kept already", r"已保留 \1 个"),
    (r"(\S+) MB kept already", r"已保留 \1 MB"),
    (r"(\S+) that wait or train already", r"已有 \1 个在排队或训练"),
    (r"(\S+) of everybody's in the queue already", r"所有人共有 \1 个已在队列中"),
    (r"at most (\S+) at once", r"同时不超过 \1 个"),
    (r"at most (\S+) MB at once", r"一次不超过 \1 MB"),
    (r"at most (\S+) MB in all", r"合计不超过 \1 MB"),
    (r"at most (\S+) MB", r"不超过 \1 MB"),
    (r"at most (\S+) bytes in all", r"合计不超过 \1 字节"),
    (r"at most (\S+) bytes", r"不超过 \1 字节"),
    (r"at most (\S+) (?:characters|chars)", r"最多 \1 个字符"),
    (r"at most (\S+) items", r"最多 \1 项"),
    (r"at most (\d+), since the text gives no more streams", r"最多 \1，因为文本不够分成更多的流"),
    (r"at most (\d+), the number of CUDA devices", r"最多 \1，即 CUDA 设备的数量"),
    (r"a multiple of (\d+), the number of processes", r"\1（进程数）的倍数"),
    (r"string should have at least (\d+) characters?", r"至少 \1 个字符"),
    (r"string should have at most (\d+) characters?", r"最多 \1 个字符"),
    (r"at most (“.+”) \((\d+)\)", r"不超过\1（\2）"),
    (r"a divisor of (“.+”) \((\d+)\)", r"能整除\1（\2）的数"),
    (r"1 with beams; ask for (“.+”) results instead", r"使用集束时为 1；请改用\1"),
    (r"lines such as (.+) or (.+)", r"形如 \1 或 \2 的行"),
    (r"token ids from (\d+) to (\d+)", r"从 \1 到 \2 的词元编号"),
    (r"a text encoding that Python knows, such as (.+)", r"Python 支持的文本编码，例如 \1"),
    (r"pieces of the base's kind, which is (\w+)", r"与起点模型相同的词表类型（\1）"),
    (
        r"at least (\d+) \(256 bytes, the newline, four specials and a few pieces\)",
        r"不小于 \1（256 个字节、换行符、四个特殊符号和若干词元）",
    ),
)
# As ISO 15924's names are in Chinese; what is not here keeps its English name.
_SCRIPTS = {
    "Latin": "拉丁字母",
    "Han": "汉字",
    "Hiragana": "平假名",
    "Katakana": "片假名",
    "Hangul": "谚文",
    "Bopomofo": "注音符号",
    "Cyrillic": "西里尔字母",
    "Greek": "希腊字母",
    "Arabic": "阿拉伯字母",
    "Hebrew": "希伯来字母",
    "Devanagari": "天城文",
    "Bengali": "孟加拉文",
    "Tamil": "泰米尔文",
    "Telugu": "泰卢固文",
    "Thai": "泰文",
    "Lao": "老挝文",
    "Khmer": "高棉文",
    "Myanmar": "缅甸文",
    "Tibetan": "藏文",
    "Mongolian": "蒙古文",
    "Yi": "彝文",
    "Armenian": "亚美尼亚字母",
    "Georgian": "格鲁吉亚字母",
    "Ethiopic": "埃塞俄比亚文",
}
_BOUNDS = {"at least": "不小于", "above": "大于", "at most": "不超过", "below": "小于"}
_BOUND = rf"(?:{'|'.join(_BOUNDS)}) \S+"


def script_in_chinese(name: str) -> str:
    """The name of a script, such as "Han"."""
    return _SCRIPTS.get(name, name)


def in_chinese(phrase: str) -> str:
    """The same in Chinese; names, numbers and what nobody has foreseen stay as they are."""
    if phrase in _WHOLE:
        return _WHOLE[phrase]
    for pattern, chinese in _PATTERNS:
        if found := re.fullmatch(pattern, phrase):
            return found.expand(chinese)
    if found := re.fullmatch(r"one that is ((?:\w+, )*\w+)", phrase):
        return f"{_states(found[1])}的任务"
    if found := re.fullmatch(r"one of (.+)", phrase):
        return f"{re.sub(' or |, ', '、', found[1])} 之一"
    if re.fullmatch(rf"{_BOUND}(?: and {_BOUND})*", phrase):
        return "，且".join(_bound(bound) for bound in phrase.split(" and "))
    return phrase


def _bound(bound: str) -> str:
    words, _, number = bound.rpartition(" ")
    return f"{_BOUNDS[words]} {number}"


def _states(names: str) -> str:
    known = train_texts()
    return "、".join(known[f"state_{name}"][1] if f"state_{name}" in known else name for name in names.split(", "))
