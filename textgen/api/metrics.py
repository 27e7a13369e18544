"""What those who watch a host ask for: `/metrics`, in the format of Prometheus.

What engines and runs do is taken from their own figures when somebody asks; only the requests of the routes beside it
are counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Counter as RequestCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from textgen.studio import EVERYBODY, FIRST_TOKEN_BOUNDS_SECONDS, GAP_BOUNDS_SECONDS, EngineFigures, Studio
from textgen.workshop import Workshop

# The states of runs are told also where no run is in one: a watcher cannot tell nothing from zero.
_STATES = ("queued", "preparing", "running", "paused", "stopped", "finished", "failed", "interrupted")


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, studio: Studio, workshop: Workshop | None = None) -> None:
        self._registry = CollectorRegistry()
        self._requests = RequestCounter(
            "textgen_requests", "Requests to the HTTP API.", ("route", "outcome"), registry=self._registry
        )
        self._registry.register(_Figures(studio, workshop))
        ProcessCollector(registry=self._registry)

    def count(self, route: str, outcome: str) -> None:
        """A request has been answered, or has not."""
        self._requests.labels(route, outcome).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, in the format that the client accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Figures(Collector):
    def __init__(self, studio: Studio, workshop: Workshop | None) -> None:
        self._studio = studio
        self._workshop = workshop

    def describe(self) -> Iterator[Metric]:
        """Nothing: Prometheus would collect everything only to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        figures = self._studio.figures()
        yield from _of_engines(figures.engines)
        for name, help_text, value in (
            ("textgen_running_streams", "Requests that models are working on.", figures.running_requests),
            ("textgen_waiting_requests", "Requests that wait for rows.", figures.waiting_requests),
            ("textgen_models_loaded", "Models in memory.", figures.models_in_memory),
            ("textgen_models_bytes", "Memory that they take, as the studio counts it.", figures.models_bytes),
        ):
            yield GaugeMetricFamily(name, help_text, value=value)
        yield CounterMetricFamily("textgen_model_loads", "Models loaded into memory.", value=figures.model_loads)
        if self._workshop is not None:
            states: Counter[str] = Counter(view.state for view in self._workshop.runs(EVERYBODY))
            runs = GaugeMetricFamily("textgen_runs", "Training runs by state.", labels=["state"])
            for state in _STATES:
                runs.add_metric([state], states[state])
            yield runs


def _of_engines(figures: EngineFigures) -> Iterator[Metric]:
    written, read = figures.generated_tokens, figures.prompt_tokens
    yield CounterMetricFamily("textgen_generated_tokens", "Tokens written, for the page and the API.", value=written)
    yield CounterMetricFamily("textgen_prompt_tokens", "Tokens of prompts read, remembered ones left out.", value=read)
    ended = CounterMetricFamily("textgen_generations", "Texts written, by why they ended.", labels=["reason"])
    for reason, times in sorted(figures.ended.items()):
        ended.add_metric([reason], times)
    yield ended
    gaps = HistogramMetricFamily("textgen_token_gap_seconds", "Time between two tokens of a text.")
    gaps.add_metric([], _buckets(GAP_BOUNDS_SECONDS, figures.gaps), figures.gap_seconds)
    yield gaps
    firsts = HistogramMetricFamily("textgen_first_token_seconds", "Time from a request to the first token of a text.")
    firsts.add_metric([], _buckets(FIRST_TOKEN_BOUNDS_SECONDS, figures.first_tokens), figures.first_token_seconds)
    yield firsts


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus has them: under each bound all that is below it."""
    return list(zip([*(f"{bound:g}" for bound in bounds), "+Inf"], accumulate(counts), strict=True))
