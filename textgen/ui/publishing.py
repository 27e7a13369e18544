"""Functions offered to other programs by way of Gradio: typed, described, with examples, and none of their errors bare.

`gr.api` tells of a function's parameters their types only, and takes whatever comes.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import gradio as gr
from gradio.components.api_component import Api
from gradio.utils import get_function_description
from gradio_client.utils import python_type_to_json_schema
from pydantic import create_model

from textgen.config import GenerationSettings, Settings, parse_settings
from textgen.errors import TextgenError
from textgen.ui.i18n import say_error

_LOGGER = logging.getLogger(__name__)


def publish(
    fn: Callable[..., Any],
    *,
    examples: Mapping[str, Any],
    files: str | None = None,
    concurrency_limit: int | None = None,
    queue: bool = True,
) -> None:
    """Offers `fn` under its name inside the current `gr.Blocks`; a generator function gives its answer piece by piece.

    Its docstring describes it, its parameters (those that are settings of ours need no words) and its answer, which it
    names too; its annotations give their types, by which what comes is checked. `examples` has a value for each
    parameter but `files`, the one that takes uploaded files.
    """
    description, parameters, results = get_function_description(fn)
    hints = get_type_hints(fn)
    given = {
        name: parameter for name, parameter in inspect.signature(fn).parameters.items() if hints[name] is not gr.Request
    }
    for name in given:
        field = GenerationSettings.model_fields.get(name)
        parameters[name] = parameters[name] or (field.description if field and field.description else "")
    called, _, told = results[0].partition(": ")
    with gr.Column(visible=False):
        inputs = [
            _files(name, parameters[name])
            if name == files
            else _value(name, parameters[name], _given(hints[name]), default=parameter.default, example=examples[name])
            for name, parameter in given.items()
        ]
        answer = _value(called, told, _answer(hints["return"]))
    offered = _checked(fn, hints, given)
    offered.__doc__ = _docstring(description, {name: parameters[name] for name in given}, results)
    gr.on(
        [],
        offered,
        inputs,
        [answer],
        api_name=fn.__name__,
        api_visibility="public",
        concurrency_limit=concurrency_limit,
        queue=queue,
        show_progress="hidden",
    )


# A subclass would be neater, but Gradio writes a stub of every subclass of its components beside the source.
def _value(name: str, words: str, kind: Any, *, default: Any = None, example: Any = None) -> Api:
    """A parameter or an answer, which is no part of the page."""
    value = Api(
        None if default is inspect.Parameter.empty else default,
        {**python_type_to_json_schema(kind), **_described(words)},
        name,
    )
    value.example_payload = lambda: example  # type: ignore[method-assign]
    return value


def _files(name: str, words: str) -> gr.File:
    """Files that somebody uploads for an endpoint; Gradio hands over none but those."""
    files = gr.File(label=name, file_count="multiple")
    info = {**files.api_info(), **_described(words)}
    files.api_info = lambda: info  # type: ignore[method-assign]
    return files


def _described(words: str) -> dict[str, str]:
    """A description for those who read the schema, and for Gradio's clients."""
    return {"description": words, "additional_description": words}


def _given(hint: Any) -> Any:
    """The type of what is given; that it may be left out, its default says."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if get_origin(hint) is UnionType and len(kinds) == 1 else hint


def _answer(hint: Any) -> Any:
    """The type of each answer of a function that may give them piece by piece."""
    return get_args(hint)[0] if get_origin(hint) is Iterator else hint


def _docstring(description: str, parameters: Mapping[str, str], results: list[str]) -> str:
    """As Gradio's server for language models (MCP) reads them."""
    lines = [f"    {name}: {words}" for name, words in parameters.items()]
    return "\n".join([description, "", "Parameters:", *lines, "", "Returns:", *(f"    {line}" for line in results)])


def _checked(
    fn: Callable[..., Any], hints: Mapping[str, Any], given: Mapping[str, inspect.Parameter]
) -> Callable[..., Any]:
    """`fn` with its arguments checked, and errors that are sentences."""
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in given.items()
    }
    kind: type[Settings] = create_model(fn.__name__, __base__=Settings, **fields)
    signature = inspect.signature(fn)

    def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        bound = signature.bind(*args, **kwargs).arguments
        checked = parse_settings(kind, {name: value for name, value in bound.items() if name in given})
        return {**bound, **{name: getattr(checked, name) for name in given}}

    @functools.wraps(fn)
    def streaming(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with _in_sentences(fn.__name__):
            yield from fn(**arguments(args, kwargs))

    @functools.wraps(fn)
    def answering(*args: Any, **kwargs: Any) -> Any:
        with _in_sentences(fn.__name__):
            return fn(**arguments(args, kwargs))

    return streaming if inspect.isgeneratorfunction(fn) else answering


@contextmanager
def _in_sentences(name: str) -> Iterator[None]:
    try:
        yield
    except TextgenError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        _LOGGER.exception("/%s failed", name)
        raise gr.Error(say_error(error, "en"), print_exception=False) from None
