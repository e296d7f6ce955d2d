# SPDX-License-Identifier: MIT
"""The study `instruction_sampled`: what `instruction` asks, with sampled answers.

A greedy answer is the same however little a Δ changes the odds. Sampled answers tell whether the
gain is one of greedy decoding alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from guide_ext.studies import instruction
from guide_ext.studies.cells import Decoding
from guide_ext.studies.differences import difference_table
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.study import Study

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

TASK = replace(
    instruction.TASK,
    name="instruction_sampled",
    title="Instructions, sampled",
    documents=40,
    decoding=Decoding(max_new_tokens=64, temperature=0.7),
    rows=partial(instruction.instructed_rows, "instruction_sampled"),
)


# Tables and figures.

BY_CONDITION = instruction.by_condition_table(TASK.name, "Instructions, sampled answers")
BY_KIND = instruction.by_kind_table(
    "instruction_sampled_by_kind", "Instructions, one by one, sampled answers"
)
DIFFERENCES = difference_table(
    "instruction_sampled_differences",
    "Instructions, sampled answers: each condition beside Δ = 0",
    TASK.success,
    "Followed and the task done, sampled",
)


def _draw_rates(record: StudyRecord, palette: Palette) -> Any:
    return instruction.draw_rates_of(BY_CONDITION, record, palette)


def _draw_kinds(record: StudyRecord, palette: Palette) -> Any:
    return instruction.draw_kinds_of(BY_KIND, record, palette)


# The report.

STUDY = Study(
    name=TASK.name,
    title="the same instructions with sampled answers",
    paper=instruction.NOT_IN_THE_PAPER,
    tasks=(TASK,),
    deltas=(0.0, 1.0, 2.0),
    samples=3,
    sections=(
        Section(
            TASK.name,
            "Instructions, sampled answers",
            "",
            (BY_CONDITION, BY_KIND, DIFFERENCES),
            drawings=(
                Drawing(
                    BY_CONDITION.name,
                    BY_CONDITION,
                    "Shares of sampled answers that obey, do the task, and both, over Δ",
                    _draw_rates,
                ),
                Drawing(
                    BY_KIND.name,
                    BY_KIND,
                    "Maps of the shares of sampled answers that obey, and that obey and do the "
                    "task, instruction by Δ",
                    _draw_kinds,
                ),
            ),
        ),
    ),
)
