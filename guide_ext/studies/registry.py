# SPDX-License-Identifier: MIT
"""The studies, in order. A new study is a file beside this one and a line here."""

from __future__ import annotations

from guide_ext.studies import (
    chosen_delta,
    conflict,
    delta_limit,
    french,
    instruction,
    instruction_sampled,
    json_template,
    methods,
    needle,
    norms,
    predictor,
    sft,
)
from guide_ext.studies.study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        french.STUDY,
        needle.STUDY,
        json_template.STUDY,
        instruction.STUDY,
        instruction_sampled.STUDY,
        conflict.STUDY,
        predictor.STUDY,
        chosen_delta.STUDY,
        methods.STUDY,
        norms.STUDY,
        delta_limit.STUDY,
        sft.STUDY,
    )
}
"""All studies by name, in the order in which runs and lists have them."""

TASKS = {task.name: task for study in STUDIES.values() for task in study.tasks}
"""All tasks by name."""

MEASUREMENTS = {one.kind: one for study in STUDIES.values() for one in study.measurements}
"""All measurements by the kind of their cells."""

SECTIONS = tuple(
    sorted(
        (section for study in STUDIES.values() for section in study.sections),
        key=lambda section: not section.in_main_text,
    )
)
"""All sections of the report: those of the paper's main text, then the others."""


def studies_named(names: tuple[str, ...]) -> list[Study]:
    """Return studies by their names, in the order of `STUDIES`.

    Args:
        names: Names; none for all studies.

    Raises:
        ValueError: If there is no such study.

    Example:
        >>> [study.name for study in studies_named(("json", "french"))]
        ['french', 'json']

    """
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}, got {', '.join(unknown)}")
    return [study for name, study in STUDIES.items() if not names or name in names]
