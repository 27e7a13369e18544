"""The tree of a finished beam search as SVG: from the prompt on the left to where its hypotheses end.

Chains of tokens without a fork are one box. Of many branches those that lived longest are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from unicodedata import east_asian_width

from textgen.studio import TextNode
from textgen.ui.i18n import Language, say

_MOST_LEAVES = 16
_LABEL_CELLS = 30
_CELL, _ROW, _BOX, _GAP, _MARGIN = 7.4, 32.0, 24.0, 30.0, 8.0
_ROOT = -1


def tree_html(tree: Sequence[TextNode], results: Sequence[int | None], language: Language) -> str:
    """The tree in a fold of its own, the ends of `results` (nodes, best first) marked in it; empty without a tree."""
    if not tree:
        return ""
    children = _children(tree)
    leaves = [node for node in range(len(tree)) if not children[node]]
    ends: dict[int, int] = {}
    for rank, node in enumerate(results, 1):
        if node is not None:
            ends.setdefault(node, rank)
    drawn = _leaves_to_draw(tree, children, leaves, list(ends))
    left_out = len(set(leaves) - set(drawn))
    label = say("tree_label", language, nodes=f"{len(tree):,}", leaves=len(drawn))
    note = f'<p class="hint">{escape(say("tree_left_out", language, count=f"{left_out:,}"))}</p>' if left_out else ""
    svg = _svg(_segments(tree, children, drawn, ends), label)
    summary = escape(say("tree", language))
    canvas = f'<div class="canvas" tabindex="0">{svg}</div>'
    return f'<details class="tree"><summary>{summary}</summary>{canvas}{note}</details>'


@dataclass
class _Segment:
    """A chain of tokens without a fork. `rank`: the best result (from 1) that goes through it, 0 for none."""

    text: str
    logprob_sum: float
    rank: int
    end: int  # the rank of the result that ends here, else 0
    finished: bool
    forks: list[_Segment] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    @property
    def label(self) -> str:
        return _shortened(self.text.replace("\n", "↵"))

    @property
    def width(self) -> float:
        return _cells(self.label) * _CELL + 14.0 if self.label else 14.0


def _children(tree: Sequence[TextNode]) -> dict[int, list[int]]:
    """The children of every node and of the prompt."""
    found: dict[int, list[int]] = {node: [] for node in range(_ROOT, len(tree))}
    for number, node in enumerate(tree):
        found[node.parent].append(number)
    return found


def _leaves_to_draw(
    tree: Sequence[TextNode], children: dict[int, list[int]], leaves: Sequence[int], results: Sequence[int]
) -> list[int]:
    """The ends of results first, then the branches that went their own way longest."""

    def own_way(leaf: int) -> int:
        node, length = leaf, 1
        while tree[node].parent != _ROOT and len(children[tree[node].parent]) == 1:
            node, length = tree[node].parent, length + 1
        return length

    others = sorted(set(leaves) - set(results), key=lambda leaf: (-own_way(leaf), -tree[leaf].logprob_sum, leaf))
    return [*results, *others[: max(0, _MOST_LEAVES - len(results))]]


def _segments(
    tree: Sequence[TextNode], children: dict[int, list[int]], drawn: Sequence[int], ends: dict[int, int]
) -> list[_Segment]:
    """What grows from the prompt, placed: the best result runs along the top."""
    ranks: dict[int, int] = {}  # of every node that is drawn
    for leaf in drawn:
        node, rank = leaf, ends.get(leaf, 0)
        # Results come first and best first, so that a chain they share has the rank of the best.
        while node != _ROOT and node not in ranks:
            ranks[node] = rank
            node = tree[node].parent
    kept = {node: [child for child in children[node] if child in ranks] for node in (_ROOT, *ranks)}

    def grow(node: int) -> _Segment:
        texts = [tree[node].text]
        while len(kept[node]) == 1 and node not in ends:
            (node,) = kept[node]
            texts.append(tree[node].text)
        here = _Segment("".join(texts), tree[node].logprob_sum, ranks[node], ends.get(node, 0), tree[node].finished)
        here.forks = _in_order([grow(child) for child in kept[node]])
        return here

    roots = _in_order([grow(node) for node in kept[_ROOT]])
    rows = _Rows()
    for root in roots:
        _place(root, _MARGIN + 18.0 + _GAP, 0, rows)
    return roots


def _in_order(segments: list[_Segment]) -> list[_Segment]:
    return sorted(segments, key=lambda item: (item.rank or 1_000, -item.logprob_sum))


class _Rows:
    """Which stretches of which rows are taken."""

    def __init__(self) -> None:
        self._taken: dict[int, list[tuple[float, float]]] = {}

    def take(self, left: float, right: float, first: int) -> int:
        """The first row from `first` down that is free from `left` to `right`, which is taken with the way to it."""
        row = first
        while not self._is_free(row, left, right):
            row += 1
        for between in range(first, row):
            self._taken.setdefault(between, []).append((left, left + _GAP))
        self._taken.setdefault(row, []).append((left, right))
        return row

    def _is_free(self, row: int, left: float, right: float) -> bool:
        return all(end <= left or right <= start for start, end in self._taken.get(row, []))


def _place(segment: _Segment, x: float, first_row: int, rows: _Rows) -> None:
    """Gives a place to a segment and all that grows from it: its best line in one row, what forks off in lower ones."""
    line = [segment]
    while line[-1].forks:
        line.append(line[-1].forks[0])
    end = x + sum(item.width + _GAP for item in line)
    row = rows.take(x - _GAP, end, first_row)
    for item in line:
        item.x, item.y = x, _MARGIN + row * _ROW + _BOX / 2
        x += item.width + _GAP
    # From the right, so that a branch on the left finds room below those that it passes under.
    for item in reversed(line):
        for fork in item.forks[1:]:
            _place(fork, item.x + item.width + _GAP, row + 1, rows)


def _svg(roots: Sequence[_Segment], label: str) -> str:
    every = [segment for root in roots for segment in _all(root)]
    width = max(segment.x + segment.width for segment in every) + 28.0 + _MARGIN
    height = max(segment.y for segment in every) + _BOX / 2 + _MARGIN
    start = (_MARGIN + 14.0, _MARGIN + _BOX / 2)
    edges = "".join(_edge(start, root) for root in roots)
    edges += "".join(_edge((one.x + one.width, one.y), fork) for one in every for fork in one.forks)
    dot = f'<circle class="start" cx="{_MARGIN + 7:.0f}" cy="{start[1]:.0f}" r="6"/>'
    boxes = "".join(_box(segment) for segment in every)
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{edges}{dot}{boxes}</svg>'
    )


def _all(segment: _Segment) -> Iterator[_Segment]:
    yield segment
    for fork in segment.forks:
        yield from _all(fork)


def _edge(start: tuple[float, float], to: _Segment) -> str:
    (x, y), middle = start, (start[0] + to.x) / 2
    path = f"M{x:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {to.y:.1f} {to.x:.1f} {to.y:.1f}"
    return f'<path class="{_standing(to)}" d="{path}"/>'


def _box(segment: _Segment) -> str:
    x, y, width = segment.x, segment.y, segment.width
    title = f"{segment.text}\nlog p {segment.logprob_sum:.2f}"
    mark = ""
    if segment.end:
        mark = (
            f'<circle class="rank" cx="{x + width + 14:.1f}" cy="{y:.1f}" r="10"/>'
            f'<text class="rank" x="{x + width + 14:.1f}" y="{y + 4:.1f}">{segment.end}</text>'
        )
    elif segment.finished:
        mark = f'<circle class="finished" cx="{x + width + 9:.1f}" cy="{y:.1f}" r="4"/>'
    return (
        f'<g class="{_standing(segment)}"><title>{escape(title)}</title>'
        f'<rect x="{x:.1f}" y="{y - _BOX / 2:.1f}" width="{width:.1f}" height="{_BOX:.0f}" rx="6"/>'
        f'<text x="{x + 7:.1f}" y="{y + 4.5:.1f}" xml:space="preserve">{escape(segment.label)}</text>{mark}</g>'
    )


def _standing(segment: _Segment) -> str:
    return {0: "dead", 1: "best"}.get(segment.rank, "result")


def _cells(text: str) -> int:
    """Width in half-width characters."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _shortened(text: str) -> str:
    """Head and tail of a long text."""
    if _cells(text) <= _LABEL_CELLS:
        return text
    head = tail = ""
    for character in text:
        if _cells(head + character) > _LABEL_CELLS * 2 // 3:
            break
        head += character
    for character in reversed(text):
        if _cells(character + tail) > _LABEL_CELLS // 3 - 1:
            break
        tail = character + tail
    return f"{head}…{tail}"
