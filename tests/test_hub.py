"""The real client of the Hub against a server on this machine."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.hub_server import STRANGER, WRITER, Hub, Repository, hub_server
from textgen.config import ModelSettings
from textgen.errors import (
    BadCheckpoint,
    HubForbidden,
    HubGated,
    HubNoRevision,
    HubNotFound,
    HubRefused,
    HubUnreachable,
    InvalidSetting,
    NoRoom,
    TextgenError,
)
from textgen.hub import MAX_FILE_BYTES, base_on_hub, hub_card, pull, push, split_address
from textgen.hub.client import explained
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, load_checkpoint, read_model_settings, save_checkpoint
from textgen.model.front_matter import join_card, split_card
from textgen.model.language_model import LanguageModel
from textgen.progress import FINISHING, Progress

pytestmark = pytest.mark.slow

REPO = "anna/tales"
LIMITS = Limits(min_free_disk_bytes=1)
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(trained_run: Path) -> Path:
    return trained_run / "checkpoints" / "best"


@pytest.fixture
def pushed(hub: Hub, folder: Path) -> Repository:
    push(folder, REPO, token=WRITER, endpoint=hub.address)
    return hub.repositories[REPO]


Pull = Callable[..., str]


@pytest.fixture
def pull_it(hub: Hub, tmp_path: Path) -> Pull:
    def act(**options: Any) -> str:
        given = {"endpoint": hub.address, "downloads": tmp_path / "downloads", "limits": LIMITS, "token": False}
        return pull(options.pop("repo_id", REPO), tmp_path / "out", **{**given, **options})

    return act


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.half().float() for name, tensor in weights.items()}


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    torch.testing.assert_close(found.model.state_dict(), halved(expected.model.state_dict()), rtol=0, atol=0)
    assert found.tokenizer_bytes == expected.tokenizer_bytes
    assert found.copy_index == expected.copy_index
    assert found.figures == expected.figures


def test_a_mistake_of_the_program_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    said = "Bearer hf_" + "secret"
    with pytest.raises(HubRefused), explained(REPO, "https://hub.invalid", "hf_" + "secret"):
        raise KeyError(said)
    assert "KeyError" in caplog.text
    assert __file__ in caplog.text
    assert "hf_secret" not in caplog.text


class Cut:
    """Cuts the connection once, in the middle of a file; `made`: it has."""

    AFTER = 40_000

    def __init__(self, name: str) -> None:
        self._name = name
        self.made = False

    def __call__(self, name: str, start: int) -> None:
        if name == self._name and start >= self.AFTER and not self.made:
            self.made = True
            raise ConnectionAbortedError


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left(folder: Path) -> list[str]:
    """What lies in a folder of downloads, but for the empty files that say that somebody is at it."""
    return [path.name for path in folder.glob("*") if path.suffix != ".lock"]


class TestRoundTrip:
    def test_a_model_comes_back_as_it_went(self, hub: Hub, folder: Path, pull_it: Pull, tmp_path: Path) -> None:
        assert push(folder, REPO, token=WRITER, endpoint=hub.address) == f"{hub.address}/{REPO}"
        told: list[Progress] = []
        commit = pull_it(progress=told.append)
        assert commit == hub.repositories[REPO].sha
        assert_same(load_checkpoint(tmp_path / "out"), load_checkpoint(folder))
        assert read_model_settings(tmp_path / "out")[1]["weight_format"] == "float16"
        assert left(tmp_path / "downloads") == []
        amounts = [item.done for item in told if item.stage == "downloading"]
        assert amounts == sorted(amounts)
        assert amounts[-1] == max(amounts) == next(item.total for item in told)

    def test_large_weights_go_in_several_files(self, hub: Hub, folder: Path, pull_it: Pull, tmp_path: Path) -> None:
        tokenizer = load_checkpoint(folder)
        shape = ModelSettings(vocab_size=tokenizer.model.settings.vocab_size, embedding_size=512, hidden_size=1024)
        model = LanguageModel(shape)
        model.reset_parameters(0)
        large = replace(tokenizer, model=model)
        save_checkpoint(tmp_path / "large", large)
        told: list[Progress] = []
        push(tmp_path / "large", REPO, token=WRITER, endpoint=hub.address, progress=told.append)
        files = hub.repositories[REPO].files
        assert sum(name.startswith("model") and name.endswith(".safetensors") for name in files) >= 2
        assert max(map(len, files.values())) <= MAX_FILE_BYTES
        *uploading, last = told
        assert uploading[-1].done == uploading[-1].total
        assert last.stage == FINISHING
        pull_it()
        assert_same(load_checkpoint(tmp_path / "out"), large)
        # A smaller model in its place: nothing of the larger one may stay.
        push(folder, REPO, token=WRITER, endpoint=hub.address)
        assert [name for name in files if name.startswith("model") and "safetensors" in name] == [WEIGHTS]
        pull_it()
        assert_same(load_checkpoint(tmp_path / "out"), load_checkpoint(folder))

    def test_what_is_there_is_not_sent_again(self, hub: Hub, folder: Path) -> None:
        """What broke off goes on with the files that are missing."""

        def sent() -> int:
            return sum(method == "PUT" for method, *_ in hub.asked)

        push(folder, REPO, token=WRITER, endpoint=hub.address)
        first = sent()
        assert first > 0
        del hub.repositories[REPO]
        push(folder, REPO, token=WRITER, endpoint=hub.address)
        assert sent() == first
        assert WEIGHTS in hub.repositories[REPO].files

    def test_what_others_keep_beside_it_stays(self, hub: Hub, folder: Path) -> None:
        hub.repositories[REPO] = Repository(
            files={"notes.txt": b"mine", "model-00001-of-00002.safetensors": b"old", "tokenizer.model": b"old"}
        )
        push(folder, REPO, token=WRITER, endpoint=hub.address)
        files = hub.repositories[REPO].files
        assert files["notes.txt"] == b"mine"
        assert "model-00001-of-00002.safetensors" not in files

    def test_a_model_of_another_kind_is_not_replaced(self, hub: Hub, folder: Path) -> None:
        hub.repositories[REPO] = Repository(files={"config.json": b"{}", "model.safetensors": b"theirs"})
        with pytest.raises(InvalidSetting, match="a model of another kind"):
            push(folder, REPO, token=WRITER, endpoint=hub.address)
        assert hub.repositories[REPO].files["model.safetensors"] == b"theirs"

    def test_an_old_commit_can_be_had(self, hub: Hub, pushed: Repository, pull_it: Pull) -> None:
        assert pull_it(revision=pushed.sha) == pushed.sha
        with pytest.raises(HubNoRevision, match=r"^anna/tales has no revision other at 127\.0\.0\.1:\d+\.$"):
            pull_it(revision="other")

    def test_where_it_came_from_is_known_to_its_descendants(
        self, hub: Hub, pushed: Repository, folder: Path, pull_it: Pull, tmp_path: Path
    ) -> None:
        pull_it()
        base = load_checkpoint(tmp_path / "out")
        assert base.lineage["hub"] == {"repo": REPO, "commit": pushed.sha}
        child = replace(base, lineage={"files": ["a.txt"], "base": {"name": "out", "lineage": base.lineage}})
        save_checkpoint(tmp_path / "child", child)
        push(tmp_path / "child", "anna/child", token=WRITER, endpoint=hub.address)
        card = hub.repositories["anna/child"].files["README.md"].decode()
        assert split_card(card)[0]["base_model"] == REPO


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("anna/tales", "anna/tales", None),
        ("https://huggingface.co/anna/tales", "anna/tales", None),
        (" huggingface.co/anna/tales/ ", "anna/tales", None),
        ("https://hf.co/anna/tales?library=x#top", "anna/tales", None),
        ("https://huggingface.co/anna/tales/tree/v1.0", "anna/tales", "v1.0"),
        ("https://huggingface.co/anna/tales/tree/refs%2Fpr%2F1", "anna/tales", "refs/pr/1"),
        ("https://huggingface.co/anna/tales/blob/main/config.json", "anna/tales", "main"),
        ("http://mirror:80/anna/tales/tree/main/", "anna/tales", "main"),
        *(
            (other, other, None)
            for other in ("https://huggingface.co/datasets/anna/tales", "tales", "", "https://[/a/b")
        ),
        *((other, other, None) for other in ("https://example.org/anna/tales", "https://huggingface.co/anna")),
    ],
)
def test_the_address_of_a_page_names_a_model(text: str, repo: str, revision: str | None) -> None:
    assert split_address(text, "http://mirror:80") == (repo, revision)


class TestPush:
    def test_private_is_private(self, hub: Hub, folder: Path, pull_it: Pull, tmp_path: Path) -> None:
        push(folder, REPO, token=WRITER, private=True, endpoint=hub.address)
        assert hub.repositories[REPO].private
        with pytest.raises(HubNotFound):
            pull_it()
        with pytest.raises(HubNotFound):
            pull_it(token=STRANGER)
        pull_it(token=f" {WRITER}\n")
        assert_same(load_checkpoint(tmp_path / "out"), load_checkpoint(folder))

    def test_nothing_private_goes_into_a_public_repository(self, hub: Hub, pushed: Repository, folder: Path) -> None:
        before = dict(pushed.files)
        with pytest.raises(InvalidSetting, match="public"):
            push(folder, REPO, token=WRITER, private=True, endpoint=hub.address)
        assert pushed.files == before

    @pytest.mark.parametrize(
        ("token", "error"),
        [
            *((token, InvalidSetting) for token in (False, None, "", "zwölf", "a b")),
            *((token, HubForbidden) for token in ("hf_wrong", STRANGER)),
        ],
    )
    def test_the_token_decides(
        self,
        hub: Hub,
        folder: Path,
        token: str | bool | None,
        error: type[TextgenError],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(error) as caught:
            push(folder, REPO, token=token, endpoint=hub.address)
        assert hub.repositories == {}
        if isinstance(token, str) and token:
            assert token not in str(caught.value)
            assert token not in repr(caught.value.params)

    def test_no_token_means_the_one_the_machine_is_logged_in_with(
        self, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.get_token", lambda: WRITER)
        push(folder, REPO, endpoint=hub.address)
        assert REPO in hub.repositories

    def test_a_card_that_the_hub_refuses_is_told(self, hub: Hub, folder: Path, tmp_path: Path) -> None:
        card = "---\nlicense: whatever\n---\n# x\n"
        save_checkpoint(tmp_path / "odd", replace(load_checkpoint(folder), card=card))
        with pytest.raises(HubRefused, match="license: not one of those known"):
            push(tmp_path / "odd", REPO, token=WRITER, endpoint=hub.address)
        assert hub.repositories[REPO].files == {}

    def test_an_upload_that_breaks_is_told_and_commits_nothing(self, hub: Hub, folder: Path) -> None:
        hub.fails = lambda method, path: method == "POST" and "/commit/" in path
        with pytest.raises(HubUnreachable):
            push(folder, REPO, token=WRITER, endpoint=hub.address)
        assert hub.repositories[REPO].files == {}

    def test_a_damaged_model_is_refused_before_anyone_is_asked(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(BadCheckpoint):
            push(tmp_path, REPO, token=WRITER, endpoint=hub.address)
        assert hub.asked == []


class TestPull:
    def test_only_what_is_data_and_known_is_downloaded(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path
    ) -> None:
        ours = set(pushed.files)
        for name in ("pytorch_model.bin", "model.py", "tokenizer.pkl", "model.safetensors.py", "a/config.json"):
            pushed.files[name] = b"import os"
        for name in (
            "copy_index.safetensors.py",
            "../config.json",
            "model-1-of-2.safetensors",
            "tokenizer.model.pickle",
        ):
            pushed.files[name] = b"import os"
        pull_it()
        assert set(hub.downloaded()) == ours
        assert {path.name for path in (tmp_path / "out").iterdir()} == ours

    @pytest.mark.parametrize(
        ("limits", "name"),
        [
            (replace(LIMITS, max_weights_bytes=10_000), WEIGHTS),
            (replace(LIMITS, max_config_bytes=10), "config.json|README.md|generation_config.json"),
            (replace(LIMITS, max_tokenizer_bytes=10), "tokenizer.model"),
            (replace(LIMITS, max_copy_indexes_bytes=10), "copy_index.safetensors"),
        ],
    )
    def test_what_is_too_large_is_refused_before_it_comes(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path, limits: Limits, name: str
    ) -> None:
        with pytest.raises(BadCheckpoint, match=rf"({name}), size: [\d,]+ bytes, where at most"):
            pull_it(limits=limits)
        assert hub.downloaded() == []
        assert not (tmp_path / "out").exists()

    def test_all_of_it_together_has_a_limit(self, hub: Hub, pushed: Repository, pull_it: Pull) -> None:
        with pytest.raises(InvalidSetting, match=r"at most 0\.1 MB at once"):
            pull_it(limits=replace(LIMITS, max_hub_bytes=100_000))
        assert hub.downloaded() == []

    def test_a_full_disk_is_told_before(self, hub: Hub, pushed: Repository, pull_it: Pull) -> None:
        with pytest.raises(NoRoom):
            pull_it(limits=replace(LIMITS, min_free_disk_bytes=10**18))
        assert hub.downloaded() == []

    def test_a_file_larger_than_listed_is_not_read_to_its_end(
        self, pushed: Repository, pull_it: Pull, tmp_path: Path
    ) -> None:
        pushed.listed[WEIGHTS] = 1_000
        with pytest.raises(BadCheckpoint, match="more than the 1,000 bytes"):
            pull_it()
        assert left(tmp_path / "downloads") == []

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.model", WEIGHTS])
    def test_what_is_no_checkpoint_is_refused_at_once(
        self, hub: Hub, pushed: Repository, pull_it: Pull, name: str
    ) -> None:
        del pushed.files[name]
        with pytest.raises(BadCheckpoint, match=f"{name}, file: missing"):
            pull_it()
        assert hub.downloaded() == []

    @pytest.mark.parametrize(
        ("name", "content"),
        [(WEIGHTS, b"\0" * 64), ("config.json", b"{}"), ("config.json", b"["), ("tokenizer.model", b"x")],
    )
    def test_damaged_files_leave_what_was_there(
        self, pushed: Repository, pull_it: Pull, tmp_path: Path, name: str, content: bytes
    ) -> None:
        pull_it()
        before = (tmp_path / "out" / WEIGHTS).read_bytes()
        pushed.files[name] = content
        with pytest.raises(BadCheckpoint, match=name):
            pull_it()
        assert (tmp_path / "out" / WEIGHTS).read_bytes() == before
        assert left(tmp_path / "downloads") == []
        assert left(tmp_path) in (["downloads", "out"], ["out", "downloads"])

    def test_whoever_pulls_may_look_closer(self, pushed: Repository, pull_it: Pull, tmp_path: Path) -> None:
        def check(folder: Path) -> None:
            assert (folder / WEIGHTS).is_file()
            raise BadCheckpoint("tokenizer.model", "vocab_size", "odd")

        with pytest.raises(BadCheckpoint, match="odd"):
            pull_it(check=check)
        assert not (tmp_path / "out").exists()

    def test_what_has_come_need_not_come_again(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path
    ) -> None:
        hub.fails = lambda method, path: method == "GET" and path.endswith("/tokenizer.model")
        with pytest.raises(HubUnreachable):
            pull_it()
        assert not (tmp_path / "out").exists()
        first = hub.downloaded()
        assert WEIGHTS in first
        hub.fails = lambda _method, _path: False
        hub.asked.clear()
        pull_it()
        assert hub.downloaded() == ["tokenizer.model"]
        assert left(tmp_path / "downloads") == []

    @pytest.mark.parametrize("gives_parts", [True, False])
    def test_a_file_that_broke_off_goes_on_where_it_was(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path, gives_parts: bool
    ) -> None:
        hub.on_piece = cut = Cut(WEIGHTS)
        # The client asks for the rest at once; it gives up where the server is out of order.
        hub.fails = lambda _method, path: cut.made and path.endswith(WEIGHTS)
        with pytest.raises(HubUnreachable):
            pull_it()
        (partial,) = (tmp_path / "downloads").glob(f"*/{WEIGHTS}.part")
        there = partial.stat().st_size
        assert Cut.AFTER <= there < len(pushed.files[WEIGHTS])
        assert partial.read_bytes() == pushed.files[WEIGHTS][:there]
        hub.fails = lambda _method, _path: False
        hub.gives_parts = gives_parts
        hub.asked.clear()
        hub.ranged.clear()
        told: list[Progress] = []
        pull_it(progress=told.append)
        assert hub.ranged == [(WEIGHTS, there)]
        assert hub.downloaded().count(WEIGHTS) == 1
        downloading = [item for item in told if item.stage == "downloading"]
        assert downloading[-1].done == downloading[-1].total
        assert sha256_of((tmp_path / "out" / WEIGHTS).read_bytes()) == sha256_of(pushed.files[WEIGHTS])
        assert left(tmp_path / "downloads") == []

    def test_a_connection_that_breaks_once_does_no_harm(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path
    ) -> None:
        hub.on_piece = Cut(WEIGHTS)
        pull_it()
        assert [name for name, _ in hub.ranged] == [WEIGHTS]
        assert sha256_of((tmp_path / "out" / WEIGHTS).read_bytes()) == sha256_of(pushed.files[WEIGHTS])

    @pytest.mark.parametrize("name", ["README.md", WEIGHTS])
    def test_bytes_that_are_not_those_of_the_repository_are_refused(
        self, hub: Hub, pushed: Repository, pull_it: Pull, tmp_path: Path, name: str
    ) -> None:
        hub.fails = lambda _method, path: path.endswith(name)
        with pytest.raises(HubUnreachable):
            pull_it()
        (folder,) = (path for path in (tmp_path / "downloads").iterdir() if path.is_dir())
        (folder / f"{name}.part").write_bytes(b"\0" * 100)
        hub.fails = lambda _method, _path: False
        with pytest.raises(BadCheckpoint, match=f"{name}, content: other bytes than its repository names"):
            pull_it()
        assert left(tmp_path / "downloads") == []
        pull_it()
        assert (tmp_path / "out" / name).read_bytes() == pushed.files[name]

    def test_a_file_smaller_than_listed_is_refused(self, pushed: Repository, pull_it: Pull, tmp_path: Path) -> None:
        pushed.listed["README.md"] = len(pushed.files["README.md"]) + 1
        with pytest.raises(BadCheckpoint, match=r"README.md, size: [\d,]+ bytes, where its repository names [\d,]+"):
            pull_it()
        assert left(tmp_path / "downloads") == []

    def test_what_nobody_goes_on_with_is_deleted_after_a_day(
        self, pushed: Repository, pull_it: Pull, tmp_path: Path
    ) -> None:
        old = tmp_path / "downloads" / "old"
        old.mkdir(parents=True)
        os.utime(old, (1, 1))
        pull_it()
        assert not old.exists()

    def test_what_is_not_there_is_told(self, hub: Hub, pull_it: Pull) -> None:
        with pytest.raises(HubNotFound) as caught:
            pull_it(repo_id="anna/gone")
        host = hub.address.removeprefix("http://")
        assert str(caught.value).startswith(f"anna/gone was not found at {host};")

    def test_terms_are_to_be_accepted_first(self, pushed: Repository, pull_it: Pull) -> None:
        pushed.gated = True
        with pytest.raises(HubGated, match="accept its terms"):
            pull_it()

    def test_a_wrong_token_is_told_and_not_shown(self, pushed: Repository, pull_it: Pull) -> None:
        with pytest.raises(HubForbidden) as caught:
            pull_it(token="hf_wrong")
        assert "hf_wrong" not in f"{caught.value}{caught.value.params}{caught.value.__cause__}"

    def test_a_server_that_is_down_is_told(self, pull_it: Pull, tmp_path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(HubUnreachable, match=f"127.0.0.1:{port} could not be reached for {REPO}"):
            pull_it(endpoint=f"http://127.0.0.1:{port}")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "repo_id",
        [
            "",
            "tales",
            "a/b/c",
            "../x",
            "a/..",
            "a/b--c",
            "a/x.git",
            "a b/c",
            "https://h.co/a/b",
            "a/" + "x" * 100,
            "月/b",
        ],
    )
    def test_names_are_checked_before_anyone_is_asked(
        self, hub: Hub, pull_it: Pull, folder: Path, repo_id: str
    ) -> None:
        with pytest.raises(InvalidSetting, match="USER/NAME"):
            pull_it(repo_id=repo_id)
        with pytest.raises(InvalidSetting, match="USER/NAME"):
            push(folder, repo_id, token=WRITER, endpoint=hub.address)
        assert hub.asked == []

    @pytest.mark.parametrize("revision", ["", "a\nb", "x" * 201])
    def test_so_are_revisions(self, hub: Hub, pull_it: Pull, revision: str) -> None:
        with pytest.raises(InvalidSetting, match="revision"):
            pull_it(revision=revision)
        assert hub.asked == []


class TestCard:
    def test_what_a_card_says_stays(self) -> None:
        card = hub_card("---\nlicense: mit\nlanguage: [en]\ntags: [poems]\n---\n\n# x\n", {})
        values, body = split_card(card)
        assert (values["license"], values["language"], values["tags"]) == ("mit", ["en"], ["poems"])
        assert (values["library_name"], values["pipeline_tag"]) == ("textgen-studio", "text-generation")
        assert "base_model" not in values
        assert body == "\n# x\n"

    @pytest.mark.parametrize(
        "card", ["", "# x\n", "---\nopen", "---\n- a\n---\nx", "---\n: [\n---\nx", "---\n0000-99-99\n---\n"]
    )
    def test_any_text_becomes_a_card(self, card: str) -> None:
        head = hub_card(card, {}).split("---\n")[1]
        assert yaml.safe_load(head)["license"] == "unknown"

    @pytest.mark.parametrize(
        "lineage",
        [
            {},
            {"hub": {"repo": "a/itself"}},
            {"base": "x"},
            {"base": {"lineage": {"hub": "a/b"}}},
            {"base": {"lineage": {"hub": {"repo": ["a/b"]}}}},
            {"base": {"lineage": {"hub": {"repo": "a\nb: c"}}}},
        ],
    )
    def test_only_a_base_with_a_name_is_named(self, lineage: dict[str, Any]) -> None:
        assert base_on_hub(lineage) is None

    def test_the_nearest_base_that_has_one_is_named(self) -> None:
        deep = {"base": {"name": "own", "lineage": {"base": {"lineage": {"hub": {"repo": "a/b"}}}}}}
        assert base_on_hub(deep) == "a/b"

    def test_a_card_comes_apart_as_it_was_joined(self) -> None:
        values = {"license": "mit", "tags": ["a", "b"], "title": "月: --- x"}
        assert split_card(join_card(values, "\nbody\n---\n")) == (values, "\nbody\n---\n")
