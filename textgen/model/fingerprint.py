"""What tells one model from another."""

from __future__ import annotations

import hashlib

import torch

from textgen.model.language_model import LanguageModel


def fingerprint(model: LanguageModel) -> str:
    """SHA-256, in hexadecimal, of the model's shape and its weights in fp32: on every device the same."""
    # What a single network is called must not change by there being ensembles, too.
    settings = model.settings.model_dump_json(exclude=set() if model.settings.members > 1 else {"members"})
    digest = hashlib.sha256(settings.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
