# SPDX-License-Identifier: MIT
"""Does Influence foretell whether the embedded model follows an instruction?

The instruction of every case is marked for measuring and not steered. Influence at the end of the
prompt, by every form, and the plain reciprocal of the length are each ranked against success: the
area under the ROC curve is the chance that a case that succeeds has a larger value than one that
fails. Longer texts fail more often, so that anything that falls with length looks like a predictor;
within buckets of one length it must show more than that.

    python -m guide_ext.experiments.predictor --documents 480 --out predictor.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from guide_ext import __version__, integration
from guide_ext.experiments.embedded import evaluate, model_path
from guide_ext.experiments.embedded.evaluate import Case, Task
from guide_ext.experiments.machine import machine_facts
from guide_ext.influence import FORMS

LENGTH = "1 / length"
TASKS = (Task.FRENCH, Task.JSON)
_LONGEST_ANSWER = 40  # tokens; the longest right answer has 30
_CONFIDENCE = 0.95

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Observations:
    """What was seen of the cases of one task.

    Attributes:
        success: Whether the whole answer was right, ``[cases]``.
        bucket: Which range of lengths a case belongs to, ``[cases]``.
        predictors: What might foretell it, ``[cases]`` each.

    """

    success: Flags
    bucket: NDArray[np.int64]
    predictors: dict[str, Values]


def area(values: Values, success: Flags) -> float:
    """Return the area under the ROC curve; ties count half. NaN if there is one kind of case alone.

    Example:
        >>> area(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, True, False, True]))
        1.0

    """
    success = success.astype(bool)  # resampling casts what it resamples
    right, wrong = values[success], values[~success]
    if not len(right) or not len(wrong):
        return float("nan")
    return float(stats.mannwhitneyu(right, wrong).statistic) / (len(right) * len(wrong))


def area_within(values: Values, success: Flags, bucket: NDArray[np.int64]) -> float:
    """Return the area where only cases of one bucket are compared with each other.

    Example:
        >>> success, bucket = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
        >>> area_within(np.array([2.0, 1.0, 8.0, 9.0]), success, bucket)
        0.5

    """
    total = pairs = 0.0
    for one in np.unique(bucket):
        inside = bucket == one
        right = int(success[inside].sum())
        compared = right * (int(inside.sum()) - right)
        if compared:
            total += compared * area(values[inside], success[inside])
            pairs += compared
    return total / pairs if pairs else float("nan")


def observe(
    task: Task,
    documents: int,
    seed: int,
    *,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> Observations:
    """Answer cases without steering, and measure the Influence of their instruction.

    Args:
        task: What is asked.
        documents: How many cases.
        seed: Of the documents.
        batch_size: Prompts per forward pass.
        on_batch: Called after every batch with the number of its cases.

    """
    model, tokenizer = integration.load(str(model_path()), dtype="float32", device="cpu")
    cases = evaluate.make_cases(task, documents, seed, tokenizer=tokenizer)
    success: list[bool] = []
    found: dict[str, list[float]] = {name: [] for name in FORMS}
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        chats = [integration.as_prompt(tokenizer, _marked(case)) for case in batch]
        answers = integration.complete(
            model, tokenizer, chats, max_new_tokens=_LONGEST_ANSWER, batch_size=batch_size
        )
        success += [
            evaluate.judge(case, text).success for case, text in zip(batch, answers, strict=True)
        ]
        inputs = integration.encode(model, tokenizer, chats, delta=0.0)
        for name, values in found.items():
            measured = integration.influence(model, inputs, form=name)
            values += measured.at_end_of_prompt()[:, 0].tolist()
        if on_batch is not None:
            on_batch(len(batch))
    predictors = {name: np.array(values) for name, values in found.items()}
    predictors[LENGTH] = np.array([1 / case.context_tokens for case in cases])
    buckets = np.array([case.bucket for case in cases])
    return Observations(np.array(success), buckets, predictors)


def summarize(observations: Observations, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row for each predictor: both areas, with bootstrap intervals over the cases."""
    rows = []
    for name, values in observations.predictors.items():
        row: dict[str, Any] = {"predictor": name}
        columns = (values, observations.success, observations.bucket)
        for column, statistic in (
            ("auc", lambda values, success, bucket: area(values, success)),
            ("auc_within_lengths", area_within),
        ):
            row[column] = statistic(*columns)
            interval = stats.bootstrap(
                columns, statistic, paired=True, vectorized=False, n_resamples=1000,
                confidence_level=_CONFIDENCE, method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
            row[f"{column}_interval"] = [float(interval.low), float(interval.high)]
        rows.append(row)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Write the tables of a result."""
    lines = []
    for task in result["tasks"]:
        lines += [
            f"{task['task']}: {task['success']:.1%} of {result['documents']} succeed",
            "",
            "| predictor | AUC | 95 % | within one length | 95 % |",
            "|---|---:|---|---:|---|",
        ]
        for row in task["rows"]:
            cells = [row["predictor"]]
            for column in ("auc", "auc_within_lengths"):
                low, high = row[f"{column}_interval"]
                cells += [f"{row[column]:.3f}", f"{low:.3f} – {high:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _marked(case: Case) -> str:
    """Write the prompt with its instruction marked for measuring alone."""
    return f"{case.before}<?->{case.marked}<-?>{case.after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=480, help="cases of each task")
    parser.add_argument("--seed", type=int, default=2026, help="of the documents")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    options = parser.parse_args(arguments)
    done, total = 0, options.documents * len(TASKS)

    def show(count: int) -> None:
        nonlocal done
        done += count
        sys.stderr.write(f"\r{done} of {total} cases")
        sys.stderr.flush()

    tasks = []
    for task in TASKS:
        observations = observe(task, options.documents, options.seed, on_batch=show)
        tasks.append(
            {
                "task": task.value,
                "success": float(observations.success.mean()),
                "rows": summarize(observations),
            }
        )
    sys.stderr.write("\n")
    result = {
        "documents": options.documents,
        "seed": options.seed,
        "version": __version__,
        "machine": machine_facts(),
        "tasks": tasks,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
