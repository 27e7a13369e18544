from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.ui.i18n import Language, languages, say
from textgen.ui.loss_plot import Curve, Point, loss_plot

LANGUAGES = tuple(languages())
FALLING = [(float(step), 3.0 - step / 200) for step in range(0, 300, 10)]


def drawn(*curves: Curve, **options: float) -> ElementTree.Element:
    """The picture, which must be well formed."""
    html = loss_plot(curves, "en", logarithmic=bool(options.pop("logarithmic", False)), **options)
    return ElementTree.fromstring(html)


def line(picture: ElementTree.Element, kind: str, number: int = 0) -> list[Point]:
    (found,) = [item for item in picture.iter("polyline") if item.get("class") == f"{kind} run-{number}"]
    pairs = [pair.split(",") for pair in (found.get("points") or "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def places(picture: ElementTree.Element) -> Iterator[Point]:
    """Every place in the picture where something is drawn."""
    for item in picture.iter():
        if item.tag == "polyline":
            yield from line_of(item)
        elif item.tag == "circle":
            yield float(item.get("cx", "nan")), float(item.get("cy", "nan"))
        elif item.tag == "text":
            yield float(item.get("x", "nan")), float(item.get("y", "nan"))
        elif item.tag == "line":
            yield float(item.get("x1", "nan")), float(item.get("y1", "nan"))
            yield float(item.get("x2", "nan")), float(item.get("y2", "nan"))


def line_of(item: ElementTree.Element) -> list[Point]:
    pairs = [pair.split(",") for pair in (item.get("points") or "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def view_box(picture: ElementTree.Element) -> tuple[float, float]:
    (svg,) = picture.iter("svg")
    left, top, width, height = map(float, (svg.get("viewBox") or "").split())
    assert (left, top) == (0.0, 0.0)
    return width, height


NOTHING: list[list[Curve]] = [
    [],
    [Curve("a", [], [])],
    [Curve("a", [(1.0, math.nan), (2.0, math.inf)], [(1.0, -math.inf), (2.0, 0.0), (3.0, -1.0)])],
    [Curve("a", [(math.nan, 1.0), (math.inf, 1.0)], [(-5.0, 1.0)])],
]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("curves", NOTHING)
def test_nothing_to_draw_is_a_sentence(curves: list[Curve], language: Language) -> None:
    for logarithmic in (False, True):
        html = loss_plot(curves, language, logarithmic=logarithmic)
        assert say("plot_empty", language) in html
        assert "<svg" not in html


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("value", [1e-300, 1e-9, 0.5, 3.0, 1e9, 1.7e308])
@pytest.mark.parametrize("step", [0.0, 1.0, 1e9])
def test_one_point_is_drawn(step: float, value: float, logarithmic: bool) -> None:
    for curve in (Curve("a", [(step, value)], []), Curve("a", [], [(step, value)])):
        picture = drawn(curve, logarithmic=logarithmic)
        width, height = view_box(picture)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places(picture))
        assert "nan" not in ElementTree.tostring(picture, encoding="unicode").lower()


def test_what_is_no_number_is_left_out() -> None:
    points = [(1.0, 3.0), (2.0, math.nan), (3.0, math.inf), (4.0, 2.0), (5.0, -1.0), (6.0, 0.0), (math.nan, 1.0)]
    picture = drawn(Curve("a", points, points))
    assert len(line(picture, "training")) == 2
    assert len(line(picture, "held-out")) == 2
    assert "best 2.000 at step 4" in loss_plot([Curve("a", points, points)], "en")


def test_later_is_right_and_lower_is_better() -> None:
    points = line(drawn(Curve("a", FALLING, [])), "training")
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert points[-1][1] - points[0][1] > 150


def test_a_logarithmic_scale_gives_each_halving_the_same_room() -> None:
    halving = [(float(step), 8.0 / 2**step) for step in range(5)]
    ys = [y for _, y in line(drawn(Curve("a", [], halving), logarithmic=True), "held-out")]
    rooms = [after - before for before, after in pairwise(ys)]
    assert rooms[1:] == pytest.approx([rooms[1]] * 3, abs=0.3)
    linear = [y for _, y in line(drawn(Curve("a", [], halving)), "held-out")]
    assert linear[1] - linear[0] > 3 * (linear[4] - linear[3])


def test_the_axes_are_labelled_with_round_numbers() -> None:
    picture = drawn(Curve("a", [], FALLING))
    labels = [item.text or "" for item in picture.iter("text")]
    assert {"2", "2.5", "0", "100", "200", "steps"} <= set(labels)
    assert len(labels) < 20


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.92, 6.2, ["1", "1.5", "2", "3", "5"]),
        (1.25, 4.2, ["1.2", "1.5", "2", "2.5", "3", "4"]),
        (0.02, 7.0, ["0.03", "0.1", "0.3", "1", "3"]),
        (0.5, 110.0, ["1", "3", "10", "30", "100"]),
        (1.531, 1.579, ["1.54", "1.56", "1.58"]),
        (1e-6, 1e6, ["1e-06", "0.0001", "0.01", "1", "100", "10000", "1e+06"]),
    ],
)
def test_a_logarithmic_axis_has_round_numbers_that_stand_apart(low: float, high: float, expected: list[str]) -> None:
    points = [(float(step), low * (high / low) ** (step / 20)) for step in range(21)]
    picture = drawn(Curve("a", [], points), logarithmic=True)
    labels = [item for item in picture.iter("text") if item.get("x") == "40.0"]
    assert [item.text for item in labels] == expected
    ys = [float(item.get("y", "nan")) for item in labels]
    assert all(before - after > 20 for before, after in pairwise(ys))


