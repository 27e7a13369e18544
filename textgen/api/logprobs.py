"""Log-probabilities in the form of the completions endpoint: lists side by side, an entry for each token.

Among a token's likeliest alternatives it stands itself, also as one more where it is none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from textgen.studio import BOS_ID, LoadedModel, TextToken, TokenScore


@dataclass
class Logprobs:
    """Tokens of a choice's text. A token that is no whole character is named by its bytes, "bytes:\\xe4"."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def copy(self) -> Logprobs:
        """One that other tokens can be added to."""
        return Logprobs(*(list(column) for column in self.as_dict().values()))

    def add_prompt(self, model: LoadedModel, scores: Sequence[TokenScore], *, begun: bool) -> None:
        """The tokens of a prompt, one by one: clients count on as many as they sent.

        `begun`: they sent the token that begins texts, which has no probability.
        """
        if begun:
            self._add(_name(model, BOS_ID), None, None, 0)
        read = bytearray()
        for score in scores:
            offset = len(read.decode("utf-8", "ignore"))
            read += model.tokenizer.piece_bytes(score.token_id)
            self._add_score(model, score, offset)

    def add_new(self, model: LoadedModel, tokens: Iterable[TextToken], after: int) -> None:
        """The tokens of a new text that stands behind `after` characters."""
        for token in tokens:
            offset = after + token.start
            if token.parts:
                for part in token.parts:
                    self._add_score(model, part, offset)
            else:
                top = {other.text: other.logprob for other in token.alternatives}
                self._add(token.text, token.logprob, {**top, token.text: token.logprob}, offset)

    def _add_score(self, model: LoadedModel, score: TokenScore, offset: int) -> None:
        name = _name(model, score.token_id)
        top = {_name(model, other.token_id): other.logprob for other in score.alternatives}
        self._add(name, score.logprob, {**top, name: score.logprob}, offset)

    def _add(self, token: str, logprob: float | None, top: dict[str, float] | None, offset: int) -> None:
        self.tokens.append(token)
        self.token_logprobs.append(logprob)
        self.top_logprobs.append(top)
        self.text_offset.append(offset)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


def _name(model: LoadedModel, token_id: int) -> str:
    data = model.tokenizer.piece_bytes(token_id)
    if not data:
        return model.tokenizer.piece(token_id)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
