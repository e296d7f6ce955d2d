# SPDX-License-Identifier: MIT
"""What the paper and the authors' notebooks print: numbers and claims, each with its place.

“Pay Attention to What Matters” (NeurIPS 2024) and the notebooks of
``netop-team/pay_attention_experiment``. Most of the paper's figures carry no numbers; nothing is
read off them here. The notebooks ran Mistral-7B-Instruct-v0.1 in four bits.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER, NOTEBOOKS = "paper", "authors' notebooks"
MISTRAL, GEMMA = "Mistral-7B-Instruct", "gemma-2-2b-it"

Key = tuple[tuple[str, str | float], ...]


@dataclass(frozen=True)
class Printed:
    """One number.

    Attributes:
        model: Part of the name of the model that it holds for.
        table: The table of a run that holds the same quantity.
        row: The cells that name its row there.
        column: Its column there.
        value: The number; a share of 1 where percent are printed.
        source: `PAPER` or `NOTEBOOKS`.
        place: Where in the source.

    """

    model: str
    table: str
    row: Key
    column: str
    value: float
    source: str
    place: str


@dataclass(frozen=True)
class Claim:
    """What the paper says in words.

    Attributes:
        model: Part of the name of the model that it holds for.
        table: The table of a run that tells whether it holds there too.
        text: The claim, retold.
        place: Where in the paper.

    """

    model: str
    table: str
    text: str
    place: str


def _plain(delta: float) -> Key:
    return (("style", "plain"), ("delta", delta))


def _at(delta: float) -> Key:
    return (("delta", delta),)


def _predictor(task: str, predictor: str) -> Key:
    return (("task", task), ("predictor", predictor))


def _printed(
    model: str, table: str, column: str, source: str, place: str, cells: dict[Key, float]
) -> tuple[Printed, ...]:
    return tuple(
        Printed(model, table, row, column, value, source, place) for row, value in cells.items()
    )


_FRENCH, _NEEDLE, _JSON = "study 01", "study 02", "study 03"

# What the notebooks call Influence is computed by their own code: the form `authors` here.
NUMBERS: tuple[Printed, ...] = (
    *_printed(
        MISTRAL, "french", "in_french", PAPER, "Section 3",
        {_plain(0.0): 0.294, _plain(2.0): 0.604},
    ),
    *_printed(
        MISTRAL, "french", "in_french", NOTEBOOKS, f"{_FRENCH}, notebook 02: three phrasings",
        {_plain(0.0): 0.347262, _plain(0.5): 0.448496, _plain(1.0): 0.518147,
         _plain(2.0): 0.600694, _plain(5.0): 0.45304},
    ),
    *_printed(
        GEMMA, "french", "in_french", PAPER, "Appendix C.2",
        {_plain(0.0): 0.433, _plain(2.0): 0.598, _plain(5.0): 0.0},
    ),
    *_printed(
        GEMMA, "french", "in_french", NOTEBOOKS, f"{_FRENCH}, notebook 08.2",
        {_plain(0.0): 0.433687, (("style", "upper"), ("delta", 0.0)): 0.407909,
         _plain(0.5): 0.514369, _plain(1.0): 0.570551, _plain(2.0): 0.597635,
         _plain(5.0): 0.002427},
    ),
    *_printed(
        MISTRAL, "french_quality", "win_rate", PAPER, "Table 1",
        {_at(0.5): 0.505, _at(1.0): 0.505, _at(2.0): 0.49, _at(5.0): 0.385},
    ),
    *_printed(
        MISTRAL, "french_quality", "win_rate", NOTEBOOKS, f"{_FRENCH}, notebook 02",
        {_at(0.5): 0.505480, _at(1.0): 0.507023, _at(2.0): 0.488612, _at(5.0): 0.349679},
    ),
    *_printed(
        GEMMA, "french_quality", "win_rate", PAPER, "Table 2",
        {_at(0.5): 0.535, _at(1.0): 0.467, _at(2.0): 0.451},
    ),
    *_printed(
        GEMMA, "french_quality", "win_rate", NOTEBOOKS, f"{_FRENCH}, notebook 08.2",
        {_at(0.5): 0.534610, _at(1.0): 0.466750, _at(2.0): 0.450932},
    ),
    *_printed(
        MISTRAL, "needle", "found", PAPER, "Appendix C.3.1",
        {_plain(0.0): 0.890, _plain(1.0): 0.959},
    ),
    *_printed(
        MISTRAL, "needle", "found", NOTEBOOKS, f"{_NEEDLE}, notebook 02: mean of the cells of 1.c",
        {_plain(0.0): 0.891, _plain(1.0): 0.958},
    ),
    *_printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, f"{_FRENCH}, notebooks 03 and 07",
        {_predictor("french", "authors"): 0.754127, _predictor("french", "rollout"): 0.234590,
         _predictor("french", "raw"): 0.580731, _predictor("french", "1 / length"): 0.785574},
    ),
    *_printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, f"{_NEEDLE}, notebooks 03 and 05",
        {_predictor("needle", "authors"): 0.573241, _predictor("needle", "rollout"): 0.495535,
         _predictor("needle", "raw"): 0.480875, _predictor("needle", "1 / length"): 0.486007},
    ),
    *_printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, f"{_JSON}, notebooks 03 and 04",
        {_predictor("json", "authors"): 0.629183, _predictor("json", "rollout"): 0.311211,
         _predictor("json", "raw"): 0.635313, _predictor("json", "1 / length"): 0.696295},
    ),
    *_printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, f"{_FRENCH}, notebook 03: document means",
        {_predictor("french", "authors"): 0.715539},
    ),
    *_printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, f"{_FRENCH}, notebooks 03 and 07",
        {_predictor("french", "rollout"): -0.358317, _predictor("french", "raw"): 0.132464},
    ),
    *_printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, f"{_NEEDLE}, notebooks 03 and 05",
        {_predictor("needle", "rollout"): 0.082725, _predictor("needle", "raw"): -0.034088,
         _predictor("needle", "1 / length"): -0.036130},
    ),
    *_printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, f"{_JSON}, notebooks 03 and 04",
        {_predictor("json", "authors"): 0.231930, _predictor("json", "rollout"): -0.319191,
         _predictor("json", "raw"): 0.233827, _predictor("json", "1 / length"): 0.290473},
    ),
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (
    Claim(
        MISTRAL,
        "french",
        "the best result is achieved with Δ = 2; upper case and “Important:” bring no notable "
        "improvement",
        "Section 3",
    ),
    Claim(GEMMA, "french", "upper case brings no significant improvement", "Appendix C.2"),
    Claim(
        MISTRAL,
        "sft",
        "GUIDE is better than supervised fine-tuning until 1M training tokens",
        "Section 3",
    ),
    Claim(MISTRAL, "needle", "the optimal Δ is around 1", "Appendix C.3.1"),
    Claim(
        MISTRAL,
        "needle_grid",
        "the needle is found better at the beginning or the end of the text",
        "Appendix C.3.1",
    ),
    Claim(
        MISTRAL,
        "json",
        "the optimal Δ is approximately 3, and improves the average score by 30 %; in almost every "
        "generation the score is 0 or 100 %",
        "Appendix C.3.2",
    ),
    Claim(
        MISTRAL,
        "predictor",
        "attention rollout has an AUC below 0.5 in two of three experiments, and raw attention one "
        "around 0.5 in two of three",
        "Appendix C.4",
    ),
    Claim(
        MISTRAL,
        "norms",
        "the norm of the embedding is typically about 100 times that of the update",
        "Section 2, Appendix A",
    ),
    Claim(
        MISTRAL,
        "norms_by_length",
        "rollout increases with the length of the context, and Influence decreases",
        "Appendix A",
    ),
    Claim(
        MISTRAL,
        "delta_limit",
        "Δ > 5 very often produces incorrect or nonsensical output; at Δ = 9, greedily: "
        "“1. 19th century, 19th century,”",
        "Appendix E.2",
    ),
)


def model_of(name: str) -> str | None:
    """Return which of the paper's models a name means.

    Example:
        >>> model_of("mistralai/Mistral-7B-Instruct-v0.1")
        'Mistral-7B-Instruct'
        >>> model_of("embedded") is None
        True

    """
    return next((model for model in (MISTRAL, GEMMA) if model.lower() in name.lower()), None)


def printed(model: str | None, table: str) -> list[Printed]:
    """Return the numbers that are printed for a table of a model.

    Example:
        >>> [(one.row, one.value) for one in printed(GEMMA, "french_quality")][0]
        ((('delta', 0.5),), 0.535)

    """
    return [one for one in NUMBERS if one.model == model and one.table == table]


def claims(model: str | None, table: str) -> list[Claim]:
    """Return what the paper says in words about a table of a model.

    Example:
        >>> [claim.place for claim in claims(MISTRAL, "sft")]
        ['Section 3']

    """
    return [one for one in CLAIMS if one.model == model and one.table == table]
