"""`textgen deploy`: the app as a Space on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.commands.common import given_token, write_line
from textgen.errors import InvalidSetting
from textgen.files import temporary_folder
from textgen.limits import limits_from
from textgen.terminal import StatusLine

if TYPE_CHECKING:
    from textgen.hub.spaces import SpaceOptions

_TRAINING = "TEXTGEN_TRAINING"
# Variables of a Space are for everybody's eyes.
_SECRET = ("TEXTGEN_ADMIN_KEY", "TEXTGEN_API_KEYS", "HF_TOKEN")


def add_deploy_options(parser: argparse.ArgumentParser) -> None:
    """Adds to `textgen deploy` what the Space is to be."""
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a checkpoint or run to go along, once for each; default: the models that ship",
    )
    parser.add_argument("--private", action="store_true", help="for nobody else's eyes")
    parser.add_argument(
        "--read-only", action="store_true", help="nobody can train there, until --variable TEXTGEN_TRAINING=on"
    )
    parser.add_argument(
        "--storage", metavar="USER/BUCKET", help="keep runs in this storage bucket, which is made if need be"
    )
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help="which machine, like cpu-upgrade, or zero-a10g for a GPU that is lent by the call; default: the free one",
    )
    parser.add_argument(
        "--variable", action="append", default=[], metavar="NAME=VALUE", help="set it there, for everybody's eyes"
    )
    parser.add_argument(
        "--secret", action="append", default=[], metavar="NAME", help="set it there to what it is here, for nobody's"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded and set")


def deploy(options: argparse.Namespace) -> int:
    """`textgen deploy`: makes the Space, or only tells what it would be."""
    from textgen.hub.spaces import check_space
    from textgen.remote import space

    asked = _asked(options)
    if options.dry_run:
        check_space(options.repo_id, asked)
        with temporary_folder() as folder:
            _tell(space.space_files(folder, options.models, zero_gpu=asked.zero_gpu), asked)
        return 0
    line = StatusLine(sys.stderr)
    address = space.deploy(options.repo_id, options.models, asked, token=given_token(options), progress=line.progress)
    line.clear()
    write_line(f"The Space is at {address}; the Hub builds it, which takes some minutes.")
    return 0


def _asked(options: argparse.Namespace) -> SpaceOptions:
    from textgen.hub.spaces import SpaceOptions

    variables = _variables(options.variable)
    if options.read_only and variables.setdefault(_TRAINING, "off") != "off":
        raise InvalidSetting("variable", f"{_TRAINING}={variables[_TRAINING]}", "off with --read-only")
    limits_from(variables, shared=True)  # a Space that is given what cannot be would never start
    return SpaceOptions(
        private=options.private,
        hardware=options.hardware,
        variables=variables,
        defaults={_TRAINING: "on"},
        secrets=_secrets(options.secret),
        bucket=options.storage,
    )


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidSetting("variable", text, "NAME=VALUE")
        if name in _SECRET:
            raise InvalidSetting(
                "variable", name, f"--secret {name}, which takes it from the environment of this command"
            )
        if name == _TRAINING and value not in ("on", "off"):
            raise InvalidSetting("variable", text, f"{_TRAINING}=on or {_TRAINING}=off")
        found[name] = value
    return found


def _secrets(names: list[str]) -> dict[str, str]:
    for name in names:
        if not os.environ.get(name):
            raise InvalidSetting("secret", f"{name} (not set here)", "a variable of this command's environment")
    return {name: os.environ[name] for name in names}


def _tell(files: dict[str, Path], asked: SpaceOptions) -> None:
    sizes = {name: files[name].stat().st_size for name in sorted(files)}
    lines = [f"{size:>12,}  {name}" for name, size in sizes.items()]
    lines.append(f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files")
    lines += [f"variable {name}={value}" for name, value in asked.variables.items()]
    new = {name: value for name, value in asked.defaults.items() if name not in asked.variables}
    lines += [f"variable {name}={value}, where it is not set there yet" for name, value in new.items()]
    lines += [f"secret {name}" for name in asked.secrets]
    lines += [f"storage {asked.bucket}"] if asked.bucket else []
    lines += [f"hardware {asked.hardware}"] if asked.hardware else []
    lines += ["private"] if asked.private else []
    write_line("\n".join(lines))
