from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from textgen.training.allocator import keep_freed_memory

_COUNT_FAULTS = """
import resource
import torch
from textgen.training.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(4 << 20)  # 16 MB, written
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
told = keep_freed_memory()
faults()
print(before, told, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    found = subprocess.run([sys.executable, "-c", _COUNT_FAULTS], capture_output=True, text=True, check=True)
    before, told, after = found.stdout.split()
    assert told == "True"
    assert int(after) < int(before) / 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
