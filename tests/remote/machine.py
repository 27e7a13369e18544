"""Plays the machine of a job: its volume is a folder, its command a process, its log what that writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.hub_server import Hub, Job

# In place of pip: this environment has all that is needed, so the source is only unpacked where Python looks for it.
PIP = """
import sys, tarfile
from pathlib import Path
with tarfile.open(sys.argv[-1]) as archive:
    for member in archive:
        member.name = member.name.partition("/")[2]
        archive.extract(member, Path(__file__).parents[1], filter="data")
"""


class Machine:
    """For `Hub.on_job`; `join` waits until the job is over."""

    def __init__(self, hub: Hub, root: Path) -> None:
        self._hub = hub
        self._threads: list[threading.Thread] = []
        self.volume = root / "volume"
        self.site = root / "site"
        self.temporary = root / "tmp"
        self.temporary.mkdir(parents=True)
        (self.site / "pip").mkdir(parents=True)
        (self.site / "pip" / "__init__.py").touch()
        (self.site / "pip" / "__main__.py").write_text(PIP)

    def __call__(self, job: Job) -> None:
        thread = threading.Thread(target=self._run, args=(job,))
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, job: Job) -> None:
        (mounted,) = job.spec["volumes"]
        dataset = self._hub.repositories[f"datasets/{mounted['source']}"]
        assert mounted["revision"] == dataset.sha
        for name, data in dataset.files.items():
            (self.volume / name).parent.mkdir(parents=True, exist_ok=True)
            (self.volume / name).write_bytes(data)
        program, *arguments = job.spec["command"]
        assert program == "python"
        process = subprocess.Popen(
            [sys.executable, *(word.replace(mounted["mountPath"], str(self.volume)) for word in arguments)],
            env={**self._environment(), **job.spec["environment"], **job.spec["secrets"]},
            cwd=self.temporary,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            job.write(line.rstrip("\n"))
        status = process.wait()
        job.end("ERROR" if status else "COMPLETED", f"Job failed with exit code: {status}" if status else None)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {
            "HF_ENDPOINT": self._hub.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(self.temporary.parent / "hf"),
        }
        # Were it pip itself that ran, it must touch neither this environment nor the network. And functions would be
        # compiled anew in another place: for so little it is quicker without.
        safe = {"PIP_TARGET": str(self.site), "PIP_NO_INDEX": "1", "NUMBA_DISABLE_JIT": "1"}
        return {**kept, **own, **safe, "PYTHONPATH": str(self.site), "TMPDIR": str(self.temporary)}
