# SPDX-License-Identifier: MIT
"""The page: exactly these files, read once. No path of a request reaches the file system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

# The page may run its own files and ask its own server, and no more.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGE = (
    "answers.js", "api.js", "dom.js", "editor.js", "exports.js", "history.js", "influence.js",
    "keys.js", "main.js", "marks.js", "page.css", "requests.js", "sources.js", "sweep.js",
    "tokens.js",
)  # fmt: skip
# What the page shares with the report about Influence.
_SHARED = {
    "base.css": "guide_ext.report",
    "report.css": "guide_ext.report.influence",
    "values.js": "guide_ext.report.influence",
}
_NAMES = {"report.css": "influence.css"}


def page_files() -> dict[str, Response]:
    """Return every file of the page by its path.

    Example:
        >>> found = page_files()
        >>> found["/"].media_type, found["/assets/marks.js"].media_type
        ('text/html', 'text/javascript')

    """
    page = files("guide_ext.serve").joinpath("page")
    found = {"/": _response("index.html", page.joinpath("index.html").read_bytes())}
    for name in _PAGE:
        found[f"/assets/{name}"] = _response(name, page.joinpath(name).read_bytes())
    for name, package in _SHARED.items():
        data = files(package).joinpath(_NAMES.get(name, name)).read_bytes()
        found[f"/assets/{name}"] = _response(name, data)
    return found


def _response(name: str, data: bytes) -> Response:
    return Response(
        data,
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={"content-security-policy": POLICY},
    )


def add_page(app: FastAPI) -> None:
    """Add the page and its files, a route each."""
    for path, response in page_files().items():
        app.add_api_route(path, _giver(response), methods=["GET"], include_in_schema=False)


def _giver(response: Response) -> Callable[[], Awaitable[Response]]:
    async def give() -> Response:
        return response

    return give
