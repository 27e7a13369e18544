"""The client of the Hugging Face Hub as all of this package uses it: names, tokens, and its errors as ours.

A token is handed to the client and nowhere else. `None` means the one that the machine is logged in with, `False` none.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from textgen.errors import (
    CannotWrite,
    HubForbidden,
    HubGated,
    HubNoRevision,
    HubNotFound,
    HubRefused,
    HubUnreachable,
    InvalidSetting,
    TextgenError,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Token = str | bool | None

_LOGGER = logging.getLogger(__name__)
_TOKEN = re.compile(r"[!-~]+")
_MOST_REASON_CHARS = 200
# Of the page of a model, or of what is shown of one of its revisions or files.
_ADDRESS = re.compile(
    r"(?:https?://)?(?P<host>[^/]+)/(?!datasets/|spaces/)(?P<owner>[^/]+)/(?P<name>[^/?#]+)"
    r"(?:/tree/(?P<tree>[^?#]+?)|/blob/(?P<blob>[^/?#]+)/[^?#]+)?/?(?:[?#].*)?"
)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


def open_client(token: Token, endpoint: str | None) -> HfApi:
    """The Hub's own client; `endpoint` None is the one that HF_ENDPOINT names, or the public one."""
    from huggingface_hub import HfApi  # slow to import

    from textgen import __version__

    return HfApi(endpoint=endpoint, token=token, library_name="textgen-studio", library_version=__version__)


def check_repo_id(repo_id: str, *, field: str = "repo_id") -> None:
    """`InvalidSetting` for `field` when it cannot be the name of a repository."""
    if not is_repo_id(repo_id):
        raise InvalidSetting(field, repo_id, "USER/NAME, of letters, digits, “-”, “_” and “.”")


def split_address(text: str, endpoint: str | None = None) -> tuple[str, str | None]:
    """The name of a model's repository and, where there is one, the revision: of the name, or of a page's address.

    What is neither comes back as it is. `endpoint` is as of `open_client`.
    """
    from huggingface_hub import constants

    found = _ADDRESS.fullmatch(text.strip())
    if found is None or found["host"] not in (*_HOSTS, urlsplit(endpoint or constants.ENDPOINT).netloc):
        return text, None
    revision = found["tree"] or found["blob"]
    return f"{found['owner']}/{found['name']}", unquote(revision) if revision else None


def is_repo_id(text: str) -> bool:
    """Whether it can be the name of a repository, its owner's included."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # for all to use, by its docs

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def checked_token(token: Token) -> Token:
    """The token without what came along when it was copied. What no header can hold must not end up in an error."""
    if not isinstance(token, str):
        return token
    if not _TOKEN.fullmatch(token.strip()):
        raise InvalidSetting("token", "something else", "a token of the Hub")
    return token.strip()


def reading_token(token: Token) -> Token:
    """`checked_token`, also of the machine's login, which the client would send where none is given."""
    from huggingface_hub import get_token

    checked_token(get_token() if token in (None, True) else token)
    return checked_token(token)


def writing_token(token: Token) -> str:
    """The token itself, of the machine's login where none is given; `InvalidSetting` when there is none."""
    from huggingface_hub import get_token

    found = checked_token(get_token() if token in (None, True) else token)
    if not isinstance(found, str):
        raise InvalidSetting("token", "none", "a token of the Hub that may write")
    return found


@contextmanager
def explained(repo: str, endpoint: str, token: Token, *, revision: str | None = None) -> Iterator[None]:
    """Turns what the client raises into errors of ours; `revision` is what was asked for of the repository."""
    try:
        yield
    except TextgenError:
        raise
    except Exception as error:
        from huggingface_hub.errors import RevisionNotFoundError

        host = urlsplit(endpoint).netloc or endpoint
        # Not chained: whoever prints a chain prints what the client has said of its request.
        if isinstance(error, RevisionNotFoundError) and revision is not None:
            raise HubNoRevision(repo, revision, host) from None
        ours = _as_ours(error, repo, host, token)
        if isinstance(ours, HubRefused) and not isinstance(error, (OSError, ValueError)):
            # Nothing that a server says or a disk does: a mistake of the program. Its message may hold the token.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _LOGGER.error("the client of the Hub failed with %s at\n%s", type(error).__name__, frames)
        raise ours from None


def _as_ours(error: BaseException, repo: str, host: str, token: Token) -> TextgenError:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, TextgenError):
        return error
    if isinstance(error, GatedRepoError):
        return HubGated(repo, host)
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)):
        return HubNotFound(repo, host)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return HubForbidden(repo, host)
        if status == 404:
            return HubNotFound(repo, host)
        reason = one_line(error.server_message or f"HTTP {status}", token)
        return HubUnreachable(repo, host, reason) if status >= 500 else HubRefused(repo, host, reason)
    # The client says of some failures only that there was one; what it was is the error behind.
    if isinstance(error.__cause__, (HfHubHTTPError, TextgenError)):
        return _as_ours(error.__cause__, repo, host, token)
    if is_connection(error):
        return HubUnreachable(repo, host, one_line(str(error.__cause__ or error) or type(error).__name__, token))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return CannotWrite(str(error.filename or repo), error.strerror or os.strerror(error.errno))
    return HubRefused(repo, host, one_line(str(error) or type(error).__name__, token))


def is_connection(error: BaseException) -> bool:
    """Whether another try may do better: no connection, one that broke, a server in trouble."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, LocalEntryNotFoundError):
        return not isinstance(error.__cause__, HfHubHTTPError) or is_connection(error.__cause__)
    cause = error.__cause__
    broken = isinstance(error, OSError) and error.errno is None and not isinstance(error, TextgenError)
    return isinstance(error, (TransportError, ConnectionError)) or broken or isinstance(cause, TransportError)


def one_line(text: str, token: Token) -> str:
    """What a server said, short, in one line, and without the token."""
    line = " ".join(text.split()).rstrip(".")
    if isinstance(token, str):
        line = line.replace(token, "…")
    return line if len(line) <= _MOST_REASON_CHARS else line[:_MOST_REASON_CHARS] + "…"
