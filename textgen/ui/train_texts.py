"""What the Train tab says: English, Chinese."""

from __future__ import annotations

# One sentence for each setting behind a preset; the names are those of the settings.
EXPERT_FIELDS = (
    "minutes",
    "learning_rate",
    "batch_size",
    "window",
    "patience",
    "evaluations",
    "split",
    "vocab_size",
    "tokenizer",
    "cell",
    "hidden_size",
    "num_layers",
    "embedding_size",
)


def train_texts() -> dict[str, tuple[str, str]]:
    """Every text by its key."""
    return {**_form(), **_import(), **_expert(), **_states(), **_run(), **_judge(), **_use(), **_errors()}


def _form() -> dict[str, tuple[str, str]]:
    return {
        "tab_train": ("Train", "训练"),
        "train_off": (
            "Training is switched off on this host. Start your own copy to train models.",
            "此主机已关闭训练功能。可运行自己的副本来训练模型。",
        ),
        "train_attended": (
            "A GPU is lent here for moments, on your quota: a run trains only while this page stays open.",
            "这里的 GPU 按次短时借用，计入您的配额：只有本页保持打开时才会训练。",
        ),
        "runs_lost": (
            "Runs and models of your own are lost when this Space restarts: push or download what you want to keep.",
            "此 Space 重启后，你的训练记录和模型会丢失：请推送或下载要保留的内容。",
        ),
        "files": ("Text files", "文本文件"),
        "paste": ("Or paste text", "或粘贴文本"),
        "paste_info": ("It is added to the files above.", "将与上面的文件一并使用。"),
        "read_text": ("Read the text", "读取文本"),
        "fold_again": ("Read a file in another way", "换一种方式读取文件"),
        "again_file": ("File", "文件"),
        "again_encoding": ("Encoding", "编码"),
        "again_encoding_info": ("Empty: find it out.", "留空则自动识别。"),
        "again_column": ("Column", "列"),
        "again_column_info": ("The column of a table that holds the text.", "表格中存放文本的列。"),
        "again": ("Read again", "重新读取"),
        "base": ("Start from", "从何开始"),
        "base_info": (
            "A model that knows the language learns your text faster than one that starts from nothing.",
            "已掌握该语言的模型比从零开始学得更快。",
        ),
        "base_none": ("Nothing: a new model", "从零开始：新模型"),
        "vocabulary": ("Vocabulary", "词表"),
        "vocabulary_info": (
            "The pieces that the text is cut into. Extend adds pieces of your text to the model's own.",
            "文本被切分成的词元。“扩充”会把你文本中的词元加入模型词表。",
        ),
        "vocabulary_keep": ("The model's own", "沿用模型的"),
        "vocabulary_extend": ("Extend it", "扩充"),
        "vocabulary_new": ("A new one", "重新训练"),
        "preset": ("How long", "时长"),
        "preset_info": (
            "Quick takes about 3 minutes, Balanced 15, Thorough an hour. Training ends early when it no longer helps.",
            "快速约 3 分钟，均衡 15 分钟，充分 1 小时。不再有改进时会提前结束。",
        ),
        "preset_quick": ("Quick", "快速"),
        "preset_balanced": ("Balanced", "均衡"),
        "preset_thorough": ("Thorough", "充分"),
        "fold_expert": ("The values behind it", "背后的具体数值"),
        "as_preset": ("as the preset says", "按预设"),
        "as_preset_value": ("as the preset: {value}", "按预设：{value}"),
        "title": ("Title", "标题"),
        "title_info": ("What the run and its model are called.", "这次训练及其模型的标题。"),
        "prompts": ("Sample prompts", "样例开头"),
        "prompts_info": (
            "A line each: what the samples during training begin with.",
            "每行一个：训练过程中样例文本的开头。",
        ),
        "estimate": ("Estimate", "估算"),
        "start": ("Start training", "开始训练"),
        "estimating": ("Timing some real steps …", "正在实测若干步……"),
        "estimated": (
            (
                "About {minutes} min: {passes} passes over the text at {rate} tokens/s. Memory {memory} MB, "
                "checkpoints {disk} MB of {free} MB free."
            ),
            "约 {minutes} 分钟：每秒 {rate} 词元，读 {passes} 遍。内存 {memory} MB，检查点 {disk} MB，剩余 {free} MB。",
        ),
        "started": ("Started. It goes on when you close this page.", "已开始。关闭本页也会继续。"),
        "started_attended": ("It trains while this page stays open.", "本页保持打开时会一直训练。"),
        "attended_kept": (
            "What it had learned and saved is kept; Resume goes on from there.",
            "已保存的训练结果仍在；点“继续”可从那里接着训练。",
        ),
        "parameters": ("Parameters of the model", "模型参数量"),
        "started_before": (
            "That run has started. Bring another text to start another one.",
            "那次训练已经开始。要开始新的训练，请提供另一份文本。",
        ),
        "read_first": ("The text has changed: read it first.", "文本已更改：请先读取。"),
        "no_text_yet": ("Drop files or paste text first.", "请先拖入文件或粘贴文本。"),
    }


