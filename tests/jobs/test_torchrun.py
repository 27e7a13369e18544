from __future__ import annotations

import sys
from typing import Any

import psutil
import pytest

from textgen.errors import InvalidSetting
from textgen.jobs.torchrun import Torchrun, launched_by_torchrun, processes_for, restarts


def test_one_host_is_called_alone() -> None:
    command = Torchrun(nproc_per_node=2, max_restarts=1).command("textgen", ["train"])
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-4:] == ["-m", "--", "textgen", "train"]
    text = " ".join(command)
    assert "--nnodes 1 --nproc-per-node 2 --max-restarts 1 --standalone --local-addr 127.0.0.1" in text


def test_of_several_hosts_each_is_told_which_it_is() -> None:
    torchrun = Torchrun(nproc_per_node=4, nnodes=3, node_rank=2, rdzv_endpoint="127.0.0.1:29500")
    torchrun.check()
    assert torchrun.world_size == 12
    text = " ".join(torchrun.command("textgen", []))
    assert "--rdzv-backend static --rdzv-endpoint 127.0.0.1:29500 --node-rank 2 --local-addr 127.0.0.1" in text
    assert "--standalone" not in text


def test_torchrun_itself_understands_the_calls() -> None:
    from torch.distributed.run import config_from_args, parse_args

    hosts: dict[str, Any] = {"nnodes": 2, "node_rank": 1, "rdzv_endpoint": "127.0.0.1:29500"}
    # Some are options of torchrun too, or short for one.
    arguments = ["train", "--steps", "5", "--run", "a", "--nnodes", "7", "--ma", "--", "x"]
    for more in ({}, hosts):
        command = Torchrun(nproc_per_node=2, max_restarts=5, **more).command("textgen", arguments)
        config, called, passed = config_from_args(parse_args(command[3:]))
        assert (config.nproc_per_node, config.max_restarts) == (2, 5)
        assert config.max_nodes == more.get("nnodes", 1)
        assert called == sys.executable
        assert passed == ["-u", "-m", "textgen", *arguments]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"nproc_per_node": 0}, "nproc_per_node"),
        ({"nproc_per_node": 2000}, "nproc_per_node"),
        ({"nnodes": 0}, "nnodes"),
        ({"max_restarts": -1}, "max_restarts"),
        ({"node_rank": 1}, "node_rank"),
        ({"nnodes": 2, "node_rank": 2, "rdzv_endpoint": "host:1"}, "node_rank"),
        ({"nnodes": 2, "node_rank": -1, "rdzv_endpoint": "host:1"}, "node_rank"),
        ({"rdzv_endpoint": "host:1"}, "rdzv_endpoint"),
        ({"nnodes": 2}, "rdzv_endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "host"}, "rdzv_endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": ":29500"}, "rdzv_endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "host:0"}, "rdzv_endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "host:65536"}, "rdzv_endpoint"),
    ],
)
def test_calls_that_would_wait_in_vain_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Torchrun(**given).check()
    assert caught.value.params["field"] == field


def test_a_host_that_cannot_be_found_is_told() -> None:
    torchrun = Torchrun(nnodes=2, rdzv_endpoint="nowhere.invalid:29500")
    with pytest.raises(InvalidSetting, match=r"rdzv_endpoint: nowhere\.invalid:29500 was given; allowed: a HOST"):
        torchrun.command("textgen", [])


def test_processes_share_the_cores() -> None:
    assert Torchrun(nproc_per_node=2).environment({}, threads=8)["OMP_NUM_THREADS"] == "4"
    assert Torchrun(nproc_per_node=8).environment({}, threads=2)["OMP_NUM_THREADS"] == "1"
    assert Torchrun(nproc_per_node=2).environment({"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    # What a run on the page may use is for all its processes.
    assert Torchrun(nproc_per_node=2).environment({"OMP_NUM_THREADS": "8"}, threads=8)["OMP_NUM_THREADS"] == "4"


def test_they_speak_by_the_interface_that_leads_to_the_others() -> None:
    made = Torchrun(nproc_per_node=2).environment({"HOME": "there"})
    assert made["HOME"] == "there"
    assert any(known.address == "127.0.0.1" for known in psutil.net_if_addrs()[made["GLOO_SOCKET_IFNAME"]])
    assert Torchrun(nproc_per_node=2).environment({"GLOO_SOCKET_IFNAME": "own"})["GLOO_SOCKET_IFNAME"] == "own"


def test_a_process_knows_whether_torchrun_started_it() -> None:
    assert not launched_by_torchrun({})
    # Queueing systems of clusters set these.
    assert not launched_by_torchrun({"RANK": "0", "WORLD_SIZE": "2"})
    assert launched_by_torchrun({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"})
    assert restarts({}) == 0
    assert restarts({"TORCHELASTIC_RESTART_COUNT": "2"}) == 2


def test_streams_are_shared_out_evenly() -> None:
    assert [processes_for(16, most) for most in (1, 2, 3, 4, 7, 100)] == [1, 2, 2, 4, 4, 16]
    assert processes_for(1, 8) == 1
