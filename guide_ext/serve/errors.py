# SPDX-License-Identifier: MIT
"""Errors in the shape that clients of OpenAI's API read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NO_JSON = "the body must be JSON, sent with content-type application/json"
_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """A request that is refused; the message is for the one who sent it.

    Attributes:
        status: HTTP status.
        message: What was expected and what came.
        param: The field of the request, if it was one.

    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer.

        Example:
            >>> ApiError(400, "model must be 'embedded'", "model").body()["error"]["type"]
            'invalid_request_error'

        """
        kind = _KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": None}
        return {"error": error}


def of_validation(found: Sequence[Mapping[str, Any]]) -> ApiError:
    """Say which fields of a body are wrong.

    Args:
        found: What pydantic or FastAPI found.

    """
    lines, param = [], None
    for one in found[:8]:
        place = [str(part) for part in one["loc"] if part != "body"]
        if one["type"] == "json_invalid" or (
            not isinstance(one.get("input"), Mapping) and not place
        ):
            lines.append(NO_JSON)
            continue
        param = param or (place[0] if place else None)
        said = one["msg"].removeprefix("Value error, ")
        if one["type"] in ("missing", "value_error"):  # these say what came, or nothing came
            lines.append(f"{'.'.join(place) or 'the body'}: {said}")
        else:
            lines.append(f"{'.'.join(place)}: {said}, got {_quoted(one.get('input'))}")
    return ApiError(400, "; ".join(dict.fromkeys(lines)), param)


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