def _import() -> dict[str, tuple[str, str]]:
    return {
        "importing": ("Reading {name} …", "正在读取{name}……"),
        "pasted": ("pasted text", "粘贴的文本"),
        "import_total": (
            "{characters} characters · texts: {files}",
            "共 {characters} 个字符 · 文本：{files} 份",
        ),
        "import_characters": ("{count} characters", "{count} 个字符"),
        "import_documents": ("documents: {count}", "文档：{count}"),
        "import_guessed": ("guessed", "推测"),
        "import_duplicates": ("the same as earlier ones: {count}", "与之前重复：{count} 份"),
        "import_column": ("column “{column}” of {columns}", "列“{column}”，共有 {columns}"),
        "fit": (
            "The model's vocabulary: {tokens} tokens for 100 characters, {share} of the characters spelled in bytes.",
            "按模型词表：每 100 个字符 {tokens} 个词元，{share} 的字符以字节拼写。",
        ),
        "fit_own": (
            "Its vocabulary: {tokens} tokens for 100 characters, {share} of the characters spelled in bytes.",
            "词表：每 100 个字符 {tokens} 个词元，{share} 的字符以字节拼写。",
        ),
        "fit_suggested": (
            "“{title}” knows this script. Who starts from it usually has the better model after the same time.",
            "“{title}”认识这种文字。从它开始训练，同样的时间通常能得到更好的模型。",
        ),
        "fit_unknown": (
            "The model does not know this script ({scripts}): extend its vocabulary, or start from another model.",
            "模型不认识这种文字（{scripts}）：请扩充词表，或换一个模型。",
        ),
    }


def _expert() -> dict[str, tuple[str, str]]:
    return {
        "minutes": ("Minutes", "分钟"),
        "minutes_info": ("Time to train, without pauses.", "训练时间，不含暂停。"),
        "learning_rate": ("Learning rate", "学习率"),
        "learning_rate_info": ("How far weights move at each step; the peak.", "每步权重移动的幅度（峰值）。"),
        "batch_size": ("Batch size", "批大小"),
        "batch_size_info": ("Places in the text that are read side by side.", "同时并行读取的文本位置数。"),
        "window": ("Window", "窗口"),
        "window_info": ("Tokens through which errors are traced back at each step.", "每步误差回传的词元数。"),
        "patience": ("Patience", "耐心"),
        "patience_info": (
            "Evaluations without improvement before training ends early; 0 never.",
            "连续多少次评估没有改进就提前结束；0 表示从不。",
        ),
        "evaluations": ("Evaluations", "评估次数"),
        "evaluations_info": ("Spread over the run; samples are written at each.", "均匀分布，每次都会写样例。"),
        "split": ("Documents end at", "文档分隔"),
        "split_info": ("file, blank-line, line, or any separator text.", "file、blank-line、line 或任意分隔文本。"),
        "vocab_size": ("Pieces", "词元数"),
        "vocab_size_info": ("Size of a new vocabulary.", "新词表的大小。"),
        "tokenizer": ("Kind of vocabulary", "词表类型"),
        "tokenizer_info": ("How a new vocabulary cuts the text.", "新词表切分文本的方式。"),
        "cell": ("Cell", "单元"),
        "cell_info": ("The recurrent cell of a new model.", "新模型的循环单元。"),
        "hidden_size": ("Units", "单元数"),
        "hidden_size_info": ("Width of each recurrent layer of a new model.", "新模型每个循环层的宽度。"),
        "num_layers": ("Layers", "层数"),
        "num_layers_info": ("Recurrent layers of a new model.", "新模型的循环层数。"),
        "embedding_size": ("Embedding", "嵌入宽度"),
        "embedding_size_info": ("Width of a new model's token vectors.", "新模型词元向量的宽度。"),
    }


