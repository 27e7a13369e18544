"""Real ranks for tests: processes that join one another by gloo, as those do that torchrun starts."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from tests.forking import pipe, start_process
from textgen.training.distributed import Ranks, join_ranks

DEADLINE_SECONDS = 120.0


def run_ranks(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns at each of `size` ranks; what goes wrong at one fails here with its own words."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    pipes = [pipe(duplex=False) for _ in range(size)]
    pickled = cloudpickle.dumps(work)
    processes = []
    for rank, (_, ours) in enumerate(pipes):
        processes.append(start_process(_run, rank, size, store.port, pickled, ours))
        ours.close()
    try:
        results = []
        for rank, (theirs, _) in enumerate(pipes):
            assert theirs.poll(DEADLINE_SECONDS), f"nothing was heard of rank {rank}"
            result, trace = theirs.recv()
            assert not trace, f"rank {rank}: {trace}"
            results.append(result)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(rank: int, size: int, port: int, work: bytes, pipe: Connection) -> None:
    torch.set_num_threads(1)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    told |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
    }
    os.environ.update(told)
    try:
        ranks, _ = join_ranks(os.environ, "cpu")
        pipe.send((cloudpickle.loads(work)(ranks), ""))
        ranks.exchange()  # nobody leaves while another still needs it
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    os._exit(0)
