"""The call of `torchrun`, PyTorch's elastic launcher, for training in several processes on one host or on several."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

import textgen
from textgen.errors import InvalidSetting
from textgen.jobs.launcher import usable_cores

_MAX_PROCESSES = 1024
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Torchrun:
    """`nproc_per_node` processes on each of `nnodes` hosts; this one is number `node_rank`.

    `rdzv_endpoint` is HOST:PORT of host 0, where the others find it. All are started again up to `max_restarts` times
    when one dies.
    """

    nproc_per_node: int = 1
    nnodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    max_restarts: int = 3

    @property
    def world_size(self) -> int:
        """Processes on all hosts."""
        return self.nproc_per_node * self.nnodes

    def check(self) -> None:
        """Raises `InvalidSetting` for what torchrun would refuse, or wait for in vain."""
        for name in ("nproc_per_node", "nnodes"):
            if not 1 <= getattr(self, name) <= _MAX_PROCESSES:
                raise InvalidSetting(name, getattr(self, name), f"1 to {_MAX_PROCESSES}")
        if self.max_restarts < 0:
            raise InvalidSetting("max_restarts", self.max_restarts, "0 or more")
        if not 0 <= self.node_rank < self.nnodes:
            allowed = f"0 to {self.nnodes - 1}, below nnodes" if self.nnodes > 1 else "0 without --nnodes"
            raise InvalidSetting("node_rank", self.node_rank, allowed)
        if self.nnodes == 1 and self.rdzv_endpoint is not None:
            raise InvalidSetting("rdzv_endpoint", self.rdzv_endpoint, "none without --nnodes")
        if self.nnodes > 1:
            self._endpoint()

    def check_batch(self, batch_size: int) -> None:
        """Raises `InvalidSetting` when `batch_size` streams cannot be shared out evenly, before anything is started."""
        if batch_size % self.world_size:
            allowed = f"a multiple of {self.world_size}, the number of processes"
            raise InvalidSetting("batch_size", batch_size, allowed)

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The call that lets each process run `python -m MODULE ARGUMENTS`."""
        call = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(self.nnodes)]
        call += ["--nproc-per-node", str(self.nproc_per_node), "--max-restarts", str(self.max_restarts)]
        if self.nnodes == 1:
            call += ["--standalone"]
        else:
            # The static way keeps to --node-rank, so that rank 0 is where its user sits.
            call += ["--rdzv-backend", "static", "--rdzv-endpoint", str(self.rdzv_endpoint)]
            call += ["--node-rank", str(self.node_rank)]
        # Without the dashes torchrun would take some of the arguments for short forms of its own.
        return [*call, "--local-addr", self._local_address(), "-m", "--", module, *arguments]

    def environment(self, inherited: Mapping[str, str], *, threads: int | None = None) -> dict[str, str]:
        """That of this process, and what the others need beside it.

        Each process gets its share of `threads`, of all usable cores when not given, unless OMP_NUM_THREADS says
        otherwise.
        """
        # The package may be no installed one but the folder of a Space.
        paths = [str(Path(textgen.__file__).parent.parent), *filter(None, [inherited.get("PYTHONPATH")])]
        made = {**inherited, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        share = max(1, (threads or usable_cores()) // self.nproc_per_node)
        if threads is not None or "OMP_NUM_THREADS" not in made:
            made["OMP_NUM_THREADS"] = str(share)
        interface = _interface_of(self._local_address())
        if interface is not None:
            # Else gloo takes the one that the host's own name leads to, where others often cannot reach it.
            made.setdefault("GLOO_SOCKET_IFNAME", interface)
        return made

    def _local_address(self) -> str:
        if self.nnodes == 1:
            return _LOOPBACK
        host, port = self._endpoint()
        try:
            family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(address)  # of a datagram socket: it chooses the way there and sends nothing
                return str(probe.getsockname()[0])
        except OSError as error:
            allowed = f"a HOST that can be reached from here ({error.strerror})"
            raise InvalidSetting("rdzv_endpoint", self.rdzv_endpoint, allowed) from None

    def _endpoint(self) -> tuple[str, int]:
        host, _, port = (self.rdzv_endpoint or "").rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
            allowed = "HOST:PORT of host 0, the same on every host"
            raise InvalidSetting("rdzv_endpoint", self.rdzv_endpoint or "none", allowed)
        return host.strip("[]"), int(port)


def launched_by_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of those that `torchrun` starts."""
    return "TORCHELASTIC_RUN_ID" in environment


def restarts(environment: Mapping[str, str]) -> int:
    """How often `torchrun` has started its processes again."""
    return int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0)


def processes_for(batch_size: int, most: int) -> int:
    """The largest number of processes up to `most` that share `batch_size` streams out evenly."""
    return next(count for count in range(max(1, min(most, batch_size)), 0, -1) if batch_size % count == 0)


def _interface_of(address: str) -> str | None:
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == address for known in addresses):
            return str(name)
    return None
