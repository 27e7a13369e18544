"""Lines of a text that comes in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def text_lines(blocks: Iterable[str], max_chars: int) -> Iterator[str]:
    """Lines with their ends, without NUL; one longer than `max_chars` comes in parts."""
    # Parts of a line that has not ended yet: joined once, as joining at each block would take time that grows squared.
    waiting: list[str] = []
    waiting_chars = 0
    for block in blocks:
        first, *others = block.replace("\0", "").split("\n")
        waiting.append(first)
        waiting_chars += len(first)
        if others:
            yield "".join(waiting) + "\n"
            yield from (line + "\n" for line in others[:-1])
            waiting, waiting_chars = [others[-1]], len(others[-1])
        elif waiting_chars > max_chars:
            yield "".join(waiting)
            waiting, waiting_chars = [], 0
    if waiting_chars:
        yield "".join(waiting)
