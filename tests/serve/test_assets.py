# SPDX-License-Identifier: MIT
"""The files of the page: all of them, nothing else, and what a browser may do with them."""

import re
from pathlib import Path

import pytest
from serving import MODEL, running

import guide_ext.serve
from guide_ext.serve.assets import POLICY, page_files
from guide_ext.serve.settings import Settings

PAGE = Path(guide_ext.serve.__file__).with_name("page")


def test_every_file_is_served(http):
    served = {path.rpartition("/")[2] for path in page_files()}
    assert {path.name for path in PAGE.iterdir()} - {"index.html"} <= served
    for path, kind in (
        ("/", "html"),
        ("/assets/page.css", "css"),
        ("/assets/main.js", "javascript"),
    ):
        found = http.get(path)
        assert found.headers["content-type"] == f"text/{kind}; charset=utf-8"
        assert found.headers["content-security-policy"] == POLICY
        assert found.headers["x-content-type-options"] == "nosniff"


def test_policy():
    parts = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert parts["default-src"] == "'none'"
    assert parts["script-src"] == parts["style-src"] == parts["connect-src"] == "'self'"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


@pytest.mark.parametrize(
    "path",
    [
        "/assets/", "/assets/index.html", "/assets/../app.py", "/assets/%2e%2e/app.py",
        "/assets/..%2fapp.py", "/assets//etc/passwd", "/assets/marks.js/", "/assets/marks.js%00",
        "/assets/influence.css", "/page/marks.js", "/index.html",
    ],
)  # fmt: skip
def test_nothing_else_is_served(http, path):
    assert http.get(path, follow_redirects=False).status_code in (404, 307)
    assert http.get(path, follow_redirects=True).headers["content-type"] != "text/html"
    assert http.post("/assets/marks.js").status_code == 405


def test_without_the_key(loaded):
    with running(*loaded, Settings(MODEL, api_key="secret")) as found, found.http() as http:
        assert http.get("/").status_code == http.get("/assets/main.js").status_code == 200
        assert http.get("/v1/guide").status_code == 401


def test_what_the_page_loads_is_there():
    """Every import and every link; nothing comes from elsewhere or stands in the page."""
    files = {path: response.body.decode() for path, response in page_files().items()}
    for path, text in files.items():
        for name in re.findall(r'(?:from|import) "\./([^"]+)"', text):
            assert f"/assets/{name}" in files, (path, name)
        assert not re.findall(
            r"innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        )
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
    page = files["/"]
    for name in re.findall(r'(?:href|src)="(/[^"]+)"', page):
        assert name in files
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    scripts = " ".join(text for path, text in files.items() if path.endswith(".js"))
    for name in re.findall(r'(?:byId|input|button|complain)\("([\w-]+)"', scripts):
        assert name in ids, name


def test_scripts_are_short_and_checked():
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert "// @ts-check" in text
        assert len(text.splitlines()) <= 300
