"""What the page says beside its controls: English, Chinese."""

from __future__ import annotations


def page_texts() -> dict[str, tuple[str, str]]:
    """Every text by its key."""
    return {**_page(), **_status(), **_views(), **_link(), **_about(), **_errors(), **_import_errors()}


def _page() -> dict[str, tuple[str, str]]:
    return {
        "tab_generate": ("Generate", "生成"),
        "language": ("中文", "English"),
        "log_in": ("Log in", "登录"),
        "log_out": ("Log out", "退出登录"),
        "model": ("Model", "模型"),
        "document": ("Text", "文本"),
        "document_info": (
            "Write a beginning; the model continues it here. Ctrl+Enter generates, Esc stops.",
            "写一个开头，模型会接着写下去。Ctrl+Enter 生成，Esc 停止。",
        ),
        "document_placeholder": ("Once upon a time …", "从前……"),
        "generate": ("Generate", "生成"),
        "continue": ("Continue", "续写"),
        "stop": ("Stop", "停止"),
        "undo": ("Undo", "撤销"),
        "redo": ("Redo", "重做"),
        "clear": ("Clear", "清空"),
        "take": ("Use this", "采用"),
        "examples": ("Beginnings to try", "试试这些开头"),
    }


def _status() -> dict[str, tuple[str, str]]:
    return {
        "status_reading": ("Reading the text …", "正在读取文本……"),
        "status_learning": ("Learning from the text …", "正在学习文本……"),
        "status_writing": (
            "{tokens} tokens · {rate} tokens/s · seed {seed}",
            "{tokens} 个词元 · 每秒 {rate} 个 · 种子 {seed}",
        ),
        "status_searching": (
            "{tokens} tokens · {rate} tokens/s · searching",
            "{tokens} 个词元 · 每秒 {rate} 个 · 搜索中",
        ),
        "status_beams": ("{tokens} tokens · {rate} tokens/s", "{tokens} 个词元 · 每秒 {rate} 个"),
        "status_copied": ("copied from training: {percent}", "照抄训练文本：{percent}"),
        "status_model": ("{model} on {backend}", "{model}，运行于 {backend}"),
        "status_cut": ("read from its last {characters} characters", "只读取最后 {characters} 个字符"),
        "reason_eos": ("the text came to its end", "文本自然结束"),
        "reason_length": ("full length", "达到长度"),
        "reason_stop": ("stop text reached", "遇到停止文本"),
        "reason_cancelled": ("stopped", "已停止"),
        "reason_deadline": ("out of time", "超时"),
    }


def _views() -> dict[str, tuple[str, str]]:
    return {
        "hypotheses": ("Best so far", "当前最佳"),
        "results": ("Results", "结果"),
        "score": ("score", "得分"),
        "samples_title": ("{count} texts", "{count} 篇续文"),
        "sample": ("Text {number}", "第 {number} 篇"),
        "tokens_title": ("How sure the model was", "模型的把握"),
        "tokens_hint": (
            "Choose a word to see what else it might have been, or to rewind to it.",
            "点选一个词，可查看备选或回退到此处。",
        ),
        "token_label": ("{text}, {percent}", "{text}，{percent}"),
        "token_label_copied": ("{text}, {percent}, copied from training", "{text}，{percent}，照抄训练文本"),
        "legend_copied": ("copied from training", "照抄训练文本"),
        "legend_copied_title": (
            "Underlined: eight or more tokens in a row that stand so in the training text.",
            "下划线：与训练文本完全相同的连续八个或更多词元。",
        ),
        "token_drawn": ("with your settings {percent}", "按当前设置为 {percent}"),
        "alternatives_title": ("Go on with another word", "换一个词继续"),
        "no_alternatives": ("No alternatives were kept.", "没有保存备选。"),
        "rewind": ("Rewind to here", "回退到此处"),
        "rewind_before": ("Rewind to before it", "回退到此前"),
        "close": ("Close", "关闭"),
        "end_of_text": ("end of the text", "文本结束"),
        "tree": ("Search tree", "搜索树"),
        "tree_label": (
            "Search tree: {nodes} tokens looked at, {leaves} branches drawn",
            "搜索树：尝试了 {nodes} 个词元，画出 {leaves} 个分支",
        ),
        "tree_left_out": ("{count} shorter branches are not drawn.", "另有 {count} 个较差的分支未画出。"),
    }


