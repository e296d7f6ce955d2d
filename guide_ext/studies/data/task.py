# SPDX-License-Identifier: MIT
"""A task: what is asked about a document, and what a right answer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guide_ext.embedded import evaluate
from guide_ext.studies.cells import Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.support.extras import Package

MakeRows = Callable[[Document, int, tuple[int, int], int], list[Row]]
"""From a document, its tokens, its range of lengths, and its number within the range to rows.

Numbers count from 0. What they choose occurs equally often in each range.
"""
Judge = Callable[[Row, str, bool | None], dict[str, float]]
"""From a row, an answer, and whether it is right in every word (None: unknown) to scores."""


@dataclass(frozen=True)
class Task:
    """What is asked about a document. Several studies may use one task.

    Attributes:
        name: Its name in saved runs; `Row.task`.
        title: Its name in reports.
        embedded: The same task in the world of the embedded model; None if that world has no such.
        documents: How many documents the paper takes from each range of lengths.
        decoding: How the paper decodes answers.
        end_tokens: Influence is averaged over that many tokens at the end of the prompt, as the
            authors do.
        rows: Makes rows of a document, by the paper's prompt.
        judge: Computes the task's own scores of an answer, each from 0 to 1.
        success: The score that is 1 for a success.
        needs: Optional packages that the judge needs.
        embedded_depth: Returns how deep the marked part is in a document of the embedded world,
            from 0 to 1; None if the task hides nothing in the document.
        question_and_text: Returns the question of a row and the text before its marked part, or
            None if that row cannot tell; for methods that learn from pairs of these. None if the
            task asks no such questions.

    """

    name: str
    title: str
    embedded: evaluate.CaseKind | None
    documents: int
    decoding: Decoding
    end_tokens: int
    rows: MakeRows
    judge: Judge
    success: str
    needs: tuple[Package, ...] = ()
    embedded_depth: Callable[[evaluate.Case], float] | None = None
    question_and_text: Callable[[Row], tuple[str, str] | None] | None = None

    @property
    def case_kind(self) -> evaluate.CaseKind:
        """The same task in the world of the embedded model.

        Raises:
            ValueError: If that world has no such task.

        """
        if self.embedded is None:
            raise ValueError(
                f"task must be one that the embedded world has, got {self.name!r}; it needs texts"
            )
        return self.embedded
