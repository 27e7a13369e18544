"""The losses of one or several runs as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from textgen.ui.i18n import Language, say

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 34.0
# Room that half of a label takes where the page is narrow and labels are large.
_HALF_LABEL = 36.0
_MOST_POINTS = 360
_LOSSES = (1e-6, 1e6)
_MOST_SMOOTHING = 0.999
_FEWEST_LOG_TICKS, _MOST_LOG_TICKS = 3, 7
# Within a decade, the finest first.
_MANTISSAS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
# A label that is left out where the page is narrow.
_BETWEEN = ' class="between"'


@dataclass(frozen=True)
class Curve:
    """One run: (step, nats per character) of its training and of its held-out text."""

    title: str
    training: Sequence[Point]
    held_out: Sequence[Point]


def loss_plot(curves: Sequence[Curve], language: Language, *, logarithmic: bool = False, smoothing: float = 0.0) -> str:
    """An SVG with a legend; a sentence where there is nothing to draw yet. `smoothing` is the share of the past."""
    curves = [Curve(curve.title, _drawable(curve.training), _drawable(curve.held_out)) for curve in curves]
    trainings = [_thinned(_smoothed(curve.training, smoothing)) for curve in curves]
    evaluations = [_thinned(curve.held_out) for curve in curves]
    bests = [_best(curve.held_out) for curve in curves if curve.held_out]
    points = [*bests, *(point for line in (*evaluations, *trainings) for point in line)]
    if not points:
        return f'<p class="hint plot-empty">{escape(say("plot_empty", language))}</p>'
    axes = _Axes(points, logarithmic)
    parts = [axes.grid(language)]
    for number, (curve, training, held_out) in enumerate(zip(curves, trainings, evaluations, strict=True)):
        parts.append(f'<polyline class="training run-{number}" points="{axes.path(training)}"/>')
        parts.append(f'<polyline class="held-out run-{number}" points="{axes.path(held_out)}"/>')
        parts += [axes.dot(point, f"run-{number}") for point in held_out]
        if curve.held_out:
            parts.append(axes.dot(_best(curve.held_out), f"best run-{number}", radius=6.0))
    label = escape(_spoken(curves, language))
    svg = f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}">{"".join(parts)}</svg>'
    return f'<figure class="loss-plot"><figcaption>{_legend(curves, language)}</figcaption>{svg}</figure>'


class _Axes:
    """From steps and losses to places in the picture."""

    def __init__(self, points: Sequence[Point], logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._last = max(1.0, *(step for step, _ in points))
        values = sorted(value for _, value in points)
        # The first moments of a fresh model would squeeze everything after them against the floor.
        highest = values[min(len(values) - 1, int(0.98 * len(values)))]
        low, high = self._scaled(values[0]), self._scaled(max(highest, values[0] * 1.02))
        margin = 0.06 * (high - low) or 0.01
        self._low, self._high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log(value) if self._logarithmic else value

    def x(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self._last

    def y(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(1.0, max(0.0, share))

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)

    def dot(self, point: Point, name: str, radius: float = 2.6) -> str:
        step, value = point
        title = f"<title>{step:,.0f}: {value:.4f}</title>"
        return f'<circle class="{name}" cx="{self.x(step):.1f}" cy="{self.y(value):.1f}" r="{radius}">{title}</circle>'

    def grid(self, language: Language) -> str:
        low, high = self._low, self._high
        if self._logarithmic:
            low, high = math.exp(low), math.exp(high)
        lines = []
        for value in _log_ticks(low, high) if self._logarithmic else _ticks(low, high, 5):
            y = self.y(value)
            lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{_LEFT - 6}" y="{y:.1f}" dy="0.35em" text-anchor="end">{value:g}</text>')
        bottom = _HEIGHT - _BOTTOM
        for number, step in enumerate(_ticks(0.0, self._last, 6, least=1.0)):
            x = self.x(step)
            anchor = "end" if x > _WIDTH - _RIGHT - _HALF_LABEL else "middle"
            place = f'x="{x:.1f}" y="{bottom}" dy="1.25em" text-anchor="{anchor}"'
            lines.append(f"<text {place}{_BETWEEN if number % 2 else ''}>{step:,.0f}</text>")
        unit = escape(say("plot_steps", language))
        lines.append(f'<text x="{_WIDTH - _RIGHT}" y="{bottom}" dy="2.5em" text-anchor="end">{unit}</text>')
        return f'<g class="grid">{"".join(lines)}</g>'


def _ticks(low: float, high: float, count: int, *, least: float = 0.0) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them, `least` apart at least."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = max(least, next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough))
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that stand about as far from one another on a logarithmic scale, seven at most.

    Where there are none, as between 1.52 and 1.58, any round numbers.
    """
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    every = 1 + (last - first) // _MOST_LOG_TICKS
    decades = [10.0**power for power in range(first, last + 1) if power % every == 0]

    def ticks(mantissas: Sequence[float]) -> list[float]:
        values = (float(f"{decade * mantissa:.6g}") for decade in decades for mantissa in mantissas)
        return [value for value in values if low <= value <= high]

    choices = [ticks(mantissas) for mantissas in (_MANTISSAS if every == 1 else ((1,),))]
    chosen = next(choice for choice in choices if len(choice) <= _MOST_LOG_TICKS)
    return chosen if len(chosen) >= _FEWEST_LOG_TICKS else _ticks(low, high, 5)


def _drawable(points: Sequence[Point]) -> list[Point]:
    """What has a place in the picture; losses beyond any that a run could have are drawn at its edge."""
    return [
        (step, min(_LOSSES[1], max(_LOSSES[0], value)))
        for step, value in points
        if math.isfinite(step) and step >= 0.0 and math.isfinite(value) and value > 0.0
    ]


def _smoothed(points: Sequence[Point], share: float) -> list[Point]:
    """Exponentially, without the bias of the beginning."""
    share = min(_MOST_SMOOTHING, max(0.0, share))
    mean = weight = 0.0
    smoothed = []
    for step, value in points:
        mean, weight = share * mean + (1.0 - share) * value, share * weight + (1.0 - share)
        smoothed.append((step, mean / weight))
    return smoothed


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Means of neighbours: as many points as the picture can show."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _best(points: Sequence[Point]) -> Point:
    return min(points, key=lambda point: (point[1], point[0]))


def _legend(curves: Sequence[Curve], language: Language) -> str:
    title = f"<strong>{escape(say('plot_title', language))}</strong>"
    several = len(curves) > 1
    items = []
    for number, curve in enumerate(curves):
        name = f"{escape(curve.title)}: " if several else ""
        items.append(f'<span class="key training run-{number}"></span>{name}{escape(say("plot_training", language))}')
        if curve.held_out:
            step, value = _best(curve.held_out)
            best = escape(say("plot_best", language, value=f"{value:.3f}", step=f"{step:,.0f}"))
            held_out = escape(say("plot_held_out", language))
            items.append(f'<span class="key held-out run-{number}"></span>{name}{held_out}, {best}')
    return title + "".join(f"<span>{item}</span>" for item in items)


def _spoken(curves: Sequence[Curve], language: Language) -> str:
    told = [say("plot_title", language)]
    for curve in curves:
        if curve.held_out:
            step, value = _best(curve.held_out)
            told.append(f"{curve.title}: {say('plot_best', language, value=f'{value:.3f}', step=f'{step:,.0f}')}")
    return ". ".join(told)
