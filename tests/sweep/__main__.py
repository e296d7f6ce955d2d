# SPDX-License-Identifier: MIT
"""Sweep all types, or those that are named: ``python -m tests.sweep [TYPE | TASK:TYPE ...]``.

All of them make ``docs/models.md``.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

from sweep.build import TASKS, build  # noqa: E402
from sweep.compare import TOLERANCE, Verdict, compare  # noqa: E402
from sweep.compare_encoder_decoders import compare_encoder_decoder  # noqa: E402
from sweep.page import PAGE, written  # noqa: E402


def judge(model_type: str, task: str = "causal") -> Verdict:
    """Build and compare one type; what cannot be built small is a verdict, too."""
    try:
        model = build(model_type, task)
    except Exception as error:  # whatever an architecture says of the sizes that it was given
        return Verdict("not built", f"{type(error).__name__}: {error}")
    try:
        return (compare_encoder_decoder if model.config.is_encoder_decoder else compare)(model)
    except Exception as error:
        return Verdict("fails", f"{type(error).__name__}: {error}")


def named(words: list[str]) -> Iterator[tuple[str, str]]:
    """Return task and type of all that the words name; a type without a task has several.

    Raises:
        ValueError: If a word names none.

    """
    task_of: dict[str, str] = {}
    for word in words or [f"{task}:" for task in TASKS]:
        wanted_task, colon, wanted_type = word.rpartition(":")
        found = [
            (task, model_type)
            for task, (types, _) in TASKS.items()
            for model_type in types
            if wanted_type in ("", model_type) and (not colon or task == wanted_task)
        ]
        if not found:
            raise ValueError(
                f"TYPE must be a type of transformers, or TASK:TYPE with one of {', '.join(TASKS)},"
                f" got {word}"
            )
        for task, model_type in found:
            # A class that serves several tasks is looked at in the first.
            kind = str(TASKS[task][0][model_type])
            if task_of.setdefault(kind, task) == task:
                yield task, model_type


def main(words: list[str]) -> int:
    """Print a line per type and the totals, and write the page if all were asked for.

    Returns:
        1 if any is wrong or fails.

    """
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    try:
        chosen = list(named(words))
    except ValueError as error:
        print(error)
        return 2
    found: dict[tuple[str, str], Verdict] = {}
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for task, model_type in chosen:
        verdict = judge(model_type, task)
        found[task, model_type] = verdict
        errors = " ".join(f"{name} {error:.0e}" for name, error in verdict.errors.items())
        influence = f"Influence {verdict.influence.split(':')[0]}" if verdict.influence else ""
        note = verdict.note.replace("\n", " ")[:160]
        parts = [part for part in (errors, influence, note) if part]
        print(f"{task + ':' + model_type:30} {verdict.kind:13} {'; '.join(parts)}", flush=True)
    for task in TASKS:
        counts = Counter(one.kind for (own, _), one in found.items() if own == task)
        if counts:
            told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            print(f"{task}: {told}")
    if not words:
        PAGE.write_text(written(found, TOLERANCE), encoding="utf-8")
        print(f"written: {PAGE}")
    return 1 if any(one.kind in ("WRONG", "fails") for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
