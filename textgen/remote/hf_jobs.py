"""Training on Hugging Face Jobs: the text goes into a private dataset there, the model comes back as a repository.

The job is a plain Python image with that dataset, at the very commit that was uploaded, mounted read-only. It is given
the token as a secret, to push the model with; the token is in no file, command or label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.config import DeviceName, RunSettings
from textgen.errors import InvalidSetting, JobFailed
from textgen.files import temporary_folder
from textgen.hub.client import Token, check_repo_id, explained, one_line, open_client, writing_token
from textgen.hub.models import prepare_model
from textgen.hub.repositories import file_names, make_repository, upload_files
from textgen.progress import ProgressCallback, ignore_progress
from textgen.remote.bundle import SCRIPT, is_bundle_file, make_bundle
from textgen.remote.script import TOKEN

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo, JobStage

# The Python of the Space, see README.md.
IMAGE = "python:3.12"
MOUNT = "/job"
DEFAULT_FLAVOR = "cpu-upgrade"

_SUFFIX = "-job"
_INSTALL_SECONDS = 1_200
_PUSH_SECONDS = 600
# Evaluations and samples are not always within a budget of minutes, and neither is the reading of the text.
_SLACK = 1.5
_MIN_SECONDS = _INSTALL_SECONDS + _PUSH_SECONDS
_MAX_SECONDS = 30 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3_600}


@dataclass(frozen=True)
class JobOptions:
    """Where the model goes and what the job may take. `timeout` is like 3h, 90m or 1d; None: what the budget needs."""

    push_to: str
    flavor: str = DEFAULT_FLAVOR
    timeout: str | None = None
    public: bool = False
    device: DeviceName = "auto"
    quiet: bool = False


class TrainingJob:
    """A job that was started. `max_usd` is what it costs if it takes all its time; None where the Hub does not say."""

    def __init__(
        self,
        api: HfApi,
        info: JobInfo,
        *,
        model: str,
        dataset: str,
        timeout_seconds: int,
        max_usd: float | None,
        poll_seconds: float = 2.0,
    ) -> None:
        self._api = api
        self._owner = info.owner.name
        self._poll_seconds = poll_seconds
        self.job_id = info.id
        self.url = info.url
        self.stage = str(info.status.stage)
        self.model = model
        self.model_url = f"{api.endpoint}/{model}"
        self.dataset_url = f"{api.endpoint}/datasets/{dataset}"
        self.timeout_seconds = timeout_seconds
        self.max_usd = max_usd

    @property
    def reference(self) -> str:
        """OWNER/ID, by which the `hf jobs` commands know it."""
        return f"{self._owner}/{self.job_id}"

    def log(self) -> Iterator[str]:
        """The lines that the job writes, as it writes them, until it ends; `stage` is then its last.

        Raises `JobFailed` when it ends otherwise than well, `HubUnreachable`, `HubForbidden`, `HubRefused` when it can
        no longer be followed: it then runs on, as it does when nobody follows it.
        """
        from huggingface_hub import JobStage

        with explained(self.url, self._api.endpoint, self._api.token):
            # Before it has a machine its log may end at once.
            self._wait([JobStage.RUNNING])
            for line in self._api.fetch_job_logs(job_id=self.job_id, namespace=self._owner, follow=True):
                yield line.rstrip("\r\n")
            info = self._wait()
            if self.stage != JobStage.COMPLETED:
                reason = one_line(info.status.message or "no reason was given", self._api.token)
                raise JobFailed(self.stage, reason, self.url)

    def _wait(self, stages: list[JobStage] | None = None) -> JobInfo:
        info = self._api.wait_for_job(
            self.job_id, namespace=self._owner, stages=stages, poll_interval=self._poll_seconds
        )
        self.stage = str(info.status.stage)
        return info


def start_training(
    settings: RunSettings,
    options: JobOptions,
    *,
    token: Token = None,
    endpoint: str | None = None,
    progress: ProgressCallback = ignore_progress,
) -> TrainingJob:
    """Uploads what the job needs and starts it.

    The repository of the model is made first: a token that may not write there is found out before anything is paid.
    Raises `InvalidSetting` for options that do not fit together or the Hub does not have, for repositories that hold
    something else and for no token; what `make_bundle` raises; `HubForbidden`, `HubUnreachable`, `HubRefused`.
    """
    dataset = options.push_to + _SUFFIX
    check_repo_id(options.push_to, field="push_to")
    check_repo_id(dataset, field="push_to")
    timeout = timeout_seconds(settings, options.timeout)
    token = writing_token(token)
    with temporary_folder() as folder:
        files = make_bundle(settings, folder)
        api = open_client(token, endpoint)
        with explained(options.push_to, api.endpoint, token):
            hardware = _hardware(api, options.flavor)
            device = _device(options, hardware)
            prepare_model(api, options.push_to, private=not options.public, field="push_to")
        with explained(dataset, api.endpoint, token):
            commit = _upload(api, dataset, dict(files), progress)
            info = _run(api, options, dataset, commit, device, timeout, token)
    return TrainingJob(
        api,
        info,
        model=options.push_to,
        dataset=dataset,
        timeout_seconds=timeout,
        max_usd=_max_usd(hardware, timeout),
    )


def timeout_seconds(settings: RunSettings, given: str | None) -> int:
    """For how long the job may run: as `given`, or as a budget of minutes needs, with time to install and push.

    Raises `InvalidSetting` for what is no such time, and for none with a budget of steps or epochs: how long those take
    on that machine is not known here.
    """
    minutes = settings.training.minutes
    if given is None and minutes is None:
        raise InvalidSetting("timeout", "nothing", "a time like 3h with a budget of steps or epochs")
    if given is None:
        seconds = (minutes or 0.0) * 60 * _SLACK + _MIN_SECONDS
    else:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", given)
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        allowed = f"a time like 90m, 3h or 1d, from {_MIN_SECONDS // 60}m to {_MAX_SECONDS // 86_400}d"
        raise InvalidSetting("timeout", given or f"{minutes:g} minutes of training", allowed)
    return int(seconds)


def _hardware(api: HfApi, flavor: str) -> Any:
    known = {item.name: item for item in api.list_jobs_hardware()}
    if flavor not in known:
        raise InvalidSetting("flavor", flavor, ", ".join(known))
    return known[flavor]


def _device(options: JobOptions, hardware: Any) -> DeviceName:
    """A GPU that is paid for is used or missed at once: `auto` would go on without it."""
    there: DeviceName = "cuda" if hardware.accelerator is not None and hardware.accelerator.type == "gpu" else "cpu"
    if options.device == "auto":
        return there
    if options.device not in ("cpu", there):
        raise InvalidSetting("device", options.device, f"auto or cpu with {options.flavor}")
    return options.device


def _upload(api: HfApi, dataset: str, files: dict[str, Path], progress: ProgressCallback) -> str:
    make_repository(api, dataset, private=True, repo_type="dataset", field="push_to")
    there = file_names(api, dataset, repo_type="dataset")
    for name in there:
        if not is_bundle_file(name):
            raise InvalidSetting("push_to", dataset, f"a new name: a dataset with {name} is there already")
    stale = [name for name in there if name not in files and name != ".gitattributes"]
    message = "Upload a training job with Textgen Studio"
    return upload_files(api, dataset, files, stale, message, repo_type="dataset", progress=progress)


def _run(
    api: HfApi, options: JobOptions, dataset: str, commit: str, device: DeviceName, timeout: int, token: str
) -> JobInfo:
    from huggingface_hub import Volume

    command = ["python", f"{MOUNT}/{SCRIPT}", "--push-to", options.push_to, "--device", device]
    command += ["--stop-after", str(timeout - _PUSH_SECONDS)]
    command += [flag for flag, given in (("--public", options.public), ("--quiet", options.quiet)) if given]
    return api.run_job(
        image=IMAGE,
        command=command,
        env={"PYTHONUNBUFFERED": "1"},
        secrets={TOKEN: token},
        flavor=options.flavor,
        timeout=timeout,
        name=re.sub(r"[^A-Za-z0-9_-]", "-", f"textgen-{options.push_to.rpartition('/')[2]}"),
        labels={"app": "textgen-studio", "task": "train"},
        # Of this commit: another job for the same model may change the dataset while this one waits for a machine.
        volumes=[Volume(type="dataset", source=dataset, mount_path=MOUNT, revision=commit, read_only=True)],
    )


def _max_usd(hardware: Any, timeout: int) -> float | None:
    unit = _UNIT_SECONDS.get(hardware.unit_label)
    return None if unit is None else hardware.unit_cost_usd * timeout / unit
