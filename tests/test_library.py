from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from textgen.config import ModelSettings
from textgen.errors import EngineClosed, MissingFile
from textgen.library import Lease, ModelLibrary, checkpoint_version
from textgen.model.checkpoint import Checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel

A, B, C = Path("a"), Path("b"), Path("c")


@dataclass(eq=False)
class Model:
    folder: Path
    version: int
    closed: int = 0


class Shelf:
    """What is on disk, and everything that was ever loaded from it. `sizes` are in bytes; 10 where none is given."""

    def __init__(self, max_bytes: int, before_load: Callable[[Path], None] = lambda folder: None) -> None:
        self.versions: dict[Path, int] = {}
        self.sizes: dict[Path, int] = {}
        self.made: list[Model] = []
        self.loads = 0
        self._before_load = before_load
        self.library: ModelLibrary[Model] = ModelLibrary(
            self._load,
            size_of=lambda model: self.sizes.get(model.folder, 10),
            close=self._close,
            max_bytes=max_bytes,
            version_of=lambda folder: self.versions.get(folder, 0),
        )

    @property
    def open(self) -> list[Path]:
        return [model.folder for model in self.made if not model.closed]

    @property
    def closings(self) -> list[int]:
        """How often each model was closed, in the order of loading."""
        return [model.closed for model in self.made]

    def _load(self, folder: Path) -> Model:
        self.loads += 1
        self._before_load(folder)
        model = Model(folder, self.versions.get(folder, 0))
        self.made.append(model)
        return model

    def _close(self, model: Model) -> None:
        model.closed += 1

    def use(self, *folders: Path) -> None:
        for folder in folders:
            self.library.borrow(folder).release()


def test_a_model_is_loaded_when_first_wanted_and_only_then() -> None:
    shelf = Shelf(100)
    assert shelf.made == []
    with shelf.library.borrow(A) as first, shelf.library.borrow(A) as second:
        assert first is second
    with shelf.library.borrow(A) as again:
        assert again is first
    assert shelf.made == [first]
    assert shelf.library.nbytes == 10
    assert shelf.library.folders == (A,)


def test_least_recently_used_models_are_closed_when_others_need_the_room() -> None:
    shelf = Shelf(20)
    shelf.use(A, B, A, C)
    assert shelf.open == [A, C]
    assert shelf.library.folders == (A, C)
    shelf.use(B)
    assert shelf.open == [C, B]
    assert shelf.closings == [1, 1, 0, 0]
    assert shelf.library.nbytes == 20


def test_to_the_byte_is_room_enough() -> None:
    shelf = Shelf(30)
    shelf.sizes = {A: 10, B: 20}
    shelf.use(A, B)
    assert shelf.open == [A, B]
    shelf.sizes[C] = 1
    shelf.use(C)
    assert shelf.open == [B, C]


def test_the_end_of_a_use_counts_as_use() -> None:
    shelf = Shelf(20)
    lease = shelf.library.borrow(A)
    shelf.use(B)
    lease.release()
    shelf.use(C)
    assert shelf.open == [A, C]


def test_a_model_in_use_is_never_dropped_and_closed_soon_after() -> None:
    shelf = Shelf(10)
    first, second = shelf.library.borrow(A), shelf.library.borrow(A)
    other = shelf.library.borrow(B)
    assert shelf.open == [A, B]
    first.release()
    assert shelf.open == [A, B]
    second.release()
    assert shelf.open == [B]
    other.release()
    assert shelf.open == [B]


def test_the_last_model_stays_even_if_it_is_too_large() -> None:
    shelf = Shelf(0)
    shelf.use(A, A)
    assert len(shelf.made) == 1
    assert shelf.open == [A]
    shelf.use(B)
    assert shelf.open == [B]


def test_a_changed_model_is_loaded_again_and_the_one_before_closed_when_its_users_are_done() -> None:
    shelf = Shelf(100)
    shelf.use(A)
    old_lease = shelf.library.borrow(A)
    old = old_lease.model
    shelf.versions[A] = 1
    with shelf.library.borrow(A) as new, shelf.library.borrow(A) as same:
        assert (old.version, new.version) == (0, 1)
        assert same is new
        assert shelf.library.nbytes == 20
        assert shelf.closings == [0, 0]
        old_lease.release()
        assert shelf.closings == [1, 0]
    shelf.versions[A] = 2
    shelf.use(A)
    assert shelf.closings == [1, 1, 0]