def test_a_run_of_two_steps_has_no_label_twice() -> None:
    picture = drawn(Curve("short", [(0, 0.3), (1, 0.25), (2, 0.2)], []))
    labels = [text.text or "" for text in picture.iter("text") if (text.text or "").isdigit()]
    assert [label for label in labels if labels.count(label) > 1] == []
    assert {"0", "1", "2"} <= set(labels)


def test_every_other_label_of_the_steps_can_be_left_out() -> None:
    picture = drawn(Curve("a", [], FALLING))
    steps = [item for item in picture.iter("text") if item.text in ("0", "50", "100", "150", "200", "250")]
    assert [item.get("class") for item in steps] == [None, "between"] * 3
    last = drawn(Curve("a", [], [(0.0, 2.0), (100.0, 1.0)]))
    (end,) = [item for item in last.iter("text") if item.text == "100"]
    assert end.get("text-anchor") == "end"


def test_the_first_moments_do_not_squeeze_the_rest() -> None:
    points = [(0.0, 500.0), *((float(step), 2.0 - step / 400) for step in range(1, 200))]
    ys = [y for _, y in line(drawn(Curve("a", points, [])), "training")]
    assert ys[-1] - ys[1] > 100
    assert ys[0] == min(ys)


def test_smoothing_has_no_bias_of_the_beginning() -> None:
    flat = [(float(step), 2.0) for step in range(50)]
    axis = [(0.0, 1.0), (50.0, 3.0)]
    for smoothing in (0.0, 0.5, 0.98):
        ys = {y for _, y in line(drawn(Curve("a", flat, axis), smoothing=smoothing), "training")}
        assert len(ys) == 1


def test_smoothing_calms_what_jumps_and_leaves_evaluations_alone() -> None:
    jumping = [(float(step), 2.0 + step % 2) for step in range(60)]

    def spread(kind: str, smoothing: float) -> float:
        curve = Curve("a", jumping, [*jumping, (60.0, 0.5), (61.0, 4.5)])
        ys = [y for _, y in line(drawn(curve, smoothing=smoothing), kind)][20:60]
        return max(ys) - min(ys)

    assert spread("training", 0.9) < 0.2 * spread("training", 0.0)
    assert spread("held-out", 0.9) == spread("held-out", 0.0)


@pytest.mark.parametrize("smoothing", [-1.0, 1.0, 2.0, math.inf])
def test_smoothing_that_no_slider_gives_does_no_harm(smoothing: float) -> None:
    assert len(line(drawn(Curve("a", FALLING, []), smoothing=smoothing), "training")) == len(FALLING)


@pytest.mark.parametrize("held_out", [0, 100_000])
def test_long_runs_make_no_large_picture(held_out: int) -> None:
    long = [(float(step), 3.0 + math.sin(step)) for step in range(100_000)]
    best = long[:held_out] + [(100_000.0, 1.0)] * bool(held_out)
    html = loss_plot([Curve("a", long, best)], "en")
    assert len(html) < 60_000
    points = line(ElementTree.fromstring(html), "training")
    assert 100 <= len(points) <= 400
    if held_out:
        assert "best 1.000 at step 100,000" in html


def test_thinning_keeps_the_mean_and_the_end() -> None:
    long = [(float(step), 2.0 + step % 2) for step in range(10_000)]
    picture = drawn(Curve("a", long, [(0.0, 2.0), (10_000.0, 3.0)]))
    thinned = line(picture, "training")
    width, _ = view_box(picture)
    assert thinned[-1][0] == pytest.approx(width - 12, abs=0.5)
    assert {y for _, y in thinned} == {thinned[0][1]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_titles_are_escaped(language: Language) -> None:
    hostile = '</title><script>alert(\'1\')</script>"onload="x" & 月'
    curves = [Curve(hostile, FALLING, FALLING), Curve("other", FALLING, FALLING)]
    html = loss_plot(curves, language)
    assert "<script" not in html
    picture = ElementTree.fromstring(html)
    (svg,) = picture.iter("svg")
    assert hostile in (svg.get("aria-label") or "")
    assert set(svg.attrib) == {"role", "aria-label", "viewBox"}
    assert hostile in "".join(picture.itertext())


def test_several_runs_are_named_and_one_is_not() -> None:
    one = loss_plot([Curve("Anna", FALLING, [])], "en")
    two = loss_plot([Curve("Anna", FALLING, []), Curve("Bo", FALLING, [])], "en")
    assert "Anna" not in re.sub(r"<svg.*</svg>", "", one)
    assert {"Anna: training", "Bo: training"} <= set(re.findall(r"(?:Anna|Bo): training", two))
    assert len(line(ElementTree.fromstring(two), "training", 1)) == len(FALLING)


anything = st.floats(allow_nan=True, allow_infinity=True)
steps = st.one_of(st.floats(0, 1e6), st.integers(0, 10**12).map(float), anything)
losses = st.one_of(st.floats(0.01, 20.0), anything)
many_points = st.lists(st.tuples(steps, losses), max_size=30)


@pytest.mark.slow
@given(
    curves=st.lists(st.builds(Curve, st.text(max_size=5), many_points, many_points), max_size=3),
    logarithmic=st.booleans(),
    smoothing=st.floats(0.0, 1.0),
)
def test_everything_is_drawn_inside_the_picture(curves: list[Curve], logarithmic: bool, smoothing: float) -> None:
    html = loss_plot(curves, "en", logarithmic=logarithmic, smoothing=smoothing)
    if "<svg" not in html:
        return
    # A title may hold characters that XML has no place for; the page is HTML.
    picture = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", html))
    width, height = view_box(picture)
    for x, y in places(picture):
        assert 0 <= x <= width
        assert 0 <= y <= height
