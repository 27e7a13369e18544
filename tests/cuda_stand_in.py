"""What `spaces` asks of a PyTorch with CUDA while it is imported and a call begins, for a PyTorch without.

To be imported before `spaces`, in a process of its own. No tensor ever leaves the processor.
"""

from __future__ import annotations

from typing import Any

import torch


def is_in_bad_fork() -> bool:
    """A function that can be pickled: `spaces` has a fork call it."""
    return False


def _stay(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor


def _nothing(*_: Any) -> None: ...


stand_ins: list[tuple[Any, str, Any]] = [
    (torch.version, "cuda", "12.8"),
    (torch._C, "_cuda_init", _nothing),
    (torch.cuda, "_is_in_bad_fork", is_in_bad_fork),
    (torch.cuda, "synchronize", _nothing),
    (torch.Tensor, "cuda", _stay),
]
for owner, name, stand_in in stand_ins:
    setattr(owner, name, stand_in)
