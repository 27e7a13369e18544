"""The real client of the Hub against a server on this machine: what is uploaded, what is asked for, what follows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.hub_server import STRANGER, WRITER, Hub, Job, Repository, hub_server
from tests.remote.machine import Machine
from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.errors import HubForbidden, HubUnreachable, InvalidSetting, JobFailed, MissingFile, TextgenError
from textgen.jobs.training_run import start_run
from textgen.model.checkpoint import load_checkpoint
from textgen.remote.hf_jobs import IMAGE, JobOptions, TrainingJob, start_training, timeout_seconds

pytestmark = pytest.mark.slow

REPO, DATASET = "anna/tales", "datasets/anna/tales-job"
ROOT = Path(__file__).parents[2]
UPLOADED = {"texts/0001/small.txt", "config.json", "README.md", "constraints.txt", "source.tar.gz", "run.py"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub
        for job in hub.jobs:
            job.end("CANCELED")


@pytest.fixture
def settings(small_text: Path) -> RunSettings:
    return RunSettings(
        files=(str(small_text),),
        sample_prompts=("Mira ",),
        text=TextSettings(vocab_size=300),
        model=ModelSettings(embedding_size=8, hidden_size=8),
        training=TrainingSettings(minutes=60, seed=3, evaluations=2, precision="fp32"),
    )


def start(hub: Hub, settings: RunSettings, *, token: Any = WRITER, **options: Any) -> TrainingJob:
    asked = JobOptions(**{"push_to": REPO, **options})
    return start_training(settings, asked, token=token, endpoint=hub.address)


def spec(hub: Hub) -> dict[str, Any]:
    (job,) = hub.jobs
    return job.spec


class TestRequest:
    def test_is_exactly_this(self, hub: Hub, settings: RunSettings) -> None:
        job = start(hub, settings)
        # An hour and a half, 20 minutes to install, 10 to push; training ends 10 minutes before the job does.
        assert spec(hub) == {
            "dockerImage": IMAGE,
            "command": [
                *("python", "/job/run.py", "--push-to", REPO, "--device", "cpu"),
                *("--stop-after", str(90 * 60 + 20 * 60)),
            ],
            "arguments": [],
            "environment": {"PYTHONUNBUFFERED": "1"},
            "secrets": {"HF_TOKEN": WRITER},
            "flavor": "cpu-upgrade",
            "timeoutSeconds": 120 * 60,
            "labels": {"app": "textgen-studio", "task": "train", "name": "textgen-tales"},
            "volumes": [
                {
                    "type": "dataset",
                    "source": "anna/tales-job",
                    "mountPath": "/job",
                    "revision": hub.repositories[DATASET].sha,
                    "readOnly": True,
                }
            ],
        }
        assert job.url == f"{hub.address}/jobs/anna/{hub.jobs[0].job_id}"
        assert job.reference == f"anna/{hub.jobs[0].job_id}"
        assert job.model_url == f"{hub.address}/{REPO}"
        assert job.dataset_url == f"{hub.address}/{DATASET}"
        assert job.max_usd == pytest.approx(120 * 0.0005)

    def test_takes_the_python_of_the_space(self) -> None:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert f"python:{yaml.safe_load(readme.split('---')[1])['python_version']}" == IMAGE

    def test_what_is_uploaded_is_private_and_no_more_than_needed(
        self, hub: Hub, settings: RunSettings, small_text: Path
    ) -> None:
        start(hub, settings, public=True)
        assert not hub.repositories[REPO].private
        found = hub.repositories[DATASET]
        assert found.private
        assert found.files.keys() == UPLOADED
        assert found.files["texts/0001/small.txt"] == small_text.read_bytes()
        assert found.files["run.py"] == (ROOT / "textgen" / "remote" / "script.py").read_bytes()
        written = json.loads(found.files["config.json"])
        assert written == {**settings.model_dump(mode="json"), "files": ["texts/0001/small.txt"]}
        assert "--public" in spec(hub)["command"]

    def test_the_token_is_a_secret_and_nothing_else(self, hub: Hub, settings: RunSettings) -> None:
        start(hub, settings)
        rest = {name: value for name, value in spec(hub).items() if name != "secrets"}
        files = hub.repositories[DATASET].files
        contents = [*files.values(), gzip.decompress(files["source.tar.gz"]), json.dumps(rest).encode()]
        paths = [f"{method} {path}".encode() for method, path, _ in hub.asked]
        # The name that the tests give it is in no file of the package.
        assert not any(WRITER.encode() in content for content in [*contents, *paths])

    def test_a_gpu_is_used_or_missed(self, hub: Hub, settings: RunSettings) -> None:
        start(hub, settings, flavor="t4-small", timeout="1.5h", quiet=True)
        assert spec(hub)["flavor"] == "t4-small"
        assert spec(hub)["timeoutSeconds"] == 5400
        assert spec(hub)["command"][4:] == ["--device", "cuda", "--stop-after", "4800", "--quiet"]

    def test_a_later_job_reads_its_own_texts_only(self, hub: Hub, settings: RunSettings, tmp_path: Path) -> None:
        (tmp_path / "other.txt").write_text("other text")
        start(hub, settings)
        hub.repositories[DATASET].files[".gitattributes"] = b""
        start(hub, settings.model_copy(update={"files": (str(tmp_path / "other.txt"),)}))
        renamed = UPLOADED - {"texts/0001/small.txt"} | {"texts/0001/other.txt", ".gitattributes"}
        assert hub.repositories[DATASET].files.keys() == renamed
        first, second = (job.spec["volumes"][0]["revision"] for job in hub.jobs)
        assert first != second == hub.repositories[DATASET].sha


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"push_to": "tales"}, "push_to: tales was given; allowed: USER/NAME"),
            ({"push_to": "anna/" + "x" * 93}, "push_to"),
            ({"timeout": "soon"}, "timeout: soon was given; allowed: a time like 90m, 3h or 1d, from 30m to 30d"),
            ({"token": False}, "token: none was given"),
            ({"token": "a b"}, "token: something else was given"),
        ],
    )
    def test_nobody_is_asked_for_what_cannot_be(
        self, hub: Hub, settings: RunSettings, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidSetting) as caught:
            start(hub, settings, **options)
        assert message in str(caught.value)
        assert hub.asked == []

    def test_nor_for_texts_that_are_not_there(self, hub: Hub, settings: RunSettings) -> None:
        with pytest.raises(MissingFile):
            start(hub, settings.model_copy(update={"files": ("gone.txt",)}))
        assert hub.asked == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"flavor": "abacus"}, "flavor: abacus was given; allowed: cpu-basic, cpu-upgrade, t4-small."),
            ({"device": "cuda"}, "device: cuda was given; allowed: auto or cpu with cpu-upgrade."),
            ({"device": "mps", "flavor": "t4-small"}, "device: mps"),
        ],
    )
    def test_a_machine_that_is_not_there_costs_nothing(
        self, hub: Hub, settings: RunSettings, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidSetting) as caught:
            start(hub, settings, **options)
        assert message in str(caught.value)
        assert hub.repositories == {}

    @pytest.mark.parametrize("token", ["hf_wrong", STRANGER])
    def test_a_token_that_may_not_write_is_told_before_anything_is_uploaded(
        self, hub: Hub, settings: RunSettings, token: str
    ) -> None:
        with pytest.raises(HubForbidden) as caught:
            start(hub, settings, token=token)
        assert token not in f"{caught.value}{caught.value.params}{caught.value.__cause__}"
        assert (hub.repositories, hub.jobs) == ({}, [])

    @pytest.mark.parametrize(
        ("name", "there", "message"),
        [
            (REPO, Repository(), "push_to: anna/tales was given; allowed: a new name: a public repository"),
            (REPO, Repository(private=True, files={"model.safetensors": b""}), "a model of another kind"),
            (DATASET, Repository(), "anna/tales-job was given; allowed: a new name: a public repository"),
            (DATASET, Repository(private=True, files={"a.csv": b""}), "a new name: a dataset with a.csv is there"),
        ],
    )
    def test_what_others_keep_there_stays(
        self, hub: Hub, settings: RunSettings, name: str, there: Repository, message: str
    ) -> None:
        hub.repositories[name] = there
        before = dict(there.files)
        with pytest.raises(InvalidSetting) as caught:
            start(hub, settings)
        assert message in str(caught.value)
        assert there.files == before
        assert hub.jobs == []

    def test_a_hub_in_trouble_is_told(self, hub: Hub, settings: RunSettings) -> None:
        hub.fails = lambda method, path: method == "POST" and path.startswith("/api/jobs/")
        with pytest.raises(HubUnreachable, match="out of order"):
            start(hub, settings)


@pytest.mark.parametrize(
    ("given", "seconds"), [("30m", 1800), ("3h", 10_800), ("1.5h", 5400), ("30d", 2_592_000), ("7200s", 7200)]
)
def test_times_are_told_with_their_unit(settings: RunSettings, given: str, seconds: int) -> None:
    assert timeout_seconds(settings, given) == seconds


@pytest.mark.parametrize(
    "given", ["", "3", "h", "-3h", "29m", "31d", "3 h", "3h\n", "1e3m", "nand", "9999999999h", "٣h"]
)
def test_other_times_are_refused(settings: RunSettings, given: str) -> None:
    with pytest.raises(InvalidSetting, match="timeout"):
        timeout_seconds(settings, given)


def test_how_long_steps_take_there_is_not_known() -> None:
    with pytest.raises(InvalidSetting, match="timeout: nothing was given; allowed: a time like 3h with a budget"):
        timeout_seconds(RunSettings(training=TrainingSettings(steps=5)), None)


class TestFollowing:
    def test_its_log_is_told_until_it_ends(self, hub: Hub, settings: RunSettings) -> None:
        job = start(hub, settings)
        log = job.log()
        for line in ("Installing.", "", "训练"):
            hub.jobs[0].write(line)
            assert next(log) == line
        hub.jobs[0].end("COMPLETED")
        assert list(log) == []
        assert job.stage == "COMPLETED"

    @pytest.mark.parametrize("stage", ["ERROR", "CANCELED", "DELETED"])
    def test_a_job_that_fails_is_told(self, hub: Hub, settings: RunSettings, stage: str) -> None:
        job = start(hub, settings)
        hub.jobs[0].write("pip: no such thing")
        hub.jobs[0].end(stage, f"Job failed\nwith exit code: 1 {WRITER}")
        log = job.log()
        assert next(log) == "pip: no such thing"
        with pytest.raises(JobFailed) as caught:
            next(log)
        reason = "Job failed with exit code: 1 …"
        assert str(caught.value) == f"The job ended as {stage}: {reason}. What it wrote is at {job.url}."

    def test_a_job_that_never_began_is_told(self, hub: Hub, settings: RunSettings) -> None:
        hub.on_job = lambda job: job.end("CANCELED")
        with pytest.raises(JobFailed, match="CANCELED: no reason was given"):
            list(start(hub, settings).log())

    def test_a_hub_that_is_gone_meanwhile_is_told(self, hub: Hub, settings: RunSettings) -> None:
        job = start(hub, settings)
        hub.fails = lambda method, path: "/jobs/" in path
        with pytest.raises(HubUnreachable, match="out of order"):
            list(job.log())

    def test_one_without_a_machine_yet_is_waited_for(self, hub: Hub, settings: RunSettings) -> None:
        def begin(job: Job) -> None:
            job.stage = "SCHEDULING"

        hub.on_job = begin
        job = start(hub, settings)
        job._poll_seconds = 0.01
        hub.jobs[0].stage = "RUNNING"
        hub.jobs[0].end("COMPLETED")
        assert list(job.log()) == []


@pytest.mark.slow
def test_the_job_makes_the_model_that_this_machine_would(hub: Hub, settings: RunSettings, tmp_path: Path) -> None:
    machine = Machine(hub, tmp_path / "machine")
    hub.on_job = machine
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"minutes": None, "steps": 6})}
    )
    lines: list[str] = []
    try:
        job = start(hub, settings, timeout="1h")
        lines += job.log()
    except TextgenError as error:
        pytest.fail(f"{error}\n" + "\n".join(lines))
    finally:
        machine.join()
    assert lines[:2] == ["Installing Textgen Studio, which takes some minutes.", "Training."]
    assert lines[-1] == f"It is at {hub.address}/{REPO}"
    assert hub.repositories[REPO].private
    # It was this source that ran, and it read its files without changing them.
    assert (machine.site / "textgen" / "remote" / "hf_jobs.py").is_file()
    volume = {path.relative_to(machine.volume).as_posix() for path in machine.volume.rglob("*") if path.is_file()}
    assert volume == UPLOADED
    assert list(machine.temporary.glob("textgen-*")) == []
    written = [path.read_bytes() for path in (tmp_path / "machine").rglob("*") if path.is_file()]
    written += [*hub.repositories[REPO].files.values(), "\n".join(lines).encode()]
    assert not any(WRITER.encode() in content for content in written)

    for _ in start_run(tmp_path / "tales", settings, device="cpu").events():
        pass
    for name, data in hub.repositories[REPO].files.items():
        (tmp_path / "pushed" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pushed" / name).write_bytes(data)
    there, here = load_checkpoint(tmp_path / "pushed"), load_checkpoint(tmp_path / "tales" / "checkpoints" / "best")
    halved = {name: tensor.half().float() for name, tensor in here.model.state_dict().items()}
    torch.testing.assert_close(there.model.state_dict(), halved, rtol=0, atol=0)
    assert there.lineage == here.lineage
    assert there.copy_index == here.copy_index
    assert "# tales\n" in there.card
