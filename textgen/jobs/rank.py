"""This process as one of those that train a run together, or as the only one.

As a program it trains a run of the queue under torchrun: `python -m torch.distributed.run … -m textgen.jobs.rank …`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from textgen.config import DeviceName, RunSettings, TrainingBudget, parse_settings
from textgen.errors import Abandoned, TextgenError
from textgen.jobs.following import FollowingRun, follow_run
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.supervision import Supervised
from textgen.jobs.torchrun import restarts
from textgen.jobs.training_run import TrainingRun, resume_run, start_run
from textgen.jobs.unattended import Asked, Preparing, carry_out, look_ahead
from textgen.limits import Limits
from textgen.progress import ProgressCallback
from textgen.training.distributed import Ranks, is_lost_rank, join_ranks


@dataclass(frozen=True)
class Rank:
    """Starts or takes up runs for all ranks at once: rank 0 gets the run itself, the others what follows it."""

    ranks: Ranks
    device: DeviceName
    supervised: Supervised
    restarted: bool

    @property
    def leads(self) -> bool:
        """Whether it is this one that writes and tells."""
        return self.ranks.leads

    def start(
        self, path: Path, settings: RunSettings, *, limits: Limits | None = None, progress: ProgressCallback
    ) -> TrainingRun | FollowingRun:
        """`start_run`; what torchrun starts again goes on with the run that it had begun."""
        if not self.leads or (self.restarted and RunFolder(path).config.is_file()):
            return self.resume(path, limits=limits, progress=progress)
        process = self.supervised.supervisor
        return start_run(
            path, settings, device=self.device, limits=limits, progress=progress, ranks=self.ranks, process=process
        )

    def resume(
        self,
        path: Path,
        *,
        longer: TrainingBudget | None = None,
        limits: Limits | None = None,
        progress: ProgressCallback,
    ) -> TrainingRun | FollowingRun:
        """`resume_run`; a run that is trained `longer` is so once, however often torchrun starts again."""
        if not self.leads:
            return follow_run(path, self.ranks, longer=longer, device=self.device, limits=limits)
        folder, starter = RunFolder(path), self.supervised.starter
        if self.restarted and starter is not None and starter.is_same(folder.read_about().get("extended_by")):
            longer = None
        run = resume_run(
            path,
            longer=longer,
            device=self.device,
            limits=limits,
            progress=progress,
            ranks=self.ranks,
            process=self.supervised.supervisor,
        )
        if longer is not None and starter is not None:
            folder.write_about(extended_by=asdict(starter))
        return run

    @contextmanager
    def obeying(self, run: TrainingRun | FollowingRun) -> Iterator[None]:
        """Lets the run end when the supervisor asks for it or is gone, and when torchrun passes a signal on."""

        def stop(number: int, _frame: FrameType | None) -> None:
            run.stop("stopped" if number == signal.SIGINT else "interrupted")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        self.supervised.watch(run.stop)
        try:
            yield
        finally:
            self.supervised.close()
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def joined(environment: Mapping[str, str], device: DeviceName) -> Iterator[Rank]:
    """The ranks that torchrun started, this one among them, for as long as the context lasts.

    Where an earlier start of them has done it all, this process ends. An error of ours that leaves the context ends all
    of them. It goes on to the supervisor where there is one, and this process then ends.
    """
    supervised = Supervised(environment)
    if supervised.finished:
        raise SystemExit(0)
    ranks = Ranks()
    try:
        ranks, device = join_ranks(environment, device)
        yield Rank(ranks, device, supervised, restarts(environment) > 0)
        if ranks.leads:
            # All has been written and told. The others say so when they know that it has.
            supervised.finish()
        if ranks.part():
            supervised.finish()
    except TextgenError as error:
        if not isinstance(error, Abandoned):
            ranks.abandon()
        if supervised.tell(error):
            raise SystemExit(0) from error
        raise
    except Asked:
        ranks.abandon()
        raise
    except RuntimeError as error:
        if ranks.alone or not is_lost_rank(error):
            raise
        # Torchrun starts all again; where from is what matters then, and where in the code it was does not.
        raise SystemExit("A process that trained with this one has ended.") from error
    finally:
        ranks.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains a run of the queue as one of several processes; exit status 0, 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m textgen.jobs.rank")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-minutes", type=float, required=True)
    parser.add_argument("--longer", type=json.loads)
    parser.add_argument("--limits", type=Limits.from_json, default=Limits())
    options = parser.parse_args(arguments)
    longer = None if options.longer is None else parse_settings(TrainingBudget, options.longer)
    try:
        with joined(os.environ, options.device) as rank:
            folder = RunFolder(options.run, process=rank.supervised.supervisor)
            preparing = Preparing(folder, rank.supervised.asked)
            run = rank.resume(options.run, longer=longer, limits=options.limits, progress=preparing)
            with rank.obeying(run):
                _train(run, options.max_minutes)
    except Asked:
        return 0
    return 0


def _train(run: TrainingRun | FollowingRun, max_minutes: float) -> None:
    begins = run.trainer.step == 0
    if isinstance(run, TrainingRun):
        if begins:
            look_ahead(run)
        return carry_out(run, run.stop, max_minutes=max_minutes)
    if begins:
        run.estimate()
    for _ in run.events():
        pass
    return None


if __name__ == "__main__":
    sys.exit(main())
