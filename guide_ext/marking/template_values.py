# SPDX-License-Identifier: MIT
"""Search what a chat template may print besides texts: other fields, documents, tools, keywords.

transformers hands templates mappings, sequences, dataclasses and pydantic models as plain data, and
makes the schema of a function from its docstring. These types are searched, and no others.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from guide_ext.marking.marked_text import MarkedText


def strings(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every string inside a value; skip `MarkedText`.

    Example:
        >>> for place, text in strings([{"tags": ("pets", 1)}], "documents"):
        ...     print(f"{place}: {text}")
        a key of documents[0]: tags
        documents[0]['tags'][0]: pets

    """
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, MarkedText):
        return
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from strings(key, f"a key of {where}")
            yield from strings(part, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield from strings(part, f"{where}[{index}]")
    elif (fields := _fields(value)) is not None:
        for name, part in fields.items():
            yield from strings(part, f"{where}.{name}")
    elif callable(value):
        yield f"the docstring of {where}", inspect.getdoc(value) or ""


def with_texts(value: Any, convert: Callable[[MarkedText], str], where: str = "value") -> Any:
    """Return a value in which `convert` has replaced every `MarkedText`, in order.

    Raises:
        TypeError: If a `MarkedText` is a key of a mapping or in a set, where it cannot be replaced.

    Example:
        >>> with_texts([{"text": MarkedText("a")}, 1], lambda marked: marked.text.upper())
        [{'text': 'A'}, 1]

    """
    if isinstance(value, MarkedText):
        return convert(value)
    changed: Any
    if isinstance(value, Mapping):
        changed = {key: with_texts(part, convert, where) for key, part in value.items()}
        old, new = [*value.values()], [*changed.values()]
        _refuse_marked(value, where, "as a key")
    elif isinstance(value, list | tuple):
        old, new = list(value), [with_texts(part, convert, where) for part in value]
        changed = new if isinstance(value, list) else tuple(new)
    elif (fields := _fields(value)) is not None:
        changed = {name: with_texts(part, convert, where) for name, part in fields.items()}
        old, new = [*fields.values()], [*changed.values()]
    else:
        if isinstance(value, set | frozenset):
            _refuse_marked(value, where, "in a set")
        return value
    return value if all(one is other for one, other in zip(old, new, strict=True)) else changed


def _refuse_marked(values: Iterable[object], where: str, place: str) -> None:
    if any(isinstance(value, MarkedText) for value in values):
        raise TypeError(f"{where} must have MarkedText in lists or as values only, got it {place}")


def _fields(value: object) -> dict[str, Any] | None:
    """Return the fields of a dataclass or a pydantic model; None of anything else."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return dict(vars(value))
    return None
