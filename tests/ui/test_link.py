from __future__ import annotations

from urllib.parse import parse_qs, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.limits import Limits
from textgen.ui.controls import PAGE_DEFAULTS, controls
from textgen.ui.link import Link, query_of, read_query, with_seed

CONTROLS = controls(Limits())


def read(query: str) -> Link:
    link = read_query(query, CONTROLS, lambda name: name == "tiny")
    assert link is not None
    return link


def test_only_what_differs_from_the_defaults_is_in_a_link() -> None:
    assert query_of("tiny", "Once", PAGE_DEFAULTS) == "model=tiny&prompt=Once"
    changed = PAGE_DEFAULTS.model_copy(update={"temperature": 0.5, "seed": 7, "ignore_eos": True})
    assert parse_qs(query_of("tiny", "a b\n", changed)) == {
        "model": ["tiny"],
        "prompt": ["a b\n"],
        "temperature": ["0.5"],
        "ignore_eos": ["1"],
        "seed": ["7"],
    }


texts = st.lists(st.text(min_size=1, max_size=6), max_size=4).map(tuple)


@given(
    prompt=st.text(max_size=200),
    temperature=st.integers(0, 40).map(lambda value: value / 20),
    stop=texts,
    banned=texts,
    seed=st.none() | st.integers(0, 2**63 - 1),
    bias=st.dictionaries(st.integers(0, 10**6), st.integers(-80, 80).map(lambda value: value / 8), max_size=4),
    early=st.sampled_from(["no", "yes", "never"]),
    beams=st.sampled_from([(1, 1, 1), (4, 2, 3), (6, 3, 6)]),
)
def test_a_link_holds_all_that_made_the_text(
    prompt: str,
    temperature: float,
    stop: tuple[str, ...],
    banned: tuple[str, ...],
    seed: int | None,
    bias: dict[int, float],
    early: str,
    beams: tuple[int, int, int],
) -> None:
    settings = PAGE_DEFAULTS.model_copy(
        update={
            "temperature": temperature,
            "stop": stop,
            "banned": banned,
            "seed": seed,
            "logit_bias": bias,
            "early_stopping": early,
            **dict(zip(("num_beams", "num_beam_groups", "num_return"), beams, strict=True)),
        }
    )
    link = read(query_of("tiny", prompt, settings))
    assert link == Link("tiny", prompt, settings, ())


def test_a_text_too_long_for_an_address_is_left_out() -> None:
    query = query_of("tiny", "月" * 2000, PAGE_DEFAULTS.model_copy(update={"top_k": 3}))
    assert query == "model=tiny&top_k=3"
    link = read(query)
    assert (link.prompt, link.settings.top_k) == (None, 3)


@pytest.mark.parametrize("query", ["", "__theme=dark", "__lang=zh&__sign=x"])
def test_an_address_without_settings_is_no_link(query: str) -> None:
    assert read_query(query, CONTROLS, bool) is None


@pytest.mark.parametrize(
    ("query", "ignored"),
    [
        ("foo=1", ["foo"]),
        ("model=gone", ["model"]),
        ("temperature=hot", ["temperature"]),
        ("temperature=", ["temperature"]),
        ("temperature=nan", ["temperature"]),
        ("temperature=3", ["temperature"]),  # allowed elsewhere, but no slider of the page shows it
        ("max_new_tokens=4000", ["max_new_tokens"]),
        ("num_beams=17", ["num_beams"]),
        ("num_samples=0", ["num_samples"]),
        ("seed=-1", ["seed"]),
        ("seed=", ["seed"]),
        ("stop=", ["stop"]),
        ("logit_bias=a:b", ["logit_bias"]),
        ("logit_bias=1", ["logit_bias"]),
        ("logit_bias=1:inf", ["logit_bias"]),
        ("early_stopping=maybe", ["early_stopping"]),
        ("ignore_eos=perhaps", ["ignore_eos"]),
        ("num_return=3", ["num_return"]),  # more than the beams there are
        ("num_beams=3&num_beam_groups=2", ["num_beam_groups"]),
        ("min_new_tokens=500", ["min_new_tokens"]),
        ("num_beams=2&num_samples=2", ["num_samples"]),
        ("x" * 200_000, ["…"]),
        ("&".join(f"a{number}=1" for number in range(1000)), ["…"]),
    ],
)
def test_what_is_not_understood_is_named_and_left_out(query: str, ignored: list[str]) -> None:
    link = read(query)
    assert list(link.ignored) == ignored
    assert all(getattr(link.settings, name, None) == getattr(PAGE_DEFAULTS, name, None) for name in ignored)


def test_the_rest_of_a_link_counts_all_the_same() -> None:
    link = read(f"prompt=Once&temperature=0.3&top_k=many&{quote('<b>')}=1&min_new_tokens=400&max_new_tokens=500")
    assert link.prompt == "Once"
    assert (link.settings.temperature, link.settings.min_new_tokens) == (0.3, 400)
    assert link.ignored == ("top_k", "<b>")


def test_long_lists_of_strange_names_are_cut() -> None:
    link = read("&".join(f"{'n' * 100}{number}=1" for number in range(30)))
    assert len(link.ignored) == 8
    assert max(map(len, link.ignored)) == 40


@given(st.text())
def test_no_address_breaks_the_page(query: str) -> None:
    for made in (query, quote(query), f"prompt={query}&temperature={query}&logit_bias={query}&stop={query}"):
        read_query(made, CONTROLS, bool)


def test_the_seed_is_in_a_link_where_chance_had_a_part() -> None:
    beams = PAGE_DEFAULTS.model_copy(update={"num_beams": 2})
    assert with_seed(PAGE_DEFAULTS, 5).seed == 5
    assert with_seed(beams, 5).seed is None
    assert with_seed(beams.model_copy(update={"beam_sampling": True}), 5).seed == 5
