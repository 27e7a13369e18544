"""Spaces on the Hugging Face Hub: making one, what it is given, and putting its files there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.errors import InvalidSetting
from textgen.files import SPACE_STORAGE
from textgen.hub.client import Token, check_repo_id, explained, open_client, writing_token
from textgen.hub.repositories import file_names, make_repository, upload_files
from textgen.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HARDWARE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# What the Hub itself puts into a new repository.
_MADE_BY_HUB = frozenset({".gitattributes", "README.md"})
_MESSAGE = "Deploy Textgen Studio"


@dataclass(frozen=True)
class SpaceOptions:
    """What a Space is beside its files.

    `variables` are for everybody's eyes, `secrets` are not; variables in `defaults` are set where the Space has none of
    that name, so that what was chosen before stays. `bucket`, USER/NAME, keeps what is written to `SPACE_STORAGE`.
    `hardware` is a name of the Hub's; None leaves it as it is, which for a new Space is the free one.
    """

    private: bool = False
    hardware: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    bucket: str | None = None

    @property
    def zero_gpu(self) -> bool:
        """Whether it has ZeroGPU: a GPU that is lent by the call, for which the program needs other packages."""
        return self.hardware is not None and self.hardware.startswith("zero-")


def check_space(repo_id: str, options: SpaceOptions) -> None:
    """`InvalidSetting` for what cannot be the name of a Space, a bucket, a machine, a variable or a secret."""
    check_repo_id(repo_id)
    if options.hardware is not None and not _HARDWARE.fullmatch(options.hardware):
        raise InvalidSetting("hardware", options.hardware, "the Hub's name of a machine, like cpu-upgrade")
    if options.bucket is not None:
        check_repo_id(options.bucket, field="storage")
    for kind, names in (("variable", {**options.defaults, **options.variables}), ("secret", options.secrets)):
        for name in names:
            if not _VARIABLE.fullmatch(name):
                raise InvalidSetting(kind, name, "a name of letters, digits and “_”")
    for name in options.variables.keys() & options.secrets.keys():
        raise InvalidSetting("secret", name, "another name than that of a variable")


def put_space(
    repo_id: str,
    files: Mapping[str, Path],
    options: SpaceOptions,
    *,
    mark: str,
    token: Token = None,
    endpoint: str | None = None,
    progress: ProgressCallback = ignore_progress,
) -> str:
    """Makes the Space if need be and puts `files` there as one commit; returns its address.

    A Space that has the file `mark` is an earlier one of this program: what else lies in the folders of `files` is
    deleted. Raises `InvalidSetting` for what cannot be a name or a token, for a public Space where a private one was
    asked for, and for one that holds another program; `HubForbidden`, `HubUnreachable`, `HubRefused`.
    """
    check_space(repo_id, options)
    token = writing_token(token)
    api = open_client(token, endpoint)
    with explained(repo_id, api.endpoint, token):
        make_repository(api, repo_id, private=options.private, repo_type="space")
        there = file_names(api, repo_id, repo_type="space")
        if mark not in there and not _MADE_BY_HUB.issuperset(there):
            raise InvalidSetting("repo_id", repo_id, "a new name: another Space of this one is there already")
        # Before the program: the Space is then started once, with all that it needs.
        _furnish(api, repo_id, options)
        if options.hardware is not None:
            hardware: Any = options.hardware  # the Hub knows names that its client does not
            api.request_space_hardware(repo_id, hardware)
        folders = tuple({name.partition("/")[0] + "/" for name in files if "/" in name})
        stale = [name for name in there if name.startswith(folders) and name not in files]
        upload_files(api, repo_id, files, stale, _MESSAGE, repo_type="space", progress=progress)
    return f"{api.endpoint}/spaces/{repo_id}"


def _furnish(api: HfApi, repo_id: str, options: SpaceOptions) -> None:
    """Variables, secrets and storage; a variable that is so already would only start the Space anew."""
    known = {name: variable.value for name, variable in api.get_space_variables(repo_id).items()}
    for name, value in {**options.defaults, **known, **options.variables}.items():
        if known.get(name) != value:
            api.add_space_variable(repo_id, name, value)
    for name, value in options.secrets.items():
        api.add_space_secret(repo_id, name, value)
    if options.bucket is not None:
        from huggingface_hub import Volume

        api.create_bucket(options.bucket, private=True, exist_ok=True)
        api.set_space_volumes(repo_id, [Volume(type="bucket", source=options.bucket, mount_path=str(SPACE_STORAGE))])
