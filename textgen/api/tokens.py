"""Texts as token ids and back, in the form that vLLM's server gave these routes: evaluation harnesses ask for them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from textgen.api.protocol import TokenIds
from textgen.errors import InvalidSetting
from textgen.studio import BOS_ID, EOS_ID, LoadedModel


class TokenizeRequest(BaseModel):
    """The body of `/tokenize`. `model` may be left out where there is only one."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(BaseModel):
    """The body of `/detokenize`."""

    model: str | None = None
    tokens: TokenIds


def tokenize(model: LoadedModel, asked: TokenizeRequest) -> dict[str, Any]:
    """The token ids of a text; the name of the token that begins or ends texts, by itself, is that token."""
    special = {model.tokenizer.piece(token_id): token_id for token_id in (BOS_ID, EOS_ID)}.get(asked.prompt)
    ids = list(model.prompt_ids(asked.prompt)) if special is None else [BOS_ID, special]
    tokens = ids if asked.add_special_tokens else ids[1:]
    return {"tokens": tokens, "count": len(tokens), "max_model_len": model.limits.max_prompt_chars}


def detokenize(model: LoadedModel, asked: DetokenizeRequest) -> dict[str, Any]:
    """The text of token ids; special tokens have none."""
    try:
        token_ids = model.prompt_ids(asked.tokens)
    except InvalidSetting as error:
        raise InvalidSetting("tokens", error.params["given"], str(error.params["allowed"])) from None
    return {"prompt": model.tokenizer.decode(token_ids)}


def tokenizer_info(model: LoadedModel) -> dict[str, Any]:
    """What the special tokens are called."""
    return {
        "tokenizer_class": "SentencePiece",
        "bos_token": model.tokenizer.piece(BOS_ID),
        "eos_token": model.tokenizer.piece(EOS_ID),
        "vocab_size": model.tokenizer.vocab_size,
    }
