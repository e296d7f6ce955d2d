# SPDX-License-Identifier: MIT
"""Learn SEKA's projections for a run, on documents of its task that the run does not judge.

SEKA learns from pairs of a question and a text that answers it. Those of the study `methods` are
the hidden sentences of the needle task, in the texts that hide them: alone, behind the question
that they answer, and behind that of another text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from guide_ext import integration
from guide_ext.marking.spans import MarkedText, Span
from guide_ext.steering.seka import KeyProjections
from guide_ext.studies.cells import Row
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.data.task import Task
from guide_ext.studies.plan import RunSettings, tasks_of
from guide_ext.studies.run.rows import rows_of

_DOCUMENTS = 120  # half of them are learned from
_RANGES = 6  # of lengths, which the embedded world has


def learned_projections(settings: RunSettings, model: Any, tokenizer: Any) -> KeyProjections:
    """Learn projections for the model of a run, and keep the half of the heads that move most.

    The documents are of the shortest range of lengths and of the next seed; of those, only such as
    the run would choose strengths on, because a file may give the same documents again. Nothing is
    saved: the same settings give the same projections.

    Args:
        settings: Settings of the run.
        model: Its model, enabled.
        tokenizer: Its tokenizer.

    Raises:
        ValueError: If the data have too few documents, or the keys of the model cannot be edited.

    """
    triples = _triples(settings, tokenizer)
    found = integration.fit_seka(model, tokenizer, triples)
    return found.of_heads(float(found.shifts.quantile(0.5)))


def _triples(settings: RunSettings, tokenizer: Any) -> list[tuple[Any, Any, Any]]:
    count = _DOCUMENTS // _RANGES if settings.is_embedded else _DOCUMENTS
    other = replace(settings, seed=settings.seed + 1, documents=count, windows=1)
    asked = [one for task in tasks_of(settings) for one in _asked(task, other, tokenizer)]
    questions = sorted({question for _, question, _ in asked})
    if len(questions) < 2:
        raise ValueError(
            "data must have documents with two questions or more for SEKA to learn from, got "
            f"{len(questions)}"
        )
    rng = random.Random(f"seka {other.seed}")
    triples = []
    for row, question, before in asked:
        wrong = rng.choice([one for one in questions if one != question])
        triples.append(
            tuple(
                _prompt(settings, tokenizer, f"{start}{before}", row.marked)
                for start in ("", f"{question}\n", f"{wrong}\n")
            )
        )
    return triples


def _asked(task: Task, settings: RunSettings, tokenizer: Any) -> Iterator[tuple[Row, str, str]]:
    """Return rows with their question and the text before their marked part."""
    if task.question_and_text is None:
        return
    for row in rows_of(task, settings, tokenizer, [])[0]:
        parts = task.question_and_text(row)
        # Behind no text, the first tokens of the sentence would not be the same.
        if parts is not None and parts[1].strip() and for_choosing(row.document):
            yield row, *parts


def _prompt(settings: RunSettings, tokenizer: Any, before: str, marked: str) -> Any:
    """Return a text up to the end of its hidden sentence: later text changes no key of it."""
    span = Span(len(before), len(before) + len(marked), level=2)
    text = MarkedText(f"{before}{marked}", (span,))
    if settings.chat and getattr(tokenizer, "chat_template", None):
        return [{"role": "user", "content": text}]
    return text