def _states() -> dict[str, tuple[str, str]]:
    return {
        "state_queued": ("waiting", "排队中"),
        "state_preparing": ("preparing", "准备中"),
        "state_running": ("training", "训练中"),
        "state_paused": ("paused", "已暂停"),
        "state_stopped": ("stopped and kept", "已停止并保留"),
        "state_unborn": ("stopped before it began", "开始前已停止"),
        "state_finished": ("finished", "已完成"),
        "state_failed": ("failed", "失败"),
        "state_interrupted": ("interrupted", "已中断"),
        "stage_reading": ("reading the text", "读取文本"),
        "stage_tokenizer": ("making a vocabulary", "建立词表"),
        "stage_indexing": ("remembering its passages", "记录文本片段"),
        "stage_timing": ("timing some real steps", "实测若干步"),
        "stage_encoding": ("cutting the text into tokens", "切分文本"),
    }


def _run() -> dict[str, tuple[str, str]]:
    return {
        "runs": ("Runs", "训练任务"),
        "runs_info": ("They go on without this page.", "关闭本页也会继续。"),
        "no_runs": ("No runs yet. Bring a text and press Start.", "还没有训练任务。请提供文本并点击开始。"),
        "compare": ("Compare with", "对比"),
        "compare_info": ("Lay other runs over this one.", "把其他训练叠加显示。"),
        "run_base": ("Started from {bases}", "起点：{bases}"),
        "fewer_pieces": (
            "The text supports {had} pieces; {asked} were asked for.",
            "此文本支持 {had} 个词元，少于所要求的 {asked} 个。",
        ),
        "run_position": ("{position} in the queue", "队列第 {position} 位"),
        "run_no_room": ("waits until there is more space on the disk", "等待磁盘腾出空间"),
        "run_figures": (
            "step {step} · pass {passes} · {rate} tokens/s · {left} left",
            "第 {step} 步 · 第 {passes} 遍 · 每秒 {rate} 个词元 · 剩余 {left}",
        ),
        "run_done": ("{step} steps in {time}", "{step} 步，用时 {time}"),
        "run_too_long": (
            "ended after the {minutes} minutes that a run may take here",
            "已达到此处每个任务最多 {minutes} 分钟的限制",
        ),
        "run_early": ("ended early: held-out text was no longer predicted better", "提前结束：留出文本已不再改进"),
        "run_interrupted": (
            "Its process ended without saying why. Resume goes on from the last save.",
            "进程意外结束。点击“继续”从最近一次保存处接着训练。",
        ),
        "duration_minutes": ("{minutes} min", "{minutes} 分钟"),
        "duration_seconds": ("{seconds} s", "{seconds} 秒"),
        "pause": ("Pause", "暂停"),
        "stop_keep": ("Stop and keep", "停止并保留"),
        "resume": ("Resume", "继续"),
        "discard": ("Discard", "丢弃"),
        "discard_sure": (
            "Delete “{title}” and everything it has learned?",
            "删除“{title}”及其学到的一切？",
        ),
        "earlier": ("Earlier", "提前"),
        "later": ("Later", "推后"),
        "longer": ("Train longer", "继续训练更久"),
        "longer_minutes": ("More minutes", "增加分钟"),
        "scale": ("Scale", "刻度"),
        "scale_linear": ("linear", "线性"),
        "scale_log": ("logarithmic", "对数"),
        "smoothing": ("Smoothing", "平滑"),
        "smoothing_info": ("Of the training loss.", "针对训练损失。"),
        "plot_title": ("Loss, nats per character", "损失（每字符奈特）"),
        "plot_training": ("training", "训练"),
        "plot_held_out": ("held-out", "留出"),
        "plot_best": ("best {value} at step {step}", "最佳 {value}（第 {step} 步）"),
        "plot_steps": ("steps", "步"),
        "plot_empty": ("The curve begins with the first steps.", "训练开始后显示曲线。"),
        "samples_over_time": ("What it writes", "它写出的文字"),
        "sample_step": ("step {step}", "第 {step} 步"),
        "prompts_change": ("Use from the next evaluation on", "从下次评估起使用"),
        "prompts_changed": ("The next samples begin with these.", "之后的样例将使用这些开头。"),
    }


