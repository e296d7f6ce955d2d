# SPDX-License-Identifier: MIT
"""Compare every condition with the plain one, on the same rows.

Rows differ far more from each other than conditions do. So each answer is compared with the plain
answer to the same row, and the differences are averaged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from guide_ext.studies.cells import Condition
from guide_ext.studies.tables.results import (
    Answer,
    by_condition,
    condition_values,
)
from guide_ext.studies.tables.statistics import rate, rounded

_FLIPS = 10_000
_SEED = 0


def differences(answers: Sequence[Answer], score: str) -> list[list[Any]]:
    """Compare each condition with Δ = 0 of the same rows and samples.

    Args:
        answers: Judged answers.
        score: The score that is compared.

    Returns:
        Rows for the columns of `guide_ext.studies.differences.difference_table`; none without
        answers at Δ = 0.

    """
    groups = by_condition(answer for answer in answers if score in answer.scores)
    plain = groups.pop(Condition(), [])
    rows, chances = [], []
    for condition, found in groups.items():
        values = paired(found, plain, score)
        if not values:
            continue
        chances.append(sign_flip(values))
        documents = len({document for document, _ in values})
        rows.append([*condition_values(condition), len(values), documents, *rate(values)])
    return [
        [*row, rounded(p), rounded(corrected)]
        for row, p, corrected in zip(rows, chances, holm(chances), strict=True)
    ]


def paired(found: Iterable[Answer], plain: Iterable[Answer], score: str) -> list[tuple[str, float]]:
    """Return what each answer has more than the plain answer to the same row and sample.

    Args:
        found: Judged answers; those without a plain one are left out.
        plain: Judged answers to compare with.
        score: The score that is compared.

    Returns:
        The document and the difference of every pair.

    """
    known = {_pair(answer): answer.scores[score] for answer in plain}
    return [
        (answer.cell.row.document, answer.scores[score] - known[_pair(answer)])
        for answer in found
        if _pair(answer) in known
    ]


def _pair(answer: Answer) -> tuple[str, int]:
    return answer.cell.row.id, answer.cell.sample


def sign_flip(values: Iterable[tuple[str, float]]) -> float:
    """Return the two-sided p of differences whose sign is a matter of chance, by document.

    Args:
        values: The document and the difference of every pair.

    Source:
        R. A. Fisher, The Design of Experiments (1935), §21; the observed signs count as a flip.

    Example:
        >>> sign_flip([("a", 0.0), ("b", 0.0)])
        1.0
        >>> sign_flip([(str(number), 1.0) for number in range(20)]) < 0.001
        True

    """
    sums: dict[str, float] = defaultdict(float)
    for document, value in values:
        sums[document] += value
    found = np.array(list(sums.values()), dtype=np.float64)
    signs = np.random.default_rng(_SEED).choice([-1.0, 1.0], size=(_FLIPS, len(found)))
    as_far = np.abs(signs @ found) >= abs(found.sum()) - 1e-9
    return float((as_far.sum() + 1) / (_FLIPS + 1))


def holm(chances: Sequence[float]) -> list[float]:
    """Correct p values for their number, so that any false finding among them is rare.

    Source:
        S. Holm, A simple sequentially rejective multiple test procedure (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    """
    corrected = [0.0] * len(chances)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[index]))
        corrected[index] = largest
    return corrected