def test_a_released_lease_is_of_no_more_use() -> None:
    shelf = Shelf(10)
    lease = shelf.library.borrow(A)
    lease.release()
    lease.release()
    with pytest.raises(EngineClosed):
        _ = lease.model
    # Releasing twice did not end the use of somebody else.
    with shelf.library.borrow(A) as model:
        lease.release()
        shelf.use(B)
        assert not model.closed


def test_a_forgotten_lease_is_handed_back() -> None:
    shelf = Shelf(10)
    cycle: list[object] = [shelf.library.borrow(A)]
    cycle.append(cycle)
    with shelf.library.borrow(B):
        assert shelf.open == [A, B]
        del cycle
        gc.collect()
        shelf.library.tidy()
        assert shelf.open == [B]


def test_a_lease_may_be_forgotten_while_the_library_is_at_work() -> None:
    """The garbage collector runs where it likes: here where versions are compared, under the library's own lock."""
    forgotten: list[Lease[Model]] = []

    class Version:
        def __eq__(self, other: object) -> bool:
            forgotten.clear()
            return True

        def __hash__(self) -> int:
            return 0

    closed: list[Model] = []
    library: ModelLibrary[Model] = ModelLibrary(
        lambda folder: Model(folder, 0),
        size_of=lambda model: 10,
        close=closed.append,
        max_bytes=10,
        version_of=lambda folder: Version(),
    )
    forgotten.append(library.borrow(A))
    library.borrow(A).release()
    assert forgotten == []
    library.borrow(B).release()
    assert [model.folder for model in closed] == [A]


def test_one_load_at_a_time_for_a_model_however_many_want_it() -> None:
    start, second_load = threading.Barrier(8, timeout=30), threading.Event()

    def before_load(folder: Path) -> None:
        if shelf.loads > 1:
            second_load.set()
        second_load.wait(timeout=0.2)  # a second one would come while the first is still at it

    shelf = Shelf(100, before_load)

    def want() -> Lease[Model]:
        start.wait()
        return shelf.library.borrow(A)

    with ThreadPoolExecutor(8) as pool:
        leases = [future.result(timeout=30) for future in [pool.submit(want) for _ in range(8)]]
    assert shelf.loads == 1
    assert {id(lease.model) for lease in leases} == {id(shelf.made[0])}


def test_others_go_on_while_a_model_is_loaded() -> None:
    """A's loading ends only after B was loaded, used and counted; C's, which is loaded already, too."""
    loading, others_done = threading.Event(), threading.Event()

    def before_load(folder: Path) -> None:
        if folder == A:
            loading.set()
            assert others_done.wait(timeout=30)

    shelf = Shelf(100, before_load)
    shelf.use(C)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(shelf.library.borrow, A)
        assert loading.wait(timeout=30)
        shelf.use(B, C)
        assert shelf.library.folders == (B, C)
        others_done.set()
        assert wanted.result(timeout=30).model.folder == A


def test_a_failed_load_concerns_those_who_want_that_model_alone_and_can_be_tried_again() -> None:
    damaged = True

    def before_load(folder: Path) -> None:
        if folder == A and damaged:
            raise MissingFile(str(folder), "damaged")

    shelf = Shelf(100, before_load)
    for _ in range(2):
        with pytest.raises(MissingFile, match="a cannot be read: damaged"):
            shelf.library.borrow(A)
    shelf.use(B)
    assert shelf.library.nbytes == 10
    damaged = False
    shelf.use(A)
    assert shelf.open == [B, A]


def test_a_change_for_the_worse_is_told_and_leaves_the_users_of_the_model_before() -> None:
    damaged = False

    def before_load(folder: Path) -> None:
        if damaged:
            raise MissingFile(str(folder), "damaged")

    shelf = Shelf(100, before_load)
    with shelf.library.borrow(A) as model:
        shelf.versions[A], damaged = 1, True
        with pytest.raises(MissingFile):
            shelf.library.borrow(A)
        damaged = False
        with shelf.library.borrow(A) as new:
            assert new.version == 1
            assert model is not new
        assert shelf.closings == [0, 0]
    assert shelf.closings == [1, 0]


