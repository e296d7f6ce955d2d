# SPDX-License-Identifier: MIT
"""A section of the report: its tables, its figures, and what the paper says about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guide_ext.studies.report.paper import Claim, Printed
from guide_ext.studies.tables.table import Table


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: Name of its file, without suffix.
        table: The table that it shows; without it there is no figure.
        alt: What it shows, for readers who do not see it; without a full stop.
        draw: Draws it: from a `StudyRecord` and a `Palette` to a figure of matplotlib. Imports
            matplotlib when it is called, so that listing studies does not.

    """

    name: str
    table: Table
    alt: str
    draw: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: Its anchor on the page; answers of a study of this name are shown in it.
        title: Its heading.
        place: Where the paper has it; empty if it does not.
        tables: Its tables; it is shown if the run has one of them.
        drawings: Its figures.
        printed: Numbers of the paper and of the authors' notebooks to compare with.
        claims: What the paper says in words.
        in_main_text: Whether the paper has it in its main text: such sections come first.

    """

    name: str
    title: str
    place: str
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...] = ()
    printed: tuple[Printed, ...] = ()
    claims: tuple[Claim, ...] = ()
    in_main_text: bool = False
