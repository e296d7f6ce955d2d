# SPDX-License-Identifier: MIT
"""Judge answers: what every task asks of them, their language, BERTScore."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from guide_ext.embedded import evaluate
from guide_ext.studies.cells import Row
from guide_ext.studies.data.task import Task
from guide_ext.support.extras import Package

LANGUAGES = Package("py3langid", "to tell languages")
BERT_SCORE = Package("bert_score", "to compare summaries with references")
# A well-formed text has at least so many words, and repeats at most this share of its three-word
# sequences.
_FEWEST_WORDS = 3
_MOST_REPEATED = 0.5


@dataclass(frozen=True)
class Encoder:
    """The model that BERTScore compares texts with.

    Attributes:
        name: A name that bert-score can load, or a folder.
        layer: The layer whose states are compared; None for the one that bert-score recommends.

    """

    name: str
    layer: int | None = None


def judge(task: Task, row: Row, text: str, *, is_embedded: bool) -> dict[str, float]:
    """Judge one answer.

    Args:
        task: What was asked.
        row: About which document.
        text: The answer, without special tokens.
        is_embedded: Whether the row is of the embedded world, where the one right answer is known.

    Returns:
        Scores from 0 to 1. Every answer has ``repeated`` (most three-word sequences stood in it
        before) and ``well_formed`` (in the embedded world: a grammatical answer of some kind;
        elsewhere: a text that does not repeat itself). In the embedded world also ``right``: the
        right answer, word for word. The rest are the task's own.

    Raises:
        NotImplementedError: If a package that the task needs is not installed.

    Example:
        >>> from guide_ext.studies.json_template import TASK
        >>> row = Row("a", TASK.name, "", "", "", 3, (0, 500), keys=("hero",))
        >>> judge(TASK, row, '{"hero": "baker"}', is_embedded=True)["jaccard"]
        1.0

    """
    share = repeated_share(text)
    scores = {
        "repeated": float(share > _MOST_REPEATED),
        "well_formed": float(len(text.split()) >= _FEWEST_WORDS and share <= _MOST_REPEATED),
    }
    if not is_embedded:
        return scores | task.judge(row, text, None)
    bucket = 0  # no judge reads it
    case = evaluate.Case(
        task.case_kind, row.before, row.marked, row.after, row.answer, row.tokens, bucket, row.keys
    )
    found = evaluate.judge(case, text)
    scores |= {"right": float(found.success), "well_formed": float(found.well_formed)}
    return scores | task.judge(row, text, found.success)


def language(text: str) -> str:
    """Return the two-letter code of the most likely language of a text; empty without letters.

    Raises:
        NotImplementedError: If py3langid is not installed.

    Source:
        M. Lui, T. Baldwin, langid.py (ACL 2012), in the port py3langid; needs no network.

    Example:
        >>> language("Le boulanger cache la clé dans la grange."), language("...")
        ('fr', '')

    """
    if not re.search(r"[^\W\d_]", text):
        return ""
    return str(LANGUAGES.load().classify(text)[0])


def repeated_share(text: str) -> float:
    """Return the share of three-word sequences that repeat an earlier one.

    Example:
        >>> repeated_share("19th century, 19th century, 19th century, 19th century,")
        0.666...
        >>> repeated_share("The baker hides the key.")
        0.0

    """
    words = text.lower().split()
    triples = [tuple(words[index : index + 3]) for index in range(len(words) - 2)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def bert_scores(answers: Sequence[str], references: Sequence[str], encoder: Encoder) -> list[float]:
    """Return BERTScore's F1 of every answer.

    Args:
        answers: Texts.
        references: The text that each is compared with.
        encoder: What compares them; a folder needs its layer.

    Raises:
        NotImplementedError: If bert-score is not installed.
        ValueError: If bert-score has no layer for the encoder and none is given.

    Source:
        T. Zhang et al., BERTScore (ICLR 2020), by its authors' package.

    """
    bert_score = BERT_SCORE.load()
    try:
        scorer = bert_score.BERTScorer(
            model_type=encoder.name,
            num_layers=encoder.layer,
            batch_size=32,
            rescale_with_baseline=False,
        )
    except KeyError:
        raise ValueError(
            f"bertscore layer must be given for a model that bert-score has no layer for, got none "
            f"for {encoder.name!r}"
        ) from None
    _, _, found = scorer.score(list(answers), list(references))
    return [float(value) for value in found]