def test_closing_closes_everything_once_and_lends_no_more() -> None:
    shelf = Shelf(100)
    old = shelf.library.borrow(A)
    shelf.versions[A] = 1
    lease = shelf.library.borrow(A)
    shelf.use(B)
    shelf.library.close()
    assert shelf.closings == [1, 1, 1]
    old.release()
    lease.release()
    shelf.library.close()
    assert shelf.closings == [1, 1, 1]
    with pytest.raises(EngineClosed):
        shelf.library.borrow(B)
    assert shelf.library.nbytes == 0


def test_what_is_being_loaded_while_the_library_closes_is_closed_too() -> None:
    shelf = Shelf(100, lambda folder: shelf.library.close())
    with pytest.raises(EngineClosed):
        shelf.library.borrow(A)
    assert shelf.closings == [1]


def test_a_model_that_cannot_be_closed_keeps_no_other_open() -> None:
    closed: list[Path] = []

    def close(model: Path) -> None:
        closed.append(model)
        if model == A:
            raise OSError("stuck")

    library = ModelLibrary(
        lambda folder: folder, size_of=lambda _: 1, close=close, max_bytes=10, version_of=lambda _: 0
    )
    for folder in (A, B):
        library.borrow(folder).release()
    with pytest.raises(OSError, match="stuck"):
        library.close()
    assert sorted(closed) == [A, B]


def test_a_checkpoint_that_is_replaced_has_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = LanguageModel(ModelSettings(vocab_size=8, embedding_size=2, hidden_size=2))
    model.reset_parameters(seed=0)
    save_checkpoint(folder, Checkpoint(model, b"a tokenizer"))
    version = checkpoint_version(folder)
    assert checkpoint_version(folder) == version
    save_checkpoint(folder, Checkpoint(model, b"a tokenizer"))
    assert checkpoint_version(folder) != version
    version = checkpoint_version(folder)
    (folder / "copy_index.safetensors").write_bytes(b"an index")
    assert checkpoint_version(folder) != version
    (folder / "config.json").unlink()
    with pytest.raises(MissingFile, match=r"config\.json cannot be read"):
        checkpoint_version(folder)


class LibraryMachine(RuleBasedStateMachine):
    """Borrowing, releasing, forgetting and replacing in any order."""

    folders = st.sampled_from((A, B, C, Path("d")))

    @initialize(max_bytes=st.integers(0, 60))
    def start(self, max_bytes: int) -> None:
        self.shelf = Shelf(max_bytes)
        self.shelf.sizes = {A: 5, B: 10, C: 20}
        self.max_bytes = max_bytes
        self.held: list[Lease[Model]] = []

    @rule(folder=folders)
    def borrow(self, folder: Path) -> None:
        lease = self.shelf.library.borrow(folder)
        assert lease.model.folder == folder
        assert lease.model.version == self.shelf.versions.get(folder, 0)
        self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).release()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.shelf.library.tidy()

    @rule(folder=folders)
    def replace(self, folder: Path) -> None:
        self.shelf.versions[folder] = self.shelf.versions.get(folder, 0) + 1

    @invariant()
    def nothing_in_use_is_closed_and_nothing_idle_is_kept_beyond_the_budget(self) -> None:
        shelf = self.shelf
        assert all(model.closed <= 1 for model in shelf.made)
        assert not any(lease.model.closed for lease in self.held)
        used = {id(lease.model) for lease in self.held}
        still_open = [model for model in shelf.made if not model.closed]
        total = sum(shelf.sizes.get(model.folder, 10) for model in still_open)
        assert shelf.library.nbytes == total
        idle = [model for model in still_open if id(model) not in used]
        assert total <= self.max_bytes or not idle or len(shelf.library.folders) == len(idle) == 1


TestLibraryInAnyOrder = LibraryMachine.TestCase
TestLibraryInAnyOrder.settings = settings(stateful_step_count=30)