def _link() -> dict[str, tuple[str, str]]:
    return {
        "link": ("Link", "链接"),
        "link_info": (
            "Copy a link to these settings; with its seed it gives the same text.",
            "复制包含这些设置的链接；凭其中的种子可得到相同的文本。",
        ),
        "link_copied": ("Copied", "已复制"),
        "link_without_text": ("Copied without the text, which is too long", "已复制；文本过长，未包含在内"),
        "link_opened": (
            "Opened from a link. Generate writes the same text with the same model and seed.",
            "已从链接打开。相同的模型与种子会生成相同的文本。",
        ),
        "link_ignored": ("Not understood in the link and left out: {names}.", "链接中无法识别而略去的内容：{names}。"),
    }


def _about() -> dict[str, tuple[str, str]]:
    return {
        "about": ("About this model", "关于此模型"),
        "no_models": (
            "There is no model here yet. Train one with: textgen train FILE --out runs/NAME",
            "这里还没有模型。可用命令训练：textgen train 文件 --out runs/名称",
        ),
        "cell_lstm": ("LSTM", "LSTM"),
        "cell_gru": ("GRU", "GRU"),
        "cell_rnn": ("RNN", "RNN"),
        "cell_update-gate-lstm": ("LSTM with an update gate", "带更新门的 LSTM"),
        "about_shape": (
            "{cell}, {layers} × {hidden} units, embedding {embedding}, {vocab} pieces",
            "{cell}，{layers} 层 × {hidden} 单元，嵌入 {embedding}，词表 {vocab}",
        ),
        "about_figures": (
            "On held-out text: {nats} nats per character, accuracy {accuracy}",
            "留出文本：每字符 {nats} nats，准确率 {accuracy}",
        ),
        "about_device": ("Runs on {device} ({backend})", "运行于 {device}（{backend}）"),
    }


