# SPDX-License-Identifier: MIT
"""A study is one file: no other file of the package names it."""

import ast
import functools
from pathlib import Path

import pytest

import guide_ext
from guide_ext.studies.registry import STUDIES

PACKAGE = Path(guide_ext.__file__).parent
FOLDER = PACKAGE / "studies"
# The one exception: the embedded world has tasks of its own, and three are called as studies are.
# Their names stand in the saved quality of its model, and the world cannot import the studies.
WORLD = PACKAGE / "embedded"
FILES = [path for path in PACKAGE.rglob("*.py") if WORLD not in path.parents]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def names_in(path):
    """Return the texts of a file that are no docstrings."""
    tree = parsed(path)
    remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in remarks
    }


def imports_of(path):
    """Return the modules and names that a file imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            yield from ({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def home(study):
    """Return the one file that names a study."""
    (path,) = [path for path in FILES if study in names_in(path)]
    return path


@pytest.mark.parametrize("name", STUDIES)
def test_one_file_names_a_study(name):
    path = home(name)
    assert path.parent == FOLDER
    assert "STUDY = Study(" in path.read_text(encoding="utf-8")


def test_only_studies_and_their_list_import_studies():
    homes = {home(name) for name in STUDIES}
    modules = {f"guide_ext.studies.{path.stem}" for path in homes}
    for path in FILES:
        if path not in homes | {FOLDER / "registry.py"}:
            assert not modules & set(imports_of(path)), path


def test_every_study_is_listed():
    found = {path for path in FOLDER.glob("*.py") if "STUDY = Study(" in path.read_text("utf-8")}
    assert found == {home(name) for name in STUDIES}


def test_no_file_is_long():
    for path in FOLDER.rglob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 400, path
