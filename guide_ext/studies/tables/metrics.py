# SPDX-License-Identifier: MIT
"""What is right about an answer: languages, needles, JSON templates, repetition, BERTScore."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guide_ext.embedded import evaluate, world
from guide_ext.studies.data.prompts import JSON_FIELDS, NEEDLE_FOUND
from guide_ext.studies.study import Row
from guide_ext.support.extras import require

_CASES = {
    "french": evaluate.Task.FRENCH,
    "needle": evaluate.Task.NEEDLE,
    "json": evaluate.Task.JSON,
}
# An answer that is to count as text has at least so many words, and repeats at most this share of
# its three-word sequences.
_FEWEST_WORDS = 3
_MOST_REPEATED = 0.5

SUCCESS = {"french": "in_french", "needle": "found", "json": "jaccard"}
"""The paper's score of every task."""


def judge(row: Row, text: str, *, is_embedded: bool) -> dict[str, float]:
    """Judge one answer.

    Args:
        row: What was asked.
        text: The answer, without special tokens.
        is_embedded: Whether the row is of the embedded world, where the one right answer is known.

    Returns:
        Scores from 0 to 1: ``in_french`` (the language, by py3langid) or ``found`` or ``jaccard``
        and ``authors`` and ``exact`` (see `json_scores`); ``well_formed`` (in the embedded world a
        grammatical answer of some kind, else text that does not repeat itself); ``repeated``; and
        in the embedded world ``right``: word for word.

    Raises:
        NotImplementedError: If py3langid is not installed.

    Example:
        >>> row = Row("a", "json", "", "", "", 3, (0, 500), keys=("hero",))
        >>> judge(row, '{"hero": "baker"}', is_embedded=True)["jaccard"]
        1.0

    """
    share = repeated_share(text)
    scores = {"repeated": float(share > _MOST_REPEATED)}
    scores["well_formed"] = float(len(text.split()) >= _FEWEST_WORDS and share <= _MOST_REPEATED)
    if row.task == "french":
        scores["in_french"] = float(language(text) == "fr")
    elif row.task == "needle":
        scores["found"] = float(NEEDLE_FOUND in text.lower())
    else:
        fields: dict[str, type] = dict.fromkeys(row.keys, str) if is_embedded else JSON_FIELDS
        scores |= json_scores(text, fields)
    if is_embedded:
        bucket = 0  # no judge looks at it
        case = evaluate.Case(
            _CASES[row.task], row.before, row.marked, row.after, row.answer, row.tokens, bucket,
            row.keys,
        )  # fmt: skip
        found = evaluate.judge(case, text)
        scores |= {"right": float(found.success), "well_formed": float(found.well_formed)}
        if row.task == "needle":
            scores["found"] = float(found.success)
    return scores


def language(text: str) -> str:
    """Return the two-letter code of the language that a text most likely is in, or nothing.

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
    return str(require("py3langid", "to tell languages").classify(text)[0])


def json_scores(text: str, fields: dict[str, type]) -> dict[str, float]:
    """Compare an answer with a template.

    Args:
        text: The answer; text around the outermost braces is ignored, as the authors do.
        fields: Keys of the template and types of their values.

    Returns:
        ``jaccard``: index of the two sets of keys, 0 where the answer is no JSON object;
        ``authors``: the score of the authors' code, keys of the right type over the larger of the
        numbers of keys; ``exact``: 1 if the sets are equal and the answer is nothing but JSON.

    Example:
        >>> json_scores('Here: {"a": "x", "b": 1}', {"a": str, "c": str})
        {'jaccard': 0.333..., 'authors': 0.5, 'exact': 0.0}

    """
    bare = text.strip()
    start, end = bare.find("{"), bare.rfind("}")
    value = world.parse_object(bare[start : end + 1]) if 0 <= start < end else None
    if value is None:
        return {"jaccard": 0.0, "authors": 0.0, "exact": 0.0}
    common, either = set(value) & set(fields), set(value) | set(fields)
    typed = sum(isinstance(value[key], fields[key]) for key in common)
    return {
        "jaccard": len(common) / len(either) if either else 0.0,
        "authors": typed / max(len(fields), len(value)),
        "exact": float(common == either and (start, end + 1) == (0, len(bare))),
    }


def repeated_share(text: str) -> float:
    """Return the share of three-word sequences that stood in the text before.

    Example:
        >>> repeated_share("19th century, 19th century, 19th century, 19th century,")
        0.666...
        >>> repeated_share("The baker hides the key.")
        0.0

    """
    words = text.lower().split()
    triples = [tuple(words[index : index + 3]) for index in range(len(words) - 2)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def bert_scores(
    answers: Sequence[str], references: Sequence[str], model: str, *, layer: int | None = None
) -> list[float]:
    """Return BERTScore's F1 of every answer.

    Args:
        answers: Texts.
        references: What each is compared with.
        model: An encoder that bert-score can load: a name of its list, or a folder with `layer`.
        layer: Whose states are compared; None for what bert-score recommends for the model.

    Raises:
        NotImplementedError: If bert-score is not installed.
        ValueError: If it does not know the model and no layer is given.

    Source:
        T. Zhang et al., BERTScore (ICLR 2020), by its authors' package.

    """
    bert_score = require("bert_score", "to compare summaries with references")
    try:
        scorer = bert_score.BERTScorer(
            model_type=model, num_layers=layer, batch_size=32, rescale_with_baseline=False
        )
    except KeyError:
        raise ValueError(
            f"bertscore layer must be given for a model that bert-score has no layer for, got none "
            f"for {model!r}"
        ) from None
    _, _, found = scorer.score(list(answers), list(references))
    return [float(value) for value in found]
