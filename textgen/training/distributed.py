"""Processes that train one model together: ranks in the terms of `torch.distributed`, started by `torchrun`.

Each reads its own rows of every batch and holds the same weights. Gradients are reduced by DistributedDataParallel
(Li et al. 2020, https://arxiv.org/abs/2006.15704); what else must be the same everywhere is agreed on by small sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from textgen.config import DeviceName
from textgen.errors import Abandoned, InvalidSetting, TextgenError
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState
from textgen.training.device import choose_device

# Until all have started, on all hosts.
_JOIN = timedelta(minutes=10)
# The others wait as long while rank 0 reads a large text. That a process has died is seen at once, by its connection.
_WAIT = timedelta(hours=12)
# While they train all hear of one another at every step, but for what rank 0 does alone: evaluations, samples, saving.
# A host that has lost its power or its network says nothing; the others then end, and torchrun tries again for a while.
_SILENCE = timedelta(hours=1)
# Numbers in an exchange, one of which says that a rank gives up. All are of one size, so that any two can meet.
_WIDTH = 16


class Ranks:
    """This process among `size` that train together; alone by default, and then nothing here costs anything.

    Every method that says so is to be called by all ranks, in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._group: dist.ProcessGroup | None = None  # the one of all processes, until training begins

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes, evaluates, samples and tells."""
        return self.rank == 0

    def share(self, rows: int) -> range:
        """The contiguous rows of a batch that are this rank's: from rank * rows / size to (rank + 1) * rows / size."""
        return range(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def check_batch(self, batch_size: int) -> None:
        """Raises `InvalidSetting` when `batch_size` streams cannot be shared out evenly."""
        if batch_size % self.size:
            raise InvalidSetting("batch_size", batch_size, f"a multiple of {self.size}, the number of processes")

    def check_rows(self, rows: int) -> None:
        """Raises `InvalidSetting` when a text is so short that some ranks would have no row of its batches."""
        if rows < self.size:
            raise InvalidSetting("processes", self.size, f"at most {rows}, since the text gives no more streams")

    def exchange(self, *numbers: float) -> list[float]:
        """The sums over all ranks of up to 15 numbers each. All call it; raises `Abandoned` when one gave up."""
        return list(numbers) if self.alone else self._exchange(numbers, gives_up=False)

    def told(self, numbers: Callable[[], Sequence[float]], count: int) -> list[float]:
        """What rank 0 finds out, `count` numbers; the others wait for it. All call it."""
        return self.exchange(*(numbers() if self.leads else [0.0] * count))

    def any(self, here: bool) -> bool:
        """Whether it is so at any rank. All call it."""
        return self.exchange(float(here))[0] > 0

    def abandon(self) -> None:
        """Lets the others raise `Abandoned` at their next exchange, instead of waiting for this rank."""
        if not self.alone:
            with suppress(Abandoned, RuntimeError):  # all give up at once, or their processes have ended
                self._exchange((), gives_up=True)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks. All call it."""
        if self.alone:
            return tensor
        summed = tensor.clone()
        dist.all_reduce(summed, group=self._group)
        return summed

    def whole_state(self, own: RecurrentState, rows: int) -> RecurrentState:
        """The state of all `rows` of a batch, from each rank's own. All call it."""
        if self.alone:
            return own
        share, parts = self.share(rows), []
        for _, tensor in own.named_tensors():
            # Shares may differ by a row, which a gathering of tensors would not allow.
            whole = torch.zeros(rows, tensor.shape[1], device=tensor.device)
            whole[share.start : share.stop] = tensor
            dist.all_reduce(whole, group=self._group)
            parts.append(whole.to(tensor.dtype))
        found = iter(parts)
        return RecurrentState(tuple(tuple(next(found) for _ in layer) for layer in own.layers))

    def distribute(self, model: LanguageModel) -> DistributedDataParallel | None:
        """Gives `model` rank 0's weights and wraps it for the reduction of gradients; None when alone. All call it.

        From now on nobody waits longer than an hour for another.
        """
        if self.alone:
            return None
        # Whoever found out meanwhile that it cannot take part says so here.
        self.exchange()
        if self._group is None:
            self._group = dist.new_group(timeout=_SILENCE)
        return DistributedDataParallel(model, process_group=self._group, gradient_as_bucket_view=True)

    def part(self) -> bool:
        """Waits until all have come so far, and says whether they have. All call it, before they leave.

        Who left at once would break off the connection by which another may still receive.
        """
        try:
            self.exchange()
        except Abandoned:
            raise
        except RuntimeError as error:
            if not is_lost_rank(error):
                raise
            return False
        return True

    def close(self) -> None:
        """Leaves the group."""
        if not self.alone:
            dist.destroy_process_group()

    def _exchange(self, numbers: Sequence[float], *, gives_up: bool) -> list[float]:
        buffer = torch.zeros(_WIDTH, dtype=torch.float64)
        buffer[0] = float(gives_up)
        buffer[1 : len(numbers) + 1] = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(buffer, group=self._group)
        if buffer[0] > 0:
            raise Abandoned
        return buffer[1 : len(numbers) + 1].tolist()


class Agreement:
    """What ranks decide together at each `renew`: the time is rank 0's, and whoever is asked to stop stops all."""

    def __init__(self, ranks: Ranks, clock: Callable[[], float]) -> None:
        self._ranks = ranks
        self._clock = clock
        self._now = 0.0
        self._asked = False
        self._agreed = False

    def stop(self) -> None:
        """Asks all to stop. May be called from a signal handler."""
        self._asked = True

    @property
    def stopping(self) -> bool:
        return self._asked if self._ranks.alone else self._agreed

    def now(self) -> float:
        """Seconds; with other ranks it stands still between two renewals."""
        return self._clock() if self._ranks.alone else self._now

    def renew(self) -> None:
        """All call it."""
        if self._ranks.alone:
            return
        asked, self._now = self._ranks.exchange(float(self._asked), self._clock() if self._ranks.leads else 0.0)
        self._agreed = self._agreed or asked > 0


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether `error` means that another rank's process, or the way to it, is no more. gloo has no exception for it."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def join_ranks(environment: Mapping[str, str], device: DeviceName = "auto") -> tuple[Ranks, DeviceName]:
    """Joins the processes that `torchrun` started beside this one, and says which device they train on.

    By gloo on processors; on CUDA devices, one for each process of a host, by nccl. Without torchrun there is nobody to
    join. Raises `InvalidSetting` for a device that is not there, or not for each of the processes.
    """
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment["WORLD_SIZE"]) == 1:
        return Ranks(), device
    with_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if device == "auto" and not with_cuda:
        device = "cpu"
    # Exchanges are of numbers in memory: by gloo also where gradients go by nccl, and so without waiting for a device.
    backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=_JOIN))
    # The store outlives its processes, and with it the addresses of those that torchrun has replaced.
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    store.set(f"started-{rank}", "")
    store.wait([f"started-{other}" for other in range(size)], _JOIN)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_WAIT)
    ranks = Ranks(rank, size)
    try:
        _take_device(choose_device(device), environment)
    except TextgenError:
        ranks.abandon()
        ranks.close()
        raise
    return ranks, device


def _take_device(device: torch.device, environment: Mapping[str, str]) -> None:
    if device.type == "mps":
        raise InvalidSetting("device", "mps", "cpu or cuda where several processes train")
    if device.type == "cuda":
        processes, count = int(environment.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
        if processes > count:
            if int(environment["LOCAL_RANK"]) > 0:
                raise Abandoned  # one of them says why
            raise InvalidSetting("nproc_per_node", processes, f"at most {count}, the number of CUDA devices")
        # "cuda" means this one from now on.
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
