from __future__ import annotations

from typing import Any, cast

from textgen.studio import TextStream
from textgen.ui.running import RunningStreams


class FakeStream:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def stream() -> Any:
    return cast("TextStream", FakeStream())


def test_stop_reaches_the_stream_of_its_page_only() -> None:
    running, mine, other = RunningStreams(), stream(), stream()
    running.start("mine", mine)
    running.start("other", other)
    running.stop("mine")
    running.stop("nobody")
    assert (mine.cancelled, other.cancelled) == (True, False)


def test_a_new_stream_ends_the_one_before() -> None:
    running, first, second = RunningStreams(), stream(), stream()
    running.start("page", first)
    running.start("page", second)
    assert (first.cancelled, second.cancelled) == (True, False)
    running.end("page", first)  # comes late, and must not forget the second
    running.stop("page")
    assert second.cancelled


def test_an_ended_stream_is_left_alone() -> None:
    running, ended = RunningStreams(), stream()
    running.start("page", ended)
    running.end("page", ended)
    running.stop("page")
    assert not ended.cancelled


def test_stop_while_the_model_is_loaded_is_kept_for_the_stream() -> None:
    running, first, second = RunningStreams(), stream(), stream()
    running.expect("page")
    running.stop("page")
    running.start("page", first)
    assert first.cancelled
    running.end("page", first)
    running.expect("page")
    running.start("page", second)
    assert not second.cancelled


def test_a_stop_is_forgotten_with_the_stream_that_never_came() -> None:
    running, later = RunningStreams(), stream()
    running.expect("page")
    running.stop("page")
    running.end("page", None)
    running.start("page", later)
    assert not later.cancelled
