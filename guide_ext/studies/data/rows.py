# SPDX-License-Identifier: MIT
"""Make the rows of a task: of a user's documents, or of the world of the embedded model."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from guide_ext.embedded import evaluate
from guide_ext.embedded.evaluate import CountsTokens
from guide_ext.studies.cells import Row
from guide_ext.studies.data.documents import BadDocument, Document
from guide_ext.studies.data.task import Task


def embedded_rows(task: Task, per_length: int, seed: int, *, tokenizer: CountsTokens) -> list[Row]:
    """Make rows of the world of the embedded model, the same number in each range of lengths.

    Args:
        task: What is asked.
        per_length: Number of documents in each of the six ranges of lengths.
        seed: Seed of the documents.
        tokenizer: Counts the tokens of the documents.

    Raises:
        ValueError: If that world has no such task.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> from guide_ext.studies.french import TASK
        >>> rows = embedded_rows(TASK, 2, 7, tokenizer=load_embedded()[1])
        >>> len(rows), rows[0].marked, rows[-1].length
        (12, 'Summarize in French', (320, 384))

    """
    count = per_length * evaluate.NUM_BUCKETS
    width = evaluate.MAX_TOKENS // evaluate.NUM_BUCKETS
    rows = []
    for number, case in enumerate(
        evaluate.make_cases(task.case_kind, count, seed, tokenizer=tokenizer), 1
    ):
        depth = None if task.embedded_depth is None else task.embedded_depth(case)
        rows.append(
            Row(
                f"{task.name}-{number}", task.name, case.before, case.marked, case.after,
                case.context_tokens, (case.bucket * width, (case.bucket + 1) * width),
                case.answer, case.keys, depth,
            )
        )  # fmt: skip
    return rows


def document_rows(
    task: Task,
    documents: Iterable[Document | BadDocument],
    per_length: int,
    seed: int,
    *,
    lengths: Sequence[tuple[int, int]],
    tokenizer: Any,
) -> tuple[list[Row], list[BadDocument]]:
    """Make rows of documents, up to the same number in each range of lengths.

    Documents are taken in a random order. A document that is longer than all ranges is cut at a
    space, to a length drawn from a range that still needs documents.

    Args:
        task: What is asked.
        documents: The documents, and what was read in their place.
        per_length: Largest number of documents in each range.
        seed: Seed of the order and of the lengths to cut to.
        lengths: Ranges ``(from, to]`` in tokens, ascending.
        tokenizer: The model's; counts tokens.

    Returns:
        The rows, shortest range first; and what was left out: bad documents and repeated texts.

    """
    good, bad = distinct(documents)
    rng = random.Random(f"{seed} {task.name}")
    rng.shuffle(good)
    chosen: dict[tuple[int, int], list[tuple[Document, int]]] = defaultdict(list)
    for document in good:
        lacking = [length for length in lengths if len(chosen[length]) < per_length]
        if not lacking:
            break
        fitted, tokens = _fitted(document, lacking, lengths[-1][1], rng, tokenizer)
        for low, high in lacking:
            if low < tokens <= high:
                chosen[low, high].append((fitted, tokens))
    rows = []
    for length in lengths:
        for document, tokens in chosen[length]:
            rows += task.rows(document, tokens, length)
    return rows, bad


def distinct(
    documents: Iterable[Document | BadDocument],
) -> tuple[list[Document], list[BadDocument]]:
    """Separate documents from what must be left out.

    A repeated text is left out: it would count twice, or be both trained on and evaluated.

    Returns:
        The documents; and bad ones, among them the repeated.

    Example:
        >>> distinct([Document("a:1", "One."), Document("a:2", "One.")])
        ([Document(id='a:1', text='One.', reference='')],
        [BadDocument(id='a:2', error='text must be new, got that of a:1 again')])

    """
    good: list[Document] = []
    bad: list[BadDocument] = []
    first: dict[str, str] = {}
    for document in documents:
        if isinstance(document, BadDocument):
            bad.append(document)
        elif document.text in first:
            bad.append(
                BadDocument(
                    document.id, f"text must be new, got that of {first[document.text]} again"
                )
            )
        else:
            first[document.text] = document.id
            good.append(document)
    return good, bad


def _fitted(
    document: Document,
    lacking: Sequence[tuple[int, int]],
    longest: int,
    rng: random.Random,
    tokenizer: Any,
) -> tuple[Document, int]:
    """Return a document, cut if it is too long, and its length in tokens."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    tokens = count(document.text)
    if tokens <= longest:
        return document, tokens
    low, high = rng.choice(lacking)
    text = document.text[: int(len(document.text) * rng.uniform(low, high) / tokens)]
    text = text.rpartition(" ")[0] or text
    return Document(document.id, text, document.reference), count(text)
