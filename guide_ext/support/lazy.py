# SPDX-License-Identifier: MIT
"""Imports that wait: names that are imported on first use, and work that waits for a module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


def attributes(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` for a package whose names are imported on first use.

    Args:
        package: Its ``__name__``.
        homes: For each name the module that defines it. A submodule is its own home: ``{"spans":
            "guide_ext.spans"}`` for the package ``guide_ext``.

    Returns:
        The two functions.

    Source:
        PEP 562.

    Example:
        >>> __getattr__, __dir__ = attributes("json", {"JSONDecoder": "json.decoder"})
        >>> __getattr__("JSONDecoder").__name__
        'JSONDecoder'
        >>> __getattr__("XMLDecoder")
        Traceback (most recent call last):
        ...
        AttributeError: module 'json' has no attribute 'XMLDecoder'

    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


def after_import(name: str, work: Callable[[], object]) -> None:
    """Call a function as soon as a module has been imported; now, if it already is.

    If the function fails after the import, the error becomes a warning: it must not break somebody
    else's import.

    Args:
        name: The module, for example ``"torch"``.
        work: The function; it is called once, without arguments.

    """
    if name in sys.modules:
        work()
    else:
        sys.meta_path.insert(0, _Watcher(name, work))


class _Watcher(MetaPathFinder):
    """Finds no module itself, but makes the loader that another finder returns do the work."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._name, self._work, self._is_asking = name, work, False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._name or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                self._finish()

            loader.exec_module = exec_module
        return spec

    def _finish(self) -> None:
        if self not in sys.meta_path:  # imported a second time
            return
        sys.meta_path.remove(self)
        try:
            self._work()
        except Exception as error:
            warnings.warn(
                f"guide_ext: {type(error).__name__} after the import of {self._name}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
