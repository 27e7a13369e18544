"""What the controls of the Generate tab are called, and one sentence of help for each: English, Chinese."""

from __future__ import annotations


def control_texts() -> dict[str, tuple[str, str]]:
    """KEY is a control's label, KEY_info its help, fold_NAME the title of a group of controls."""
    return {**_main(), **_sampling(), **_repetition(), **_beams(), **_several(), **_words()}


def _main() -> dict[str, tuple[str, str]]:
    return {
        "presets": ("Style", "风格"),
        "presets_info": (
            "Fills in the settings below: likely words only, as learned, or rare words too.",
            "填好下面的设置：只用可能的词、按所学的来，或也用罕见的词。",
        ),
        "precise": ("Precise", "严谨"),
        "balanced": ("Balanced", "平衡"),
        "wild": ("Wild", "奔放"),
        "temperature": ("Temperature", "温度"),
        "temperature_info": (
            "0 always takes the likeliest piece; higher is wilder.",
            "0 总选最可能的词；越高越奔放。",
        ),
        "length": ("Length (tokens)", "长度（词元）"),
        "length_info": ("How many tokens to add at most.", "最多新增多少个词元。"),
        "beams": ("Beams", "集束数"),
        "beams_info": (
            "1 writes by chance; more search for the likeliest text, whatever the temperature.",
            "1 为随机采样；更多则搜索最可能的文本，与温度无关。",
        ),
    }


def _sampling() -> dict[str, tuple[str, str]]:
    return {
        "fold_sampling": ("Sampling", "采样"),
        "top_k": ("Top-k", "Top-k"),
        "top_k_info": ("Choose among the k likeliest tokens only; 0 is off.", "只从最可能的 k 个词元中选；0 为关闭。"),
        "top_p": ("Top-p", "Top-p"),
        "top_p_info": (
            "Choose among the likeliest tokens that together reach this probability; 1 is off.",
            "只从累计概率达到此值的最可能词元中选；1 为关闭。",
        ),
        "min_p": ("Min-p", "Min-p"),
        "min_p_info": (
            "Leave out tokens less likely than this share of the likeliest one; 0 is off.",
            "去掉概率低于最可能词元这一比例的词元；0 为关闭。",
        ),
        "typical_p": ("Typical-p", "Typical-p"),
        "typical_p_info": (
            "Keep the tokens that surprise as much as the model expects, up to this probability; 1 is off.",
            "保留“意外程度”最接近预期的词元，直到累计概率达到此值；1 为关闭。",
        ),
        "epsilon_cutoff": ("Epsilon cutoff", "Epsilon 截断"),
        "epsilon_cutoff_info": (
            "Leave out tokens below this probability; 0 is off.",
            "去掉概率低于此值的词元；0 为关闭。",
        ),
        "eta_cutoff": ("Eta cutoff", "Eta 截断"),
        "eta_cutoff_info": (
            "The same, but milder where the model is unsure; 0 is off.",
            "同上，但在模型没把握时更宽松；0 为关闭。",
        ),
    }


def _repetition() -> dict[str, tuple[str, str]]:
    return {
        "fold_repetition": ("Against repetition", "避免重复"),
        "repetition_penalty": ("Repetition penalty", "重复惩罚"),
        "repetition_penalty_info": (
            "Above 1 avoids tokens that stand in the text already; 1 is off.",
            "大于 1 时避开文本中已有的词元；1 为关闭。",
        ),
        "frequency_penalty": ("Frequency penalty", "频率惩罚"),
        "frequency_penalty_info": (
            "Avoids a new token more each time it has been written; 0 is off.",
            "新写的词元每出现一次，就更加避开它；0 为关闭。",
        ),
        "presence_penalty": ("Presence penalty", "存在惩罚"),
        "presence_penalty_info": (
            "Avoids every token that has been newly written, however often; 0 is off.",
            "避开所有新写过的词元，不论次数；0 为关闭。",
        ),
        "no_repeat_ngram": ("Never repeat (tokens in a row)", "禁止重复（连续词元数）"),
        "no_repeat_ngram_info": (
            "Never write so many tokens in the same order twice; 0 allows it.",
            "不让这么多个连续词元原样出现两次；0 为允许。",
        ),
        "dry_multiplier": ("DRY strength", "DRY 强度"),
        "dry_multiplier_info": (
            "Keeps the text from running in circles; 0 is off, 0.8 is usual.",
            "防止文本原地打转；0 为关闭，常用 0.8。",
        ),
        "dry_base": ("DRY growth", "DRY 增长"),
        "dry_base_info": (
            "How much stronger it gets with each repeated token.",
            "每多重复一个词元，惩罚增强多少倍。",
        ),
        "dry_allowed_length": ("DRY patience (tokens)", "DRY 容忍（词元）"),
        "dry_allowed_length_info": ("Repeats up to this length are fine.", "不超过此长度的重复不受惩罚。"),
    }


