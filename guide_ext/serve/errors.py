# SPDX-License-Identifier: MIT
"""Errors in the shape that clients of OpenAI's API read."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

_LOG = logging.getLogger(__name__)
NO_JSON = "the body must be JSON, sent with content-type application/json"
_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
# OpenAI's codes; without one, the code is null.
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_SAY_WHAT_CAME = ("missing", "value_error", "unsupported_parameter")  # or nothing came
_LONGEST_WORD, _LONGEST_TEXT = 100, 2000  # characters of a message; values may be of any length
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 4},}}")  # longer than when it is cut
_CODES_OF_FIELDS = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
}


class ApiError(Exception):
    """A request that is refused; the message is for the one who sent it.

    Attributes:
        status: HTTP status.
        message: What was expected and what came.
        param: The field of the request, if it was one.
        code: What a program can tell it by, in OpenAI's words; None where OpenAI has none.

    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status)
        if self.code is None and param is not None:
            is_model = (status, param) == (404, "model")
            self.code = "model_not_found" if is_model else "invalid_value"

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer.

        Example:
            >>> error = ApiError(404, "model must be 'embedded'", "model").body()["error"]
            >>> error["type"], error["code"]
            ('not_found_error', 'model_not_found')

        """
        kind = _KINDS.get(self.status, "invalid_request_error")
        param = None if self.param is None else _fit_to_send(self.param)
        error = {"message": _fit_to_send(self.message), "type": kind, "param": param}
        return {"error": {**error, "code": self.code}}


def of_exception(error: Exception) -> ApiError:
    """Return what a client is told of an error; ours are for its eyes.

    Of all others it gets the name; who keeps the server finds the rest in its log.

    Example:
        >>> of_exception(ValueError("delta must be finite")).message
        'delta must be finite'
        >>> of_exception(RuntimeError("a secret")).message
        'the model could not answer: RuntimeError'

    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    _LOG.error("the model could not answer", exc_info=error)
    return ApiError(500, f"the model could not answer: {type(error).__name__}")


def of_validation(found: Sequence[Mapping[str, Any]]) -> ApiError:
    """Say which fields of a body are wrong.

    Args:
        found: What pydantic or FastAPI found.

    """
    lines, param, code = [], None, None
    for one in found[:8]:
        place = [str(part) for part in one["loc"] if part != "body"]
        if one["type"] == "json_invalid" or (
            not isinstance(one.get("input"), Mapping) and not place
        ):
            lines.append(NO_JSON)
            continue
        field = place[0] if place else one.get("ctx", {}).get("field")
        if param is None and field is not None:
            param, code = field, _code(one["type"])
        said = one["msg"].removeprefix("Value error, ")
        if one["type"] in _SAY_WHAT_CAME:
            lines.append(f"{'.'.join(place) or 'the body'}: {said}")
        else:
            lines.append(f"{'.'.join(place)}: {said}, got {_quoted(one.get('input'))}")
    return ApiError(400, "; ".join(dict.fromkeys(lines)), param, code)


def _code(kind: str) -> str | None:
    """Return OpenAI's code for pydantic's kind of error; None for the most general one."""
    return "invalid_type" if kind.endswith("_type") else _CODES_OF_FIELDS.get(kind)


def _fit_to_send(text: str) -> str:
    """Return a text with what a client sent cut short, and without what UTF-8 cannot hold."""
    text = _LONG_WORD.sub(lambda found: f"{found[0][:_LONGEST_WORD]}...", text)
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