def _errors() -> dict[str, tuple[str, str]]:
    return {
        "error_invalid_setting": (
            "{field}: {given} was given; allowed: {allowed}.",
            "{field}：给出的是 {given}；允许：{allowed}。",
        ),
        "error_busy": (
            "{waiting} requests are already waiting; please try again in a moment.",
            "已有 {waiting} 个请求在等待，请稍后再试。",
        ),
        "error_learning_elsewhere": (
            "The model is already learning from {count} other texts; please try again in a moment.",
            "模型正在学习另外 {count} 篇文本，请稍后再试。",
        ),
        "error_not_found": (
            "{what} “{name}” was not found; there is: {known}.",
            "没有找到“{name}”；现有：{known}。",
        ),
        "error_no_model": (
            "This model is not there, or not any longer. There is: {known}.",
            "该模型不存在或已被删除。现有：{known}。",
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
        "error_deadline_exceeded": (
            "There was no answer within {seconds} seconds; please try again with less text.",
            "{seconds} 秒内没有答复；请减少文本后再试。",
        ),
        "error_backend_unavailable": (
            "The backend {backend} is not available here: {reason}.",
            "此处无法使用后端 {backend}：{reason}。",
        ),
        "error_unexpected": (
            "Something went wrong on our side; your text is unchanged. Details are in the server's log.",
            "程序出错了，您的文本没有改动。详情见服务器日志。",
        ),
    }


def _import_errors() -> dict[str, tuple[str, str]]:
    return {
        "error_unreadable_text": (
            "{file}: byte {offset} is not valid {encoding}; choose another encoding for this file.",
            "{file}：第 {offset} 个字节不是有效的 {encoding}；请为此文件选择其他编码。",
        ),
        "error_not_text": (
            "{file} does not look like text; if it is, name its encoding.",
            "{file} 看起来不是文本；如果是，请指定其编码。",
        ),
        "error_missing_file": ("{file} cannot be read: {reason}.", "无法读取 {file}：{reason}。"),
        "error_cannot_write": (
            "{path} could not be written: {reason}. What was there before is unchanged.",
            "无法写入 {path}：{reason}。原有内容没有改动。",
        ),
        "error_holds_no_text": ("{file} holds no text.", "{file} 中没有文本。"),
        "error_pictures_of_text": (
            "{file} holds no text; its pages are pictures. Run text recognition (OCR) over it first.",
            "{file} 中没有文本，页面都是图片。请先进行文字识别（OCR）。",
        ),
        "error_damaged_file": ("{file} is damaged, or no {kind} file.", "{file} 已损坏，或不是 {kind} 文件。"),
        "error_encrypted_file": (
            "{file} is encrypted; save it without a password first.",
            "{file} 已加密；请先另存为不带密码的文件。",
        ),
        "error_unsupported_file": (
            "{file}: files of the kind {kind} are not read; allowed: {allowed}.",
            "{file} 是 {kind} 文件，无法读取；允许：{allowed}。",
        ),
        "error_nested_archive": (
            "{file} is an archive within an archive; unpack it and give its files.",
            "{file} 是压缩包里的压缩包；请先解压，再提供其中的文件。",
        ),
        "error_unsafe_member": (
            "{file} is a link or leads out of its archive; it was left out.",
            "{file} 是链接或指向压缩包之外，已略去。",
        ),
        "error_archive_bomb": (
            "{file} would unpack to more than {ratio} times its size, as no honest file does; it was not read.",
            "{file} 解压后会超过原大小的 {ratio} 倍，正常文件不会如此；没有读取。",
        ),
        "error_file_too_large": (
            "{file} is too large: at most {allowed} MB of one file are read.",
            "{file} 太大：每个文件最多读取 {allowed} MB。",
        ),
        "error_import_too_large": (
            "{file} was not read: one import reads at most {allowed} MB, after unpacking.",
            "没有读取 {file}：一次导入解压后最多读取 {allowed} MB。",
        ),
        "error_too_many_files": (
            "{file} was not read: one import reads at most {allowed} files.",
            "没有读取 {file}：一次导入最多读取 {allowed} 个文件。",
        ),
        **_table_errors(),
        "error_import_too_slow": (
            "{file} could not be read within {seconds} seconds; give a part of it, or save it as plain text.",
            "未能在 {seconds} 秒内读完 {file}；请只提供一部分，或另存为纯文本。",
        ),
        "error_import_too_big": (
            "{file} takes more than {megabytes} MB of memory to read; give a part of it, or save it as plain text.",
            "读取 {file} 需要超过 {megabytes} MB 内存；请只提供一部分，或另存为纯文本。",
        ),
        "error_import_failed": (
            "{file} could not be read: the process that reads files ended over it. It may be damaged.",
            "无法读取 {file}：读取文件的进程在处理它时中止了。文件可能已损坏。",
        ),
    }


def _table_errors() -> dict[str, tuple[str, str]]:
    return {
        "error_endless_field": (
            "{file}: a field of the row in line {line} has no end within {allowed} characters; is a quote missing?",
            "{file} 第 {line} 行：有一个字段在 {allowed} 个字符内没有结束；是否缺少引号？",
        ),
        "error_bad_lines": (
            "{file}: lines that are no JSON were left out: {count}, the first of them line {line}.",
            "{file}：略去了不是 JSON 的行，共 {count} 行，第一处在第 {line} 行。",
        ),
        "error_no_such_column": (
            "{file} has no column “{column}”; there is: {known}.",
            "{file} 中没有列“{column}”；现有：{known}。",
        ),
    }
