"""Settings as command-line options: names, help and checks come from `textgen.config`."""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from textgen.config import Settings


def add_settings(
    parser: argparse.ArgumentParser,
    section: str,
    kind: type[Settings],
    *,
    leave_out: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Adds an option for each field of `kind`; what is given lands in `options.SECTION`, see `given_settings`."""
    group = parser.add_argument_group(f"{section} settings")
    for name, field in kind.model_fields.items():
        if name in leave_out:
            continue
        flag = "--" + name.replace("_", "-")
        annotation = _plain(field.annotation)
        default = "" if field.default in (None, (), {}) else f" (default {field.default})"
        described = f"{field.description or name}{default}".replace("%", "%%")
        arguments: dict[str, Any] = {"dest": f"{section}.{name}", "default": argparse.SUPPRESS, "help": described}
        if annotation is bool:
            parser_action: Any = argparse.BooleanOptionalAction
            group.add_argument(flag, action=parser_action, **arguments)
        elif get_origin(annotation) is dict:
            group.add_argument(flag, action="append", type=_pair, metavar="ID=VALUE", **arguments)
        elif get_origin(annotation) is tuple:
            group.add_argument(flag, action="append", metavar="TEXT", **arguments)
        elif get_origin(annotation) is Literal:
            group.add_argument(flag, choices=(choices or {}).get(name, get_args(annotation)), **arguments)
        else:
            group.add_argument(flag, type=annotation, metavar=_metavar(annotation), **arguments)


def given_settings(options: argparse.Namespace, section: str) -> dict[str, Any]:
    """The settings of `section` that were given on the command line."""
    prefix = section + "."
    found = {name.removeprefix(prefix): value for name, value in vars(options).items() if name.startswith(prefix)}
    return {name: dict(value) if _is_pairs(value) else value for name, value in found.items()}


def _plain(annotation: Any) -> Any:
    """`int` for `int | None` and for an annotated `int`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _metavar(annotation: Any) -> str:
    return {int: "N", float: "X", str: "TEXT"}.get(annotation, "VALUE")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not of the form ID=VALUE")
    return name, value


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, tuple) for item in value)
