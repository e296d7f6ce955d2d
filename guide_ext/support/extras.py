# SPDX-License-Identifier: MIT
"""Optional dependencies: check that one is installed, or say which command installs it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

# The extra of this package that installs a module, see `[project.optional-dependencies]`.
_EXTRAS = {
    "transformers": "transformers",
    "scipy": "transformers",
    "typer": "cli",
    "rich": "cli",
    "markupsafe": "report",
    "matplotlib": "report",
    "PIL": "report",
    "ray": "ray",
}
_OTHERS = "studies"

# The module that the tables of a task or study need, and its purpose.
_NEEDS = {
    "french": ("py3langid", "to tell languages"),
    "sft": ("peft", "to fine-tune"),
    "bertscore": ("bert_score", "to compare summaries with references"),
}


def require_all(names: Iterable[str]) -> None:
    """Check that the optional packages of some tasks and studies are installed, before they run.

    Args:
        names: Tasks and studies, and ``"bertscore"`` if it is wanted.

    Raises:
        MissingPackageError: If a package is not installed.

    """
    for name in names:
        if name in _NEEDS:
            module, purpose = _NEEDS[name]
            require(module, purpose)


class MissingPackageError(NotImplementedError, ImportError):
    """An optional package that is needed now is not installed."""


def require(module: str, purpose: str) -> Any:
    """Import a module of an optional dependency and return it.

    Args:
        module: Its name.
        purpose: What it is needed for, such as ``"to read JSON"``; part of the error message.

    Raises:
        MissingPackageError: If it is not installed.

    Example:
        >>> require("json", "to read JSON").loads("1")
        1
        >>> require("no_such_module", "to do nothing")
        Traceback (most recent call last):
        ...
        guide_ext.support.extras.MissingPackageError: no_such_module must be installed to do
        nothing; get it with: pip install 'guide_ext[studies]'

    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or _package(module) != _package(error.name):
            raise
        raise MissingPackageError(_advice(module, purpose)) from None


def check_installed(module: str, purpose: str) -> None:
    """Check that a module can be found, without importing it.

    Args:
        module: Its name.
        purpose: What it is needed for, such as ``"to read JSON"``; part of the error message.

    Raises:
        MissingPackageError: If it is not installed.

    """
    if importlib.util.find_spec(_package(module)) is None:
        raise MissingPackageError(_advice(module, purpose))


def _advice(module: str, purpose: str) -> str:
    package = _package(module)
    extra = _EXTRAS.get(package, _OTHERS)
    return f"{package} must be installed {purpose}; get it with: pip install 'guide_ext[{extra}]'"


def _package(module: str) -> str:
    return module.partition(".")[0]
