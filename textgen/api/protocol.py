"""What a client may ask of `/v1/completions`, checked, and the errors that it gets.

The fields are those of OpenAI's completions endpoint (https://platform.openai.com/docs/api-reference/completions);
beside them any setting of ours may be given under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from textgen.config import GenerationSettings, update_settings
from textgen.errors import (
    Busy,
    DeadlineExceeded,
    EngineClosed,
    InvalidSetting,
    LearningElsewhere,
    NotFound,
    TextgenError,
)
from textgen.limits import Limits

TokenIds = list[StrictInt]
Body = TypeVar("Body", bound=BaseModel)
MOST_LOGPROBS = 50
# Of all tokens and what might have stood in their places, those of the prompt included: some 25 MB of JSON.
MOST_LOGPROBS_AT_ONCE = 1_000_000
_LONGEST_MESSAGE = 1_000
_PROMPTS = "Input should be a text, a list of texts, token ids or a list of lists of these"
# What a completion request says under another name.
_RENAMED = {"max_new_tokens", "num_samples", "num_beams", "num_return", "top_logprobs"}
OUR_EXTRAS = tuple(name for name in GenerationSettings.model_fields if name not in _RENAMED)


class ApiError(Exception):
    """An answer other than success: HTTP `status` and `headers`, and what OpenAI's clients make exceptions of."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if len(message) > _LONGEST_MESSAGE:  # it repeats what was given
            message = f"{message[: _LONGEST_MESSAGE // 2]} … {message[-_LONGEST_MESSAGE // 2 :]}"
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """The body of a request; `extras` are settings of ours under their own names."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    prompt: str | TokenIds | list[StrictStr] | list[TokenIds] = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    n: Annotated[int, Field(ge=1)] = 1
    best_of: Annotated[int, Field(ge=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool = False
    stop: str | list[str] | None = None
    suffix: str | None = None
    user: str | None = None

    @property
    def prompts(self) -> list[str | TokenIds]:
        """The prompts one by one: a list of numbers is one of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)

    @property
    def searches(self) -> bool:
        """Whether beams look for the best texts: where more are to be looked at than returned."""
        return self.best_of is not None and self.best_of > self.n

    def settings(self, defaults: GenerationSettings) -> GenerationSettings:
        """How to write; what is not given is as the model's own `defaults`. Raises `InvalidSetting`."""
        values: dict[str, Any] = dict(self.model_extra or {})
        if values.get("seed") == -1:  # many clients' word for any
            values["seed"] = None
        if self.stop is not None:
            values["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        beams = {"num_beams": self.best_of, "num_return": self.n} if self.searches else {"num_samples": self.n}
        values |= {"max_new_tokens": max(1, self.max_tokens), "top_logprobs": self.logprobs or 0, **beams}
        plain = defaults.model_copy(update={"num_beams": 1, "num_return": 1, "num_samples": 1, "num_beam_groups": 1})
        if "min_new_tokens" not in values:
            plain = plain.model_copy(update={"min_new_tokens": 0})
        return update_settings(plain, **values)


def parse_body(kind: type[Body], body: object) -> Body:
    """What a JSON body says, null meaning a field's default; raises `ApiError` naming the field."""
    if not isinstance(body, dict):
        raise ApiError(400, "The body is to be a JSON object.")
    try:
        return kind.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else None
        problem = _PROMPTS if param == "prompt" and kind is CompletionRequest else first["msg"]
        raise ApiError(400, f"{param or 'body'}: {problem}", param=param) from None


def parse_request(body: object, limits: Limits) -> CompletionRequest:
    """The request in a JSON body; raises `ApiError` naming the field."""
    request = parse_body(CompletionRequest, body)
    unknown = [name for name in request.model_extra or {} if name not in OUR_EXTRAS]
    if unknown:
        raise ApiError(400, f"{unknown[0]}: unknown argument", param=unknown[0], code="unknown_parameter")
    _check(request, limits)
    return request


def _check(request: CompletionRequest, limits: Limits) -> None:
    rows = len(request.prompts) * max(request.n, request.best_of or 1)
    if rows > limits.max_rows:
        several = {"n": request.n, "best_of": request.best_of or 1, "prompt": len(request.prompts)}
        param = max(several, key=lambda name: several[name])
        raise ApiError(400, f"{param}: {rows} texts at once; allowed: at most {limits.max_rows}", param=param)
    if request.best_of is not None and request.best_of < request.n:
        raise ApiError(400, f"best_of: {request.best_of}; allowed: at least n ({request.n})", param="best_of")
    if request.searches and request.stream:
        raise ApiError(400, "stream: the best of several texts is known at the end only", param="stream")
    if request.suffix:
        allowed = "nothing, for texts are written from their beginning on"
        raise ApiError(400, f"suffix: a text was given; allowed: {allowed}", param="suffix")
    if request.max_tokens == 0 and not request.echo:
        raise ApiError(400, "max_tokens: 0; allowed: at least 1, or 0 with echo", param="max_tokens")


def as_api_error(error: ApiError | TextgenError) -> ApiError:
    """An error of ours in the client's terms."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NotFound):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, InvalidSetting):
        named = str(error.params["field"])
        asked = {"max_new_tokens": "max_tokens", "num_samples": "n", "num_beams": "best_of", "num_return": "n"}.get(
            named
        )
        # By the name that the client has given it.
        sentence = str(error).replace(f"{named}: ", f"{asked}: ", 1) if asked else str(error)
        return ApiError(400, sentence, param=asked or named.partition(".")[0])
    if isinstance(error, Busy | LearningElsewhere):
        return ApiError(429, str(error), kind="rate_limit_error", code="rate_limit_exceeded")
    if isinstance(error, DeadlineExceeded | EngineClosed):
        return ApiError(503, str(error), kind="server_error")
    return ApiError(500, str(error), kind="server_error")
