# SPDX-License-Identifier: MIT
"""The study `json`: does an answer follow the JSON template that the prompt asks for?

A story is to be told as a JSON object with given keys. The instruction to follow the template is
marked; what counts are the keys of the answer and the types of their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.embedded import evaluate, world
from guide_ext.studies.cells import Decoding, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.task import Task
from guide_ext.studies.differences import difference_table
from guide_ext.studies.report.paper import MISTRAL, Claim
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import over_delta, shortest_and_longest
from guide_ext.studies.study import BASELINES, STRESSED, Study
from guide_ext.studies.tables.reading import TableRow
from guide_ext.studies.tables.results import (
    Results,
    by_condition,
    condition_values,
    number_of_documents,
    score,
    values_by_length,
)
from guide_ext.studies.tables.table import (
    ANSWERS,
    CONDITION,
    DOCUMENTS,
    RIGHT,
    Column,
    Kind,
    Table,
    columns_by_length,
    with_interval,
)

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

FIELDS: dict[str, type] = {
    "title": str,
    "genre": str,
    "characters": list,
    "author": str,
    "summary": str,
    "date": str,
    "scenery": str,
}
"""Keys of the template and the types of their values."""
_BEFORE = (
    "You are an assistant designed to provide information in JSON format. I will give you a story, "
    "and you need to extract and return specific details from the story. Do not output anything "
    "else than the JSON. "
)
_INSTRUCTION = "Your response should follow exactly this template:"
_TEMPLATE = """
<schema>
{
"title": "title of the story (string)",
"genre": string,
"characters": [
{
"name": string,
"description": string. If not available set it to none
}] (one dict per character),
"author": "the author of the story. If not available, set it to None",
"summary": "a brief summary of the story. Do not write more than 50 words",
"date": "when the story was released (string)",
"scenery": "where the story takes place (string)",
}
</schema>

"""


# What is asked.


def _rows(document: Document, tokens: int, length: tuple[int, int], number: int) -> list[Row]:
    after = f"{_TEMPLATE}{document.text}"
    keys = tuple(FIELDS)
    return [Row(document.id, TASK.name, _BEFORE, _INSTRUCTION, after, tokens, length, keys=keys)]


def _judge(row: Row, answer: str, right: bool | None) -> dict[str, float]:
    is_embedded = right is not None
    return json_scores(answer, dict.fromkeys(row.keys, str) if is_embedded else FIELDS)


def json_scores(text: str, fields: dict[str, type]) -> dict[str, float]:
    """Compare an answer with a template.

    Args:
        text: The answer. Text around the outermost braces is ignored, as the authors do.
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


TASK = Task(
    name="json",
    title="JSON",
    embedded=evaluate.CaseKind.JSON,
    documents=38,
    decoding=Decoding(max_new_tokens=1000),
    end_tokens=5,
    rows=_rows,
    judge=_judge,
    success="jaccard",
)


# Tables and what they say.

_JACCARD = Column("jaccard", "Jaccard index", Kind.SHARE)
_AUTHORS = Column("authors", "authors' score", Kind.SHARE)
_EXACT = Column("exact", "exactly the template", Kind.SHARE)


def _by_condition(results: Results) -> list[list[Any]]:
    return [
        [
            *condition_values(condition), len(found), number_of_documents(found),
            *score(found, _JACCARD.name), *score(found, _AUTHORS.name),
            score(found, _EXACT.name)[0], score(found, RIGHT.name)[0],
        ]
        for condition, found in by_condition(results.answers).items()
    ]  # fmt: skip


def _by_condition_findings(rows: Sequence[TableRow]) -> list[str]:
    authors = over_delta("The authors' score", rows, _AUTHORS.name)[:1]
    return [*over_delta("Jaccard index of the keys", rows, _JACCARD.name), *authors]


BY_CONDITION = Table(
    "json",
    "A JSON template",
    (
        *CONDITION, ANSWERS, DOCUMENTS, *with_interval(_JACCARD), *with_interval(_AUTHORS), _EXACT,
        RIGHT,
    ),
    rows=_by_condition,
    findings=_by_condition_findings,
    note="jaccard: index of the sets of keys; authors: keys of the right type over the larger "
    "number of keys",
)  # fmt: skip
BY_LENGTH = Table(
    "json_by_length",
    "A JSON template, by length",
    columns_by_length(_JACCARD),
    rows=lambda results: values_by_length(results.answers, _JACCARD.name),
    findings=lambda rows: shortest_and_longest("Jaccard index", rows, _JACCARD.name),
)


DIFFERENCES = difference_table(
    "json_differences",
    "A JSON template: each condition beside Δ = 0",
    _JACCARD.name,
    "Jaccard index of the keys",
)


# The figure and the report.


def _draw(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.rates import draw_rates

    return draw_rates(
        record,
        palette,
        table=BY_CONDITION.name,
        by_length=BY_LENGTH.name,
        title="JSON by a template",
        column=_JACCARD.name,
        label="Jaccard index of the keys",
        others={_AUTHORS.name: "authors' score", _EXACT.name: "exactly the template"},
    )


STUDY = Study(
    name="json",
    title="an answer that must follow a JSON template: its keys and types, over length and Δ",
    paper="App. C.3.2, Fig. 7",
    tasks=(TASK,),
    deltas=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
    styles=BASELINES,
    on_texts=STRESSED,
    sections=(
        Section(
            "json",
            "JSON by a template",
            "Fig. 7",
            (BY_CONDITION, BY_LENGTH, DIFFERENCES),
            drawings=(
                Drawing(
                    "json",
                    BY_CONDITION,
                    "Jaccard index, the authors' score and exact answers over Δ, and the index "
                    "over the length of the text",
                    _draw,
                ),
            ),
            claims=(
                Claim(
                    MISTRAL,
                    "json",
                    "the optimal Δ is approximately 3, and improves the average score by 30 %; in "
                    "almost every generation the score is 0 or 100 %",
                    "Appendix C.3.2",
                ),
            ),
        ),
    ),
)
