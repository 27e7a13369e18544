"""What people use today, for comparison: an `nn.LSTM` stepped as tutorials do it, and `transformers`' `generate()`."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from textgen.config import ModelSettings


class TutorialModel(nn.Module):
    """Embedding, `nn.LSTM`, projection and tied softmax in fp32, with random weights."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(settings.vocab_size, settings.embedding_size)
        self.lstm = nn.LSTM(settings.embedding_size, settings.hidden_size, settings.num_layers, batch_first=True)
        self.projection = nn.Linear(settings.hidden_size, settings.embedding_size)

    def tokens_per_second(self, tokens: int, *, temperature: float = 0.8) -> float:
        """Draws `tokens` tokens, each from the softmax of the logits at a temperature."""
        token_ids, state = torch.zeros(1, 1, dtype=torch.long), None
        with torch.no_grad():
            started = time.perf_counter()
            for _ in range(tokens):
                outputs, state = self.lstm(self.embedding(token_ids), state)
                logits = self.projection(outputs[:, -1]) @ self.embedding.weight.T
                token_ids = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)
            return tokens / (time.perf_counter() - started)


class TransformersModel:
    """A GPT-2 shape with random weights and about as many parameters; `ImportError` without `transformers`."""

    layers = 6
    heads = 8

    def __init__(self, settings: ModelSettings, parameters: int) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        def shape(width: int) -> GPT2Config:
            return GPT2Config(
                vocab_size=settings.vocab_size,
                n_positions=1024,
                n_embd=width,
                n_layer=self.layers,
                n_head=self.heads,
                bos_token_id=1,
                eos_token_id=2,
            )

        def count(width: int) -> int:
            return (settings.vocab_size + 1024) * width + self.layers * 12 * width * width

        width = min(range(self.heads, 4096, self.heads), key=lambda width: abs(count(width) - parameters))
        self._model: Any = GPT2LMHeadModel(shape(width))
        self._model.train(False)

    @property
    def parameters(self) -> int:
        return int(self._model.num_parameters())

    def tokens_per_second(self, tokens: int) -> float:
        """`generate()` with its cache, sampling at temperature 0.8, top-k 50 and top-p 0.95."""
        started = time.perf_counter()
        self._model.generate(
            torch.zeros(1, 4, dtype=torch.long),
            attention_mask=torch.ones(1, 4, dtype=torch.long),
            do_sample=True,
            temperature=0.8,
            top_k=50,
            top_p=0.95,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        return tokens / (time.perf_counter() - started)
