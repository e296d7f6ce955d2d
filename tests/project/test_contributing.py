# SPDX-License-Identifier: MIT
"""CONTRIBUTING.md and the other pages name what there is: folders, files, commands, layers."""

import re
from pathlib import Path, PurePosixPath

import pytest
from cuda_gates.spec import tomllib
from sources import ROOT, tracked

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# Folders of everything: a row of one of them is of the files that lie in it.
ROOTS = ("benchmarks/", "csrc/", "guide_ext/", "tests/")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def section(title):
    """Cut a section, with its heading, out of the page."""
    return re.search(rf"^(#+) {title}\n.*?(?=^##? |\Z)", PAGE, re.DOTALL | re.MULTILINE)[0]


def table(text):
    """The cells of every row of a table."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


LAYOUT = table(section("Layout").partition("### ")[0])
PLACES = [path for row in LAYOUT for path in re.findall(r"`([^`]+)`", row[0])]


def without_place(folders):
    """Name the folders that stand neither in the table nor below a folder that does."""
    deep = tuple(place for place in PLACES if place not in ROOTS)
    return [name for name in folders if name not in PLACES and not name.startswith(deep)]


def test_every_row_says_what_the_folder_is_and_what_it_may_know():
    assert all(len(row) == 3 and all(row) for row in LAYOUT)
    assert len(PLACES) == len(set(PLACES))
    assert all(place.endswith("/") and (ROOT / place).is_dir() for place in PLACES)


def test_every_folder_has_a_place():
    folders = {f"{PurePosixPath(name).parent}/" for name in tracked()}
    folders = sorted(name for name in folders if name.startswith(ROOTS))
    assert set(ROOTS) <= set(folders)
    assert without_place(folders) == []


def test_a_new_folder_would_be_noticed():
    assert without_place(["tests/", "tests/op/"]) == []
    new = ["tests/annex/", "guide_ext/annex/", "csrc/annex/deep/", "benchmarks/annex/"]
    assert without_place(new) == new


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    """Paths from the root, in code; and links, from the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    tops = {name.partition("/")[0] for name in tracked() if "/" in name}
    paths = re.findall(r"(?<![\w./])((?:\w|\.\w)[\w.-]*/[\w./-]*\w/?)(?![\w*<{])", text)
    paths = [path for path in paths if path.partition("/")[0] in tops]
    missing = [path for path in paths if not (ROOT / path).exists()]
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        if not target.exists() or (heading and heading not in headings(target)):
            missing.append(link)
    assert missing == []


def headings(path: Path):
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found]


def test_the_commands_are_those_of_make_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    named = re.findall(r"^make ([a-z-]+) ", section("Commands"), re.MULTILINE)
    assert sorted([*named, "help"]) == sorted(targets)
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets), page


def test_the_layers_are_those_of_the_linter():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    shown = re.search(r"```layers\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    assert shown == layers
