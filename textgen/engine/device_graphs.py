"""Work on a GPU that is started as a whole: CUDA graphs, and what goes in and out of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Work = Callable[[], Tensor]

# PyTorch allows one capture at a time in a process, and every engine has a thread of its own.
_CAPTURING = threading.Lock()
# The first runs choose and load kernels and take memory for them, which a capture must not do.
_WARM_UPS = 2


class Launcher:
    """Runs work whose inputs and outputs stay at their places in memory: with `use_graphs` as CUDA graphs.

    A graph is captured when its work is first asked for, and all share their memory: a result is to be used, on the
    same stream, before anything else is run.
    """

    def __init__(self, device: torch.device, *, use_graphs: bool) -> None:
        self._device = device
        self._use_graphs = use_graphs
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None

    def run(self, key: Hashable, work: Work, *, idle: Callable[[], None], load: Callable[[], None]) -> Tensor:
        """What `work`, the same for the same `key`, gives for the inputs that `load` puts in their places.

        `idle` puts inputs there with which work does no harm: it is run some times before it is captured.
        """
        if not self._use_graphs:
            load()
            return work()
        with torch.cuda.device(self._device):
            if key not in self._graphs:
                idle()
                self._graphs[key] = self._captured(work)
            graph, result = self._graphs[key]
            load()
            graph.replay()
            return result

    def forget(self) -> None:
        """Drops the graphs, since what they work on is about to move."""
        if self._graphs:
            torch.cuda.synchronize(self._device)  # none may be running
            self._graphs.clear()

    def _captured(self, work: Work) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Graphs that share memory must be captured on the same stream, which may not be the default one.
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        with _CAPTURING:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            memory = next((known.pool() for known, _ in self._graphs.values()), None)
            # "thread_local": what other threads do meanwhile, such as training, is none of this capture's business.
            with torch.cuda.graph(graph, pool=memory, stream=self._stream, capture_error_mode="thread_local"):
                result = work()
        return graph, result


def to_device(target: Tensor, values: NDArray[Any]) -> None:
    """Copies `values` to `target`, of the same shape and type, without waiting for it."""
    source = torch.from_numpy(values)
    if target.is_cuda:
        # PyTorch keeps pinned memory for reuse, and gives it out again only after the copy.
        target.copy_(source.pin_memory(), non_blocking=True)
    else:
        target.copy_(source)


def to_host(source: Tensor) -> NDArray[Any]:
    """A copy of `source`, after whatever it is still waiting for."""
    target = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
    target.copy_(source, non_blocking=source.is_cuda)
    if source.is_cuda:
        torch.cuda.current_stream(source.device).synchronize()
    return target.numpy()
