from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ui.reader import Reader
from textgen.studio import TextNode
from textgen.ui.tree import tree_html


def node(text: str, parent: int, *, finished: bool = False, logprob_sum: float = -1.0) -> TextNode:
    return TextNode(text, parent, logprob_sum, finished)


TREE = (
    node("The", -1),
    node(" king", 0),
    node(" cat", 0),
    node(" sat", 1),
    node(" slept", 2),
    node("", 3, finished=True),
    node(".", 4, finished=True),
    node(" ran", 1),
)


def boxes(html: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box."""
    found = []
    for tag, attributes in Reader(html).elements:
        if tag == "rect":
            left, top, width, height = (float(attributes[name] or "") for name in ("x", "y", "width", "height"))
            found.append((left, top, left + width, top + height))
    return found


def labels(html: str) -> list[str]:
    reader = Reader(html)
    return [text for text in reader.texts if text.strip()]


def test_a_search_is_drawn_with_what_its_hypotheses_share() -> None:
    html = tree_html(TREE, [5, 6], "en")
    texts = labels(html)
    # What has no fork is one box.
    for shown in ("The", " king", " sat", " cat slept.", " ran"):
        assert shown in texts
    assert "Search tree" in texts
    assert Reader(html).elements[0][0] == "details"
    assert html.count('class="rank"') == 4  # a circle and a number for each result
    assert 'g class="best"' in html
    assert 'g class="result"' in html
    assert 'g class="dead"' in html
    svg = next(attributes for tag, attributes in Reader(html).elements if tag == "svg")
    assert svg["aria-label"] == "Search tree: 8 tokens looked at, 3 branches drawn"


def test_a_result_may_end_where_others_go_on_and_two_at_one_place() -> None:
    html = tree_html(TREE, [1, 1, None, 6], "en")
    assert html.count('class="rank"') == 4
    assert " king" in labels(html)


def test_no_tree_is_drawn_of_nothing() -> None:
    assert tree_html((), [], "en") == ""
    assert "搜索树" in tree_html(TREE, [], "zh")


def grown(seed: int, beams: int, steps: int) -> tuple[tuple[TextNode, ...], list[int]]:
    """A tree as beam searches make them, and its last beams."""
    draw = random.Random(seed)
    tree: list[TextNode] = []
    running = [-1]
    for step in range(steps):
        nodes = []
        for number in range(beams):
            parent = draw.choice(running)
            text = f" {draw.choice('abcdefgh') * draw.randint(1, 5)}{number}"
            tree.append(node(text, parent, finished=step == steps - 1, logprob_sum=-draw.random() * 9))
            nodes.append(len(tree) - 1)
        running = nodes
    return tuple(tree), running


@pytest.mark.parametrize(("beams", "steps"), [(1, 1), (2, 4), (4, 30), (8, 60), (16, 200), (2, 4000)])
def test_boxes_never_lie_on_one_another_and_stay_in_the_picture(beams: int, steps: int) -> None:
    tree, results = grown(beams, beams, steps)
    html = tree_html(tree, results, "en")
    placed = boxes(html)
    svg = next(attributes for tag, attributes in Reader(html).elements if tag == "svg")
    for left, top, right, bottom in placed:
        assert left >= 0
        assert top >= 0
        assert right <= float(svg["width"] or "")
        assert bottom <= float(svg["height"] or "")
    for one, other in combinations(placed, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    # However long the search was, the picture stays one that a browser draws at once.
    assert len(html) < 60_000
    assert html.count('<circle class="rank"') == len(results)


def test_of_many_branches_those_that_lived_longest_are_drawn() -> None:
    trunk = [node("t", number - 1) for number in range(40)]
    short = [node(f"short{number}", number) for number in range(30)]
    long = [node("long", 5), *(node("l", len(trunk) + len(short) + number) for number in range(5))]
    html = tree_html((*trunk, *short, *long), [39], "en")
    assert "longlllll" in html
    assert html.count("short") - html.count("shorter") < 2 * len(short)
    assert "shorter branches are not drawn" in html


@given(st.lists(st.tuples(st.text(max_size=50), st.integers(0, 30), st.booleans()), min_size=1, max_size=30))
def test_any_tree_is_drawn_and_no_text_is_markup(parts: list[tuple[str, int, bool]]) -> None:
    tree = tuple(
        node(text, parent % (number + 1) - 1, finished=finished)
        for number, (text, parent, finished) in enumerate(parts)
    )
    reader = Reader(tree_html(tree, [0, len(parts) - 1, None], "en"))
    known = {"details", "summary", "div", "svg", "path", "circle", "g", "title", "rect", "text", "p"}
    assert set(reader.tags) <= known
