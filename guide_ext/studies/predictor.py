# SPDX-License-Identifier: MIT
"""The study `predictor`: does Influence, measured on the prompt, predict success?

Compared are the forms of Influence, attention rollout, raw attention, and simply 1 / length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.studies import french, instruction, json_template, needle
from guide_ext.studies.measurement import INFLUENCE
from guide_ext.studies.report.paper import MISTRAL, NOTEBOOKS, Claim, Key, printed
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, interval
from guide_ext.studies.study import Study
from guide_ext.studies.tables.reading import Estimate, TableRow, estimate, number, text
from guide_ext.studies.tables.results import Results, levels_of
from guide_ext.studies.tables.statistics import (
    Cases,
    area,
    area_within,
    correlation,
    rounded,
    statistic_with_interval,
)
from guide_ext.studies.tables.table import Column, Kind, Table, with_interval

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

_FRENCH, _NEEDLE, _JSON = french.TASK, needle.TASK, json_template.TASK
_TASKS = (_FRENCH, _NEEDLE, _JSON, instruction.TASK)
_LENGTH = "1 / length"
_OUR_NAMES = {"paper": "influence"}  # the paper's form is what the paper calls Influence

TASK_COLUMN = Column("task", kind=Kind.TEXT, words={task.name: task.title for task in _TASKS})
PREDICTOR_COLUMN = Column(
    "predictor",
    kind=Kind.TEXT,
    words={
        "influence": "Influence",
        "exact": "Influence, exact",
        "authors": "Influence, authors' code",
        "rollout": "attention rollout",
        "raw": "raw attention",
        "share": "share of attention, all layers",
    },
)


def form_name(form: str) -> str:
    """Return what tables call a form of Influence."""
    return _OUR_NAMES.get(form, form)


def _rows(results: Results) -> list[list[Any]]:
    from guide_ext.influence.forms import FORMS  # loads torch

    levels = levels_of(results, INFLUENCE.kind)
    rows = []
    for task in _TASKS:
        found = [
            answer
            for answer in results.answers
            if answer.cell.row.task == task.name and answer.cell.row.digest in levels
        ]
        if not found:
            continue
        success = [answer.scores[task.success] >= 1 for answer in found]
        documents = [answer.cell.row.document for answer in found]
        lengths = [answer.cell.row.length for answer in found]
        predictors = {
            form_name(form): [levels[answer.cell.row.digest][form][-1] for answer in found]
            for form in FORMS
        }
        if not results.is_embedded:
            predictors["share"] = [_share(levels[answer.cell.row.digest]) for answer in found]
        predictors[_LENGTH] = [1 / answer.cell.row.tokens for answer in found]
        for name, values in predictors.items():
            cases = Cases.of(documents, values, success, lengths)
            rows.append(
                [
                    task.name, name, len(found), rounded(sum(success) / len(success)),
                    *statistic_with_interval(cases, area),
                    *statistic_with_interval(cases, area_within),
                    *statistic_with_interval(cases, correlation),
                ]
            )  # fmt: skip
    return rows


def _share(levels: dict[str, list[float]]) -> float:
    """Return the share of its attention that the end gives to the marked part, over all layers."""
    of_layers = levels["raw"][1:]
    return sum(of_layers) / len(of_layers)


def _findings(rows: Sequence[TableRow]) -> list[str]:
    sentences = []
    for task in dict.fromkeys(text(row, "task") for row in rows):
        found = {text(row, "predictor"): row for row in rows if text(row, "task") == task}
        influence = found.get("influence")
        value = influence and estimate(influence, "auc")
        if influence is None or not isinstance(value, Estimate):
            continue
        sentence = (
            f"{TASK_COLUMN.word(task)}: AUC of Influence {fixed(value.value)}{interval(value)}"
        )
        length = number(found.get(_LENGTH, {}), "auc")
        if length is not None:
            sentence += f", of the plain 1 / length {fixed(length)}"
        within = estimate(influence, "auc_within")
        if within is not None:
            sentence += (
                f"; among texts of one length, Influence {fixed(within.value)}{interval(within)}"
            )
        sentences.append(f"{sentence}.")
    return sentences


SCORES = Table(
    "predictor",
    "What foretells success",
    (
        TASK_COLUMN,
        PREDICTOR_COLUMN,
        Column("cases"),
        Column("success", kind=Kind.SHARE),
        *with_interval(Column("auc", "AUC", Kind.SHARE)),
        *with_interval(Column("auc_within", "AUC among texts of one length", Kind.SHARE)),
        *with_interval(Column("correlation", kind=Kind.CORRELATION)),
    ),
    rows=_rows,
    findings=_findings,
    note="auc_within: only texts of one range of lengths are compared with each other; success: in "
    "French, the needle found, exactly the keys of the template",
)


def _draw(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.distributions import draw_scores

    return draw_scores(
        record,
        palette,
        table=SCORES.name,
        title="How well each predictor ranks success (area under the ROC curve)",
        panel_column=TASK_COLUMN.name,
        name_column=PREDICTOR_COLUMN.name,
        scores={"auc": "all texts", "auc_within": "among texts of one length"},
        label="AUC (0.5: chance)",
        chance=0.5,
    )


def _at(task: str, predictor: str) -> Key:
    return (("task", task), ("predictor", predictor))


# What the notebooks call Influence is computed by their own code: the form `authors` here.
_PRINTED = (
    *printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, "study 01, notebooks 03 and 07",
        {_at(_FRENCH.name, "authors"): 0.754127, _at(_FRENCH.name, "rollout"): 0.234590,
         _at(_FRENCH.name, "raw"): 0.580731, _at(_FRENCH.name, _LENGTH): 0.785574},
    ),
    *printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, "study 02, notebooks 03 and 05",
        {_at(_NEEDLE.name, "authors"): 0.573241, _at(_NEEDLE.name, "rollout"): 0.495535,
         _at(_NEEDLE.name, "raw"): 0.480875, _at(_NEEDLE.name, _LENGTH): 0.486007},
    ),
    *printed(
        MISTRAL, "predictor", "auc", NOTEBOOKS, "study 03, notebooks 03 and 04",
        {_at(_JSON.name, "authors"): 0.629183, _at(_JSON.name, "rollout"): 0.311211,
         _at(_JSON.name, "raw"): 0.635313, _at(_JSON.name, _LENGTH): 0.696295},
    ),
    *printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, "study 01, notebook 03: document means",
        {_at(_FRENCH.name, "authors"): 0.715539},
    ),
    *printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, "study 01, notebooks 03 and 07",
        {_at(_FRENCH.name, "rollout"): -0.358317, _at(_FRENCH.name, "raw"): 0.132464},
    ),
    *printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, "study 02, notebooks 03 and 05",
        {_at(_NEEDLE.name, "rollout"): 0.082725, _at(_NEEDLE.name, "raw"): -0.034088,
         _at(_NEEDLE.name, _LENGTH): -0.036130},
    ),
    *printed(
        MISTRAL, "predictor", "correlation", NOTEBOOKS, "study 03, notebooks 03 and 04",
        {_at(_JSON.name, "authors"): 0.231930, _at(_JSON.name, "rollout"): -0.319191,
         _at(_JSON.name, "raw"): 0.233827, _at(_JSON.name, _LENGTH): 0.290473},
    ),
)  # fmt: skip

STUDY = Study(
    name="predictor",
    title="does Influence foretell success? beside rollout, attention and 1 / length",
    paper="App. C.4, Table 3",
    tasks=_TASKS,
    samples=10,
    measurements=(INFLUENCE,),
    sections=(
        Section(
            "predictor",
            "Influence as a predictor",
            "Table 3",
            (SCORES,),
            drawings=(
                Drawing(
                    "predictor",
                    SCORES,
                    "Area under the ROC curve of every predictor of success, for every task, over "
                    "all texts and among texts of one length",
                    _draw,
                ),
            ),
            printed=_PRINTED,
            claims=(
                Claim(
                    MISTRAL,
                    "predictor",
                    "attention rollout has an AUC below 0.5 in two of three experiments, and raw "
                    "attention one around 0.5 in two of three",
                    "Appendix C.4",
                ),
            ),
        ),
    ),
)
