"""What the Models tab says: English, Chinese."""

from __future__ import annotations


def models_texts() -> dict[str, tuple[str, str]]:
    """Every text by its key."""
    return {**_list(), **_one(), **_change(), **_zip()}


def _list() -> dict[str, tuple[str, str]]:
    return {
        "tab_models": ("Models", "模型"),
        "models_list": ("The models that you can write with", "可用来写作的模型"),
        "models_empty": (
            "No models yet. Train one on the Train tab, or bring one from a zip or from the Hub, below.",
            "还没有模型。可在“训练”页训练一个，或在下方从 zip 文件或 Hub 带来一个。",
        ),
        "models_none": (
            "There are no models on this host, and none can be made or brought here.",
            "此主机上没有模型，也不能在此训练或带来模型。",
        ),
        "origin_ships": ("Ships with the studio", "随附模型"),
        "origin_run": ("Trained here", "在此训练"),
        "origin_hub": ("From the Hub: {source}", "来自 Hub：{source}"),
        "origin_zip": ("Imported: {source}", "导入自 {source}"),
        "model_shape": ("{cell} {layers} × {hidden}", "{cell} {layers} 层 × {hidden}"),
        "model_parameters": ("{count} parameters", "{count} 个参数"),
        "model_pieces": ("{count} pieces", "{count} 个词元"),
        "model_nats": ("{nats} nats/char", "{nats} 奈特/字符"),
        "model_disk": ("{size} on disk", "占用磁盘 {size}"),
    }


def _one() -> dict[str, tuple[str, str]]:
    return {
        "download_onnx": ("ONNX for the browser", "浏览器用 ONNX"),
        "figure_shape": ("Shape", "结构"),
        "figure_parameters": ("Parameters", "参数量"),
        "figure_nats": ("On held-out text", "留出文本"),
        "figure_nats_value": ("{nats} nats per character", "每字符 {nats} 奈特"),
        "figure_disk": ("On disk", "占用磁盘"),
        "figure_disk_of_run": ("{size}, its run included", "{size}，含其训练任务"),
        "figure_changed": ("Changed", "更改日期"),
        "model_card": ("Model card", "模型卡片"),
        "model_card_none": ("This model came without a card.", "此模型没有卡片。"),
    }


def _change() -> dict[str, tuple[str, str]]:
    return {
        "fold_change": ("Rename or delete", "改名或删除"),
        "model_title_info": (
            "What the lists call it. Models that were made from it keep it as their base.",
            "列表中显示的标题；以它为起点的模型不受影响。",
        ),
        "model_delete": ("Delete", "删除"),
        "model_delete_sure": ("Delete “{title}” for good?", "确定永久删除“{title}”吗？"),
        "model_delete_run_sure": (
            "Delete “{title}” for good? Its run, its text and its figures go with it.",
            "确定永久删除“{title}”吗？其训练任务、文本和数据也会一并删除。",
        ),
        "model_renamed": ("It is called “{title}” now.", "现在名为“{title}”。"),
        "model_deleted": ("“{title}” was deleted.", "已删除“{title}”。"),
    }


def _zip() -> dict[str, tuple[str, str]]:
    return {
        "fold_zip": ("A model from a zip", "来自 zip 的模型"),
        "zip_file": ("Zip of a model", "模型的 zip 文件"),
        "zip_unpacking": ("Unpacking: {done} of {total} MB", "正在解压：{done} / {total} MB"),
        "model_brought": (
            "“{title}” is yours to write with and to start from.",
            "“{title}”已可用来写作，也可作为训练起点。",
        ),
    }
