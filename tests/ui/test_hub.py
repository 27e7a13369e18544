"""Push and Fetch as the page's handlers do them, against a server on this machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from tests.hub_server import WRITER, Hub, hub_server
from textgen.errors import Cancelled, HubForbidden
from textgen.jobs.run_folder import RunFolder, run_of
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint
from textgen.progress import FINISHING, Progress
from textgen.shelf import Shelf
from textgen.studio import Studio
from textgen.ui.hub_push import HubPush
from textgen.ui.i18n import build_i18n
from textgen.ui.long_work import LongWork
from textgen.ui.model_sources import HubFetch
from textgen.ui.people import People
from textgen.workshop import Person, Workshop

pytestmark = pytest.mark.slow

LIMITS = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
RUN = "20260101-000000-abc"
PAGE: Any = SimpleNamespace(cookies={}, session_hash="page")
DEADLINE_SECONDS = 60.0


class Place:
    """A studio and a workshop on one folder of runs, and the two folds of the page."""

    def __init__(self, runs: Path, hub: Hub, people: People, limits: Limits) -> None:
        self.people = people
        self.studio = Studio([runs], device="cpu", limits=limits)
        self.workshop = Workshop(runs, device="cpu", limits=limits, hub=hub.address)
        with gr.Blocks():
            i18n, language = build_i18n(), gr.Textbox("en")
            self.pushing = HubPush(Shelf(self.studio, self.workshop), people, i18n, language, gr.Textbox())
            self.fetching = HubFetch(self.workshop, people, i18n, language)

    def push(
        self, repo: str, token: str = WRITER, *, who: Any = None, run: str = RUN, private: bool = False
    ) -> Answers:
        return Answers(self.pushing, self.pushing.push(who or PAGE, "en", run, repo, token, private))

    def fetch(
        self, repo: str, token: str = "", *, who: Any = None, language: str = "en", revision: str | None = ""
    ) -> Answers:
        return Answers(self.fetching, self.fetching.fetch(who or PAGE, language, repo, token, revision))


class Answers:
    """What a fold has answered: what was `told` in its line, one after the other, and what became of its fields."""

    def __init__(self, fold: HubPush | HubFetch, updates: Iterator[dict[Any, Any]]) -> None:
        self.updates = list(updates)
        self.told = [update[fold.task.status] for update in self.updates if fold.task.status in update]
        self.token = [update[fold.token] for update in self.updates if fold.token in update]
        brought = fold.brought if isinstance(fold, HubFetch) else None
        self.name = next((update[brought] for update in self.updates if brought in update), "")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def runs(trained_run: Path, tmp_path: Path) -> Path:
    """A folder with a finished run of somebody called anna."""
    shutil.copytree(trained_run, tmp_path / "runs" / RUN)
    RunFolder(tmp_path / "runs" / RUN).write_about(title="Tales", owner="anna", created=1.0)
    return tmp_path / "runs"


@pytest.fixture
def place(runs: Path, hub: Hub) -> Iterator[Place]:
    place = Place(runs, hub, People(), LIMITS)
    yield place
    place.studio.close()


@pytest.fixture
def shared(runs: Path, hub: Hub) -> Iterator[Place]:
    """The same where people are told apart."""
    place = Place(runs, hub, People(runs), LIMITS)
    yield place
    place.studio.close()


def somebody(name: str, people: People) -> Any:
    cookie = people.cookie(name, secure=False).partition("=")[2].partition(";")[0]
    return SimpleNamespace(cookies={"textgen_owner": cookie}, session_hash="x")


def test_a_run_is_pushed_and_its_address_told(place: Place, hub: Hub) -> None:
    answers = place.push(" anna/tales ", private=True)
    assert answers.token == [""]
    assert any("Uploading" in told for told in answers.told)
    address = f"{hub.address}/anna/tales"
    assert f'<span>It is at</span> <a href="{address}" target="_blank"' in answers.told[-1]
    assert hub.repositories["anna/tales"].private
    assert WRITER not in str(answers.updates)


def test_a_wrong_token_is_not_shown_again(place: Place) -> None:
    answers = place.push("anna/tales", "hf_wrong")
    assert escape("does not allow this with anna/tales") in answers.told[-1]
    assert 'role="alert"' in answers.told[-1]
    assert "hf_wrong" not in str(answers.updates)


def test_nobody_pushes_anothers_run_or_uses_the_hosts_login(
    shared: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: WRITER)
    anna, bo = somebody("anna", shared.people), somebody("bo", shared.people)
    assert "is not there" in shared.push("anna/tales", who=bo).told[-1]
    told = shared.push("anna/tales", "", who=anna).told[-1]
    assert "A token is needed, one that may write" in told
    assert hub.asked == []
    assert hub.address in shared.push("anna/tales", who=anna).told[-1]


def test_a_run_without_a_model_has_nothing_to_push(place: Place, runs: Path) -> None:
    shutil.rmtree(runs / RUN / "checkpoints")
    assert "is not there" in place.push("anna/tales").told[-1]


def test_a_model_is_fetched_and_named(place: Place, hub: Hub, runs: Path) -> None:
    place.push("anna/tales")
    answers = place.fetch(" anna/tales ", revision=" main ")
    assert "“anna/tales” is yours to write with and to start from." in answers.told[-1]
    assert any("Downloading" in told for told in answers.told)
    name = answers.name
    assert ("anna/tales", name) in [(info.title, info.name) for info in place.studio.models()]
    fetched = runs / name / "checkpoints" / "best"
    assert run_of(fetched) == runs / name
    assert load_checkpoint(fetched).figures == load_checkpoint(runs / RUN / "checkpoints" / "best").figures


def test_a_revision_that_is_not_there_is_told(place: Place) -> None:
    place.push("anna/tales")
    assert "anna/tales has no revision v9 at 127.0.0.1" in place.fetch("anna/tales", revision="v9").told[-1]
    assert "Revision" in place.fetch("anna/tales", revision="a\nb").told[-1]


def test_what_a_repository_holds_later_is_told_apart(place: Place, hub: Hub) -> None:
    for title in ("anna/tales", "anna/tales (2)"):
        place.push("anna/tales")
        answers = place.fetch(f"{hub.address}/anna/tales/tree/main")
        assert f"“{title}” is yours" in answers.told[-1]
        assert place.studio.info(answers.name).title == title


def test_what_is_there_already_does_not_come_again(place: Place, hub: Hub) -> None:
    place.push("anna/tales")
    first = place.fetch("anna/tales")
    again = place.fetch(f"{hub.address}/anna/tales/tree/main")
    assert again.name == first.name
    assert "“anna/tales” is yours" in again.told[-1]
    assert not any("Downloading" in told for told in again.told)
    assert [info.title for info in place.studio.models()].count("anna/tales") == 1


def test_what_is_no_token_is_told_in_plain_words(place: Place) -> None:
    assert "This cannot be a token" in place.push("anna/tales", "ein Wort").told[-1]
    assert "这不是有效的令牌" in place.fetch("anna/tales", "a b", language="zh").told[-1]


def test_what_somebody_fetched_nobody_else_sees(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    anna, bo = somebody("anna", shared.people), somebody("bo", shared.people)
    shared.push("anna/tales", who=anna)
    name = shared.fetch("anna/tales", who=bo).name
    assert name in [info.name for info in shared.studio.models(shared.people.of(bo))]
    assert name not in [info.name for info in shared.studio.models(shared.people.of(anna))]
    # Nor does the host's own login open anything.
    shared.push("anna/secret", who=anna, private=True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: WRITER)
    assert "anna/secret was not found" in shared.fetch("anna/secret", who=bo).told[-1]
    answers = shared.fetch("anna/secret", f" {WRITER} ", who=bo)
    assert answers.token == [""]
    assert "“anna/secret” is yours" in answers.told[-1]
    assert WRITER not in str(answers.updates)


def test_quotas_count(shared: Place, hub: Hub) -> None:
    anna = somebody("anna", shared.people)
    shared.push("anna/tales", who=anna)
    tight = shared.workshop.jobs.person_bytes(Person("anna")) + 1_000
    for limits, told in (
        (replace(LIMITS, max_person_bytes=tight), "at most 0.0 MB at once"),
        (replace(LIMITS, max_runs_per_person=1), "1 kept already"),
    ):
        other = Place(shared.workshop.jobs.root, hub, shared.people, limits)
        assert told in other.fetch("anna/tales", who=anna).told[-1]
        other.studio.close()
    assert hub.downloaded() == []


def test_what_is_wrong_is_told_in_the_language_of_the_page(place: Place) -> None:
    assert "在 127.0.0.1" in place.fetch("anna/gone", language="zh").told[-1]
    assert "用户名/模型名" in place.fetch("gone", language="zh").told[-1]
    assert "Model on the Hub: gone was given" in place.fetch("gone").told[-1]


class Held:
    """Holds a request back until it is let go; `cancelled` cancels what waits for it as soon as it has come."""

    def __init__(self) -> None:
        self._come, self._go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._come.set()
        self._go.wait(DEADLINE_SECONDS)

    @contextmanager
    def cancelled(self, fold: HubPush | HubFetch) -> Iterator[None]:
        def cancel() -> None:
            if self._come.wait(DEADLINE_SECONDS):
                fold.task.cancel(PAGE)

        # Engines of other tests are none of this.
        others = set(threading.enumerate())
        thread = threading.Thread(target=cancel)
        thread.start()
        yield
        thread.join()
        self._go.set()
        for worker in [worker for worker in set(threading.enumerate()) - others if worker.name.startswith("textgen-")]:
            worker.join(DEADLINE_SECONDS)
            assert not worker.is_alive()


def test_a_fetch_that_is_cancelled_leaves_no_model_and_goes_on_later(place: Place, hub: Hub, runs: Path) -> None:
    place.push("anna/tales")
    held = Held()
    hub.on_piece = lambda name, start: held() if name == "model.safetensors" and start >= 40_000 else None
    before = [info.name for info in place.studio.models()]
    with held.cancelled(place.fetching):
        # The page is told at once, though the Hub still keeps its next bytes to itself.
        answers = place.fetch("anna/tales", language="zh")
    assert "已取消。已下载的部分会保留一天" in answers.told[-1]
    assert answers.name == ""
    assert [info.name for info in place.studio.models()] == before
    assert [path.name for path in (runs / ".fetched").iterdir()] == ["downloads"]
    hub.on_piece = lambda _name, _start: None
    assert "is yours to write with" in place.fetch("anna/tales").told[-1]
    ((name, start),) = hub.ranged
    assert (name, start > 0) == ("model.safetensors", True)


def test_a_push_that_is_cancelled_puts_nothing_there(place: Place, hub: Hub) -> None:
    held = Held()

    def hold(_method: str, path: str) -> bool:
        if path == "/api/repos/create":
            held()
        return False

    hub.fails = hold
    with held.cancelled(place.pushing):
        answers = place.push("anna/tales")
    assert "Cancelled." in answers.told[-1]
    assert hub.repositories["anna/tales"].commits == 0


def test_nobody_cancels_for_another_page(place: Place, hub: Hub) -> None:
    place.fetching.task.cancel(PAGE)  # nothing runs
    place.push("anna/tales")
    other: Any = SimpleNamespace(cookies={}, session_hash="other")
    updates = place.fetching.fetch(PAGE, "en", "anna/tales", "", "")
    told = []
    for update in updates:
        place.fetching.task.cancel(other)
        told.append(str(update))
    assert "is yours to write with" in told[-1]


def test_long_work_is_cancelled_until_its_last_step() -> None:
    told, ended = threading.Event(), threading.Event()

    def work(tell: Any) -> int:
        tell(Progress("uploading", 1))
        assert told.wait(DEADLINE_SECONDS)
        try:
            tell(Progress("uploading", 2))
        finally:
            ended.set()
        return 7

    following = LongWork(work, name="test")
    following.cancel()
    with pytest.raises(Cancelled):
        list(following)
    told.set()
    assert ended.wait(DEADLINE_SECONDS)

    def finish(tell: Any) -> int:
        tell(Progress(FINISHING, 0))
        assert ended.wait(DEADLINE_SECONDS)
        return 7

    ended.clear()
    last = LongWork(finish, name="test")
    steps = iter(last)
    assert next(steps).stage == FINISHING
    last.cancel()
    ended.set()
    assert list(steps) == []
    assert last.result == 7


def test_long_work_tells_what_it_made_or_what_went_wrong() -> None:
    def work(tell: Any) -> int:
        for done in range(100):
            tell(Progress("uploading", done))
        return 7

    following = LongWork(work, name="test")
    steps = [progress.done for progress in following]
    assert steps == sorted(steps)
    assert following.result == 7

    def fail(_tell: Any) -> int:
        raise HubForbidden("a/b", "host")

    with pytest.raises(HubForbidden):
        list(LongWork(fail, name="test"))


def test_a_mistake_after_a_cancel_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()

    def work(_tell: Any) -> int:
        assert told.wait(DEADLINE_SECONDS)
        raise KeyError("mistake")

    following = LongWork(work, name="mistaken")
    following.cancel()
    with pytest.raises(Cancelled):
        list(following)
    told.set()
    for thread in threading.enumerate():
        if thread.name == "mistaken":
            thread.join(DEADLINE_SECONDS)
    assert "mistake" in caplog.text
