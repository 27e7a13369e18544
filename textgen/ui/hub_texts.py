"""What the page says of the Hugging Face Hub: English, Chinese."""

from __future__ import annotations


def hub_texts() -> dict[str, tuple[str, str]]:
    """Every text by its key."""
    return {**_push(), **_fetch(), **_errors()}


def _push() -> dict[str, tuple[str, str]]:
    return {
        "fold_push": ("Push to the Hub", "推送到 Hub"),
        "hub_model": ("Model on the Hub", "Hub 上的模型"),
        "hub_repo_info": (
            "USER/NAME, as it will be called at Hugging Face. It is made if it is not there yet.",
            "在 Hugging Face 上的名称（用户名/模型名）；不存在时会自动创建。",
        ),
        "hub_token": ("Token", "令牌"),
        "hub_token_info": (
            "With the right to write, from huggingface.co/settings/tokens; not kept. Empty: this machine's login.",
            "需有写入权限，可在 huggingface.co/settings/tokens 获取；只用一次，不会保存。留空则用本机登录的令牌。",
        ),
        "hub_own_token_info": (
            "With the right to write, from huggingface.co/settings/tokens, used once and not kept; a login gives none.",
            "需有写入权限，可在 huggingface.co/settings/tokens 获取；只用一次，不会保存。登录不会提供令牌。",
        ),
        "hub_private": ("Private", "私有"),
        "hub_private_info": ("Only you can see it there.", "在那里只有你能看到。"),
        "hub_push": ("Push", "推送"),
        "hub_preparing": ("Making the model ready …", "正在准备模型……"),
        "hub_uploading": ("Uploading: {done} of {total} MB", "正在上传：{done} / {total} MB"),
        "hub_pushed": ("It is at", "已推送到"),
    }


def _fetch() -> dict[str, tuple[str, str]]:
    return {
        "fold_fetch": ("A model from the Hub", "来自 Hub 的模型"),
        "hub_model_info": (
            "USER/NAME or the address of a model that was made here or in another Textgen Studio.",
            "由本应用或其他 Textgen Studio 制作的模型：用户名/模型名，或其网址。",
        ),
        "hub_read_token_info": (
            "For a private model. It is used once and not kept.",
            "仅私有模型需要；只用一次，不会保存。",
        ),
        "hub_revision": ("Revision", "版本"),
        "hub_revision_info": ("A branch, a tag or a commit; empty: the newest.", "分支、标签或提交；留空则取最新。"),
        "hub_fetch": ("Fetch", "获取"),
        "hub_asking": ("Asking the Hub …", "正在查询 Hub……"),
        "hub_downloading": ("Downloading: {done} of {total} MB", "正在下载：{done} / {total} MB"),
        "hub_checking": ("Reading the model …", "正在读取模型……"),
    }


def _errors() -> dict[str, tuple[str, str]]:
    return {
        "error_hub_not_found": (
            "{repo} was not found at {host}; a private model needs a token that may read it.",
            "在 {host} 上找不到 {repo}；私有模型需要有读取权限的令牌。",
        ),
        "error_hub_no_revision": (
            "{repo} has no revision {revision} at {host}.",
            "{host} 上的 {repo} 没有版本 {revision}。",
        ),
        "error_no_token": (
            "A token is needed, one that may write: from huggingface.co/settings/tokens.",
            "需要有写入权限的令牌，可在 huggingface.co/settings/tokens 获取。",
        ),
        "error_bad_token": (
            "This cannot be a token: tokens of the Hub have letters, digits and “_” only.",
            "这不是有效的令牌：Hub 令牌只含字母、数字和“_”。",
        ),
        "error_hub_forbidden": (
            "{host} does not allow this with {repo}: the token is missing, wrong, or may not do it.",
            "{host} 不允许对 {repo} 执行此操作：令牌缺失、有误或权限不足。",
        ),
        "error_hub_gated": (
            "{repo} is gated: accept its terms at {host} first, and give a token of the same account.",
            "{repo} 需要先同意条款：请在 {host} 上接受，并提供同一账户的令牌。",
        ),
        "error_hub_unreachable": (
            "{host} could not be reached for {repo}: {reason}. Try again in a moment.",
            "无法连接 {host}（{repo}）：{reason}。请稍后再试。",
        ),
        "error_hub_refused": (
            "{host} did not do this with {repo}: {reason}.",
            "{host} 未能处理 {repo}：{reason}。",
        ),
        "error_job_failed": (
            "The job ended as {stage}: {reason}. What it wrote is at {url}.",
            "作业以 {stage} 结束：{reason}。其日志见 {url}。",
        ),
    }
