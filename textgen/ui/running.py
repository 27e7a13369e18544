"""What each open page has running."""

from __future__ import annotations

import threading

from textgen.studio import Writing


class RunningStreams:
    """The stream of each open page, so that its Stop reaches it at once, whatever the model is doing."""

    def __init__(self) -> None:
        self._streams: dict[str, Writing] = {}
        self._expected: dict[str, bool] = {}  # sessions whose model is still being loaded: whether Stop was pressed
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many are running."""
        return len(self._streams)

    def expect(self, session: str) -> None:
        """A stream will start, or `end` tells that it did not; a Stop before is kept for it."""
        with self._lock:
            self._expected[session] = False

    def start(self, session: str, stream: Writing) -> None:
        with self._lock:
            before = self._streams.get(session)
            self._streams[session] = stream
            stopped = self._expected.pop(session, False)
        if before is not None:
            before.cancel()
        if stopped:
            stream.cancel()

    def stop(self, session: str) -> None:
        with self._lock:
            stream = self._streams.get(session)
            if session in self._expected:
                self._expected[session] = True
        if stream is not None:
            stream.cancel()

    def end(self, session: str, stream: Writing | None) -> None:
        with self._lock:
            if stream is None:
                self._expected.pop(session, None)
            elif self._streams.get(session) is stream:
                del self._streams[session]