def _judge() -> dict[str, tuple[str, str]]:
    return {
        "judge_before_after": (
            "Held-out text: {before} nats per character before, {after} at best.",
            "留出文本：训练前每字符 {before} 奈特，最佳 {after}。",
        ),
        "judge_best": (
            "Held-out text: {after} nats per character at best, step {step}.",
            "留出文本：最佳每字符 {after} 奈特（第 {step} 步）。",
        ),
        "judge_kept": (
            "On the text of the model it started from: {before} before, {after} now.",
            "在起点模型自己的文本上：之前 {before}，现在 {after}。",
        ),
        "judge_copied": (
            (
                "Of the last samples {share} of all eight-token sequences are copied from the training text; "
                "the longest passage: “{longest}”."
            ),
            "最近的样例中，{share} 的八词元序列照抄自训练文本；最长片段：“{longest}”。",
        ),
        "judge_not_copied": (
            "The last samples copy nothing of eight tokens or more from the training text.",
            "最近的样例没有照抄训练文本（八个词元以上）。",
        ),
        "evaluations_title": ("Through time, best in bold", "各次评估（最佳为粗体）"),
        "evaluation_best": ("the best so far", "目前最佳"),
        "column_step": ("Step", "步"),
        "column_held_out": ("Held-out, nats/char", "留出，奈特/字符"),
        "column_share": ("Copied sequences of 8 tokens", "照抄的八词元序列"),
        "column_longest": ("Longest copied passage", "最长照抄片段"),
        "copied_tokens": ("{tokens} tokens", "{tokens} 个词元"),
        "verdict_too_early": ("Too early to tell.", "现在下结论还早。"),
        "verdict_improving": ("It is still getting better.", "仍在改进。"),
        "verdict_flat": (
            "It has hardly changed since step {since}; the best checkpoint is kept.",
            "自第 {since} 步起几乎没有变化；已保留最佳检查点。",
        ),
        "verdict_overfitting": (
            "Held-out loss has risen since step {since}: it learns the text by heart. The best checkpoint is kept.",
            "自第 {since} 步起留出损失上升：模型在死记文本。已保留最佳检查点。",
        ),
        "verdict_diverged": (
            "Training went wrong at step {since}. Try a smaller learning rate.",
            "训练在第 {since} 步失控。请降低学习率。",
        ),
    }


def _use() -> dict[str, tuple[str, str]]:
    return {
        "try_it": ("Try it", "试用"),
        "download": ("Download", "下载"),
        "packing": ("Packing the model …", "正在打包模型……"),
        "downloading": ("The model is on its way.", "模型正在下载。"),
        "fold_more": ("Longer, rename, command", "继续训练、改名、命令"),
        "rename": ("Rename", "改名"),
        "config_file": ("Its settings, the content of config.json", "设置（config.json 的内容）"),
        "command": ("The same from the terminal", "在终端中做同样的事"),
    }


def _errors() -> dict[str, tuple[str, str]]:
    return {
        "error_no_text": (
            "{what}: {given} found; at least {needed} needed.",
            "文本太少：找到 {given}，至少需要 {needed}。",
        ),
        "error_no_room": (
            "Only {free} MB are free on the disk; {needed} MB must be free to begin. Delete runs or models first.",
            "磁盘只剩 {free} MB，开始训练至少需要 {needed} MB。请先删除一些训练或模型。",
        ),
        "error_cannot_start": (
            "The training process could not be started: {reason}.",
            "无法启动训练进程：{reason}。",
        ),
        "error_out_of_memory": (
            (
                "There is not enough memory to train even one of {rows} streams at a time, {window} tokens each; "
                "try a smaller window or model."
            ),
            "内存不足：即使每次只训练 {rows} 个流中的一个（各 {window} 个词元）也不够。请减小窗口或模型。",
        ),
        "error_gpu_refused": ("No GPU is lent: {reason}.", "没有借到 GPU：{reason}。"),
        "error_abandoned": (
            "Another of the processes that train this run has given up; it says why.",
            "共同训练的另一个进程已放弃；原因由它说明。",
        ),
        "error_processes_ended": (
            "The processes that train this run ended before they were done; what they saved last is kept.",
            "训练进程在完成之前结束；已保留最后保存的内容。",
        ),
        "error_training_diverged": (
            "The loss became {loss} at step {step}; the last saved checkpoint is kept. Try a smaller learning rate.",
            "第 {step} 步损失变为 {loss}；已保留最后保存的检查点。请降低学习率。",
        ),
        "error_bad_corpus": (
            "{file}: {problem}; build the corpus anew from the text.",
            "{file}：{problem}；请从文本重新建立语料。",
        ),
    }
