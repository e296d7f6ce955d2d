# SPDX-License-Identifier: MIT
"""What a study is. Each is a file beside this one, and `guide_ext.studies.registry` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guide_ext.embedded.world import Style
from guide_ext.studies.cells import Condition, Row, Where
from guide_ext.studies.data.task import Task
from guide_ext.studies.measurement import Measurement
from guide_ext.studies.report.section import Section
from guide_ext.studies.tables.table import Table
from guide_ext.support.extras import Package

BASELINES = (Style.UPPER, Style.IMPORTANT)
"""The paper's prompt-engineering baselines."""

STRESSED = (
    Condition(Style.REPEATED),
    Condition(Style.ATTENTION),
    Condition(Style.MOST),
    Condition(share=0.1),
)
"""Other ways to stress a part of a real text, without Δ."""

SOME_LAYERS = tuple(
    Condition(delta=2.0, where=where) for where in (Where.EARLY, Where.MIDDLE, Where.LATE)
)
"""Δ in a third of the layers."""

SOME_HEADS = (Condition(delta=2.0, where=Where.HEADS), Condition(delta=2.0, where=Where.PASTA))
"""Methods that act in heads which were chosen before; only in runs that name heads."""


@dataclass(frozen=True)
class Study:
    """A study: what it asks a model, and how its results are shown.

    Attributes:
        name: Its name on the command line and in saved runs.
        title: What it shows, in a line.
        paper: Where the paper has it.
        tasks: What it asks about documents.
        sections: Its sections of the report, with its tables in the order of ``tables.json``.
        deltas: Biases on the marked part, in nats.
        keeps_deltas: Whether it has these deltas also where the user names others.
        styles: Prompt-engineering baselines, with a bias of 0.
        on_texts: More conditions, for real texts: of those in the embedded world the model knows no
            other wordings. A row is asked only if it has the parts that a condition stresses.
        everywhere: More conditions, in the embedded world, too. Those that act in chosen heads are
            left out where none are named.
        samples: Answers to each document and condition, for tasks whose answers are sampled.
        answers: Whether it needs answers.
        measurements: What it measures on prompts.
        measured: Chooses the rows that are measured from those of a task; None for all.
        trains_on: What it fine-tunes models on, in words; empty if it fine-tunes none. They learn
            the reference answers of its first task, and are asked beside the model itself. One
            study of a run can fine-tune.
        needs: Optional packages that it needs besides those of its tasks.
        answers_to_read: Answers of each condition that the report shows as examples.

    """

    name: str
    title: str
    paper: str
    tasks: tuple[Task, ...]
    sections: tuple[Section, ...]
    deltas: tuple[float, ...] = (0.0,)
    keeps_deltas: bool = False
    styles: tuple[Style, ...] = ()
    on_texts: tuple[Condition, ...] = ()
    everywhere: tuple[Condition, ...] = ()
    samples: int = 1
    answers: bool = True
    measurements: tuple[Measurement, ...] = ()
    measured: Callable[[Sequence[Row]], Sequence[Row]] | None = None
    trains_on: str = ""
    needs: tuple[Package, ...] = ()
    answers_to_read: int = 0

    @property
    def tables(self) -> list[Table]:
        """Its tables, in the order of ``tables.json``."""
        return [table for section in self.sections for table in section.tables]

    def tasks_of(self, *, is_embedded: bool) -> tuple[Task, ...]:
        """Return its tasks, or those of them that the world of the embedded model has."""
        return tuple(task for task in self.tasks if not is_embedded or task.embedded is not None)

    @property
    def has_embedded_tasks(self) -> bool:
        """Whether the world of the embedded model has any of its tasks."""
        return bool(self.tasks_of(is_embedded=True))

    def conditions(
        self,
        deltas: tuple[float, ...] | None = None,
        *,
        baselines: bool = True,
        on_texts: bool = False,
        with_heads: bool = False,
    ) -> list[Condition]:
        """List the conditions, the plain one first.

        Args:
            deltas: The user's deltas; None for the study's. They replace those of a study that
                varies Δ, unless it keeps its own.
            baselines: Whether to have any condition besides Δ on the marked part.
            on_texts: Whether the documents are real texts.
            with_heads: Whether heads were chosen.

        """
        strengths = self.deltas
        if deltas is not None and len(self.deltas) > 1 and not self.keeps_deltas:
            strengths = tuple(sorted({0.0, *deltas}))
        guided = [Condition(delta=delta) for delta in strengths]
        if not baselines:
            return guided
        more = list(self.on_texts) if on_texts else []
        more += SOME_HEADS if more and with_heads else ()
        more += [
            condition
            for condition in self.everywhere
            if with_heads or condition.where not in (Where.HEADS, Where.PASTA)
        ]
        return [*guided, *(Condition(style) for style in self.styles), *more]