def _beams() -> dict[str, tuple[str, str]]:
    return {
        "fold_beams": ("Beams", "集束搜索"),
        "num_return": ("Results", "结果数"),
        "num_return_info": ("How many finished texts to show.", "显示多少个结果。"),
        "length_penalty": ("Length penalty", "长度惩罚"),
        "length_penalty_info": (
            "Above 0 favours longer texts, below 0 shorter ones.",
            "大于 0 偏好长文本，小于 0 偏好短文本。",
        ),
        "early_stopping": ("When to stop searching", "何时停止搜索"),
        "early_stopping_info": (
            "At the first texts that end; when better ones are unlikely; or only when they are impossible.",
            "有足够文本结束时；不太可能更好时；或确定不会更好时。",
        ),
        "early_stopping_yes": ("Soon", "尽早"),
        "early_stopping_no": ("Usual", "一般"),
        "early_stopping_never": ("Thorough", "彻底"),
        "beam_groups": ("Groups of beams", "集束组数"),
        "beam_groups_info": (
            "Groups look for different texts; must divide the number of beams.",
            "各组寻找不同的文本；须能整除集束数。",
        ),
        "diversity_penalty": ("Diversity between groups", "组间多样性"),
        "diversity_penalty_info": ("How strongly the groups keep apart.", "各组之间保持不同的强度。"),
        "beam_sampling": ("Draw by chance", "随机集束"),
        "beam_sampling_info": (
            "The beams' tokens are drawn with the temperature and sampling settings.",
            "集束中的词元按温度与采样设置随机抽取。",
        ),
    }


def _several() -> dict[str, tuple[str, str]]:
    return {
        "fold_several": ("Several at once", "一次多篇"),
        "samples": ("Texts", "篇数"),
        "samples_info": (
            "Different continuations side by side; without beams.",
            "并排写出不同的续文；不与集束搜索同用。",
        ),
        "seed": ("Seed", "随机种子"),
        "seed_info": (
            "The same seed and settings give the same text. Empty: a new one each time.",
            "相同的种子与设置得到相同的文本；留空则每次不同。",
        ),
    }


def _words() -> dict[str, tuple[str, str]]:
    return {
        "fold_words": ("Words and endings", "用词与结尾"),
        "min_tokens": ("Shortest length (tokens)", "最短长度（词元）"),
        "min_tokens_info": ("Do not end the text before.", "在此之前不结束文本。"),
        "stop_texts": ("Stop at", "停止文本"),
        "stop_texts_info": (
            "End before one of these texts appears; one per line, \\n is a line break.",
            "出现其中任一文本前结束；每行一个，\\n 表示换行。",
        ),
        "banned": ("Never write", "禁用文本"),
        "banned_info": ("Texts that must not appear; one per line.", "不得出现的文本；每行一个。"),
        "avoid_copying": ("Avoid copying", "避免照抄"),
        "avoid_copying_info": (
            "Never write eight tokens in a row that stand so in the training text; for models that know theirs.",
            "不写出与训练文本完全相同的连续八个词元；仅适用于带有训练文本索引的模型。",
        ),
        "logit_bias": ("Favour or avoid words", "偏好或回避的词"),
        "logit_bias_info": (
            "One per line: love = 2 makes it likelier, love = -2 rarer; #42 is token 42.",
            "每行一个：love = 2 更常见，love = -2 更少见；#42 表示第 42 号词元。",
        ),
        "ignore_eos": ("Never end by itself", "不自行结束"),
        "ignore_eos_info": ("Go on where the model would end the text.", "在模型想结束时继续写。"),
        "alternatives": ("Alternatives", "备选数"),
        "alternatives_info": (
            "How many other words a click on a finished text offers.",
            "点击写好的文本时给出多少个备选词。",
        ),
        "adapt": ("Learn from the text first", "先学习文本"),
        "adapt_info": (
            "A private copy of the model learns from your text before it goes on, and writes more like it; slower.",
            "模型先在私有副本中学习您的文本，写得更像它；较慢。",
        ),
    }
