# SPDX-License-Identifier: MIT
"""What a learned Δ is worth: beside the best single Δ, chosen heads, and a search layer by layer.

    make bench-learned                                  the embedded model, three tasks, 10 minutes
    make bench-learned LEARNED="--documents 24 --judged 48"     less

Everything is chosen on the documents of one seed, by the likelihood of the right answer, and judged
on those of another: by that likelihood, and by the share of greedy answers that are right in every
word. Differences are from the best single Δ, paired by document, with 95 % intervals by bootstrap.
Writes learned.json and learned.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from facts import cpu_facts
from report import page, rounded
from report_learned import SINGLE, summary

import guide_ext.integration as guide
from guide_ext.embedded.evaluate import DEVELOPMENT_SEED, Case, CaseKind, judge, make_cases
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering
from guide_ext.studies.tables.statistics import Interval, rate

TASKS = (CaseKind.FRENCH, CaseKind.NEEDLE, CaseKind.JSON)
DELTAS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
ALPHAS = (0.3, 0.1, 0.01)  # PASTA's own is 0.01
JUDGING_SEED = 31
HEADS_KEPT = (2, 4, 8)


@dataclass(frozen=True)
class Way:
    """A way to steer: its name, what was chosen, and the steering."""

    name: str
    chosen: str
    steering: Steering


class Chooser:
    """Chooses what each way needs, on some documents."""

    def __init__(self, model: Any, tokenizer: Any, cases: Sequence[Case]) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.examples = [
            guide.Example(guide.as_prompt(tokenizer, case.prompt), (case.answer,)) for case in cases
        ]

    def likelihoods(self, steerings: Sequence[Steering]) -> list[float]:
        """Return the mean likelihood of the right answers under each steering."""
        rows = [
            log_likelihoods(self._model, self._tokenizer, one.prompt, one.answers, list(steerings))
            for one in self.examples
        ]
        return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]

    def best(self, named: dict[str, Steering]) -> tuple[str, Steering]:
        """Return the steering with the best likelihood; of equal ones, the first."""
        found = self.likelihoods(list(named.values()))
        index = found.index(max(found))
        return list(named.items())[index]

    def ways(self) -> list[Way]:
        """Return every way with what suits these documents best."""
        ways = [Way("plain", "Δ = 0", Steering.guide(0.0))]
        text, single = self.best({f"Δ = {delta:g}": Steering.guide(delta) for delta in DELTAS})
        ways.append(Way(SINGLE, text, single))
        assert single.delta_mid is not None
        profile = guide.profile_heads(
            self._model, self._tokenizer, self.examples, delta=single.delta_mid
        )
        heads = {
            f"Δ = {delta:g} in {keep} heads": profile.steering(delta, keep)
            for keep in HEADS_KEPT
            for delta in DELTAS
        }
        ways.append(Way("chosen heads", *self.best(heads)))
        pasta = {
            f"α = {alpha:g} in {keep} heads": profile.pasta(alpha, keep)
            for keep in HEADS_KEPT
            for alpha in ALPHAS
        }
        ways.append(Way("PASTA", *self.best(pasta)))
        ways.append(self._layer_by_layer(single.delta_mid))
        for by in ("one", "layer", "head"):
            found = guide.learn_delta(
                self._model, self._tokenizer, self.examples, by=by, start=single.delta_mid,
                rounds=30,
            )  # fmt: skip
            values = [value for row in found.nats for value in row]
            text = f"Δ = {min(values):.2f} to {max(values):.2f}, {found.rounds} rounds"
            ways.append(Way(f"learned, by {by}", text, found.steering()))
        return ways

    def _layer_by_layer(self, start: float) -> Way:
        """Give each layer in turn the Δ of a grid that is best beside those of the others."""
        layers, heads = guide.table_size(self._model)
        deltas = [start] * layers
        for layer in range(layers):
            tried = {
                delta: Steering.by_head(
                    [[delta if at == layer else deltas[at]] * heads for at in range(layers)]
                )
                for delta in (0.0, *DELTAS)
            }
            found = self.likelihoods(list(tried.values()))
            deltas[layer] = list(tried)[found.index(max(found))]
        text = "Δ = " + ", ".join(f"{delta:g}" for delta in deltas)
        return Way("layer by layer", text, Steering.by_head([[one] * heads for one in deltas]))


def judged(model: Any, tokenizer: Any, cases: Sequence[Case], ways: Sequence[Way]) -> list[Any]:
    """Judge every way on documents that chose nothing; return the rows of a table."""
    prompts = [guide.as_prompt(tokenizer, case.prompt) for case in cases]
    likely = [
        log_likelihoods(model, tokenizer, prompt, [case.answer], [way.steering for way in ways])
        for case, prompt in zip(cases, prompts, strict=True)
    ]
    right = {}
    for way in ways:
        answers = guide.complete(
            model, tokenizer, prompts, steering=way.steering, max_new_tokens=40, batch_size=32
        )
        right[way.name] = [
            float(judge(case, answer).success) for case, answer in zip(cases, answers, strict=True)
        ]
    single = [way.name for way in ways].index(SINGLE)
    rows = []
    for index, way in enumerate(ways):
        values = [row[index] for row in likely]
        gains = [row[index] - row[single] for row in likely]
        better = [one - other for one, other in zip(right[way.name], right[SINGLE], strict=True)]
        rows.append(
            {
                "way": way.name,
                "chosen": way.chosen,
                "log_likelihood": _by_document(values),
                "log_likelihood_difference": _by_document(gains),
                "right": _by_document(right[way.name]),
                "right_difference": _by_document(better),
            }
        )
    return rows


def _by_document(values: Sequence[float]) -> Interval:
    return rate((str(number), value) for number, value in enumerate(values))


def main() -> int:
    """Choose, judge, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--documents", type=int, default=48, help="of each task, that choose")
    parser.add_argument("--judged", type=int, default=240, help="of each task, that judge")
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    arguments = parser.parse_args()
    machine, begin = cpu_facts(), time.monotonic()
    torch.set_num_threads(1)  # the model is small
    model, tokenizer = guide.load_embedded()
    tasks = {}
    for task in TASKS:
        sys.stderr.write(f"{task.value}: choosing on {arguments.documents} documents\n")
        cases = make_cases(task, arguments.documents, DEVELOPMENT_SEED, tokenizer=tokenizer)
        ways = Chooser(model, tokenizer, cases).ways()
        sys.stderr.write(f"{task.value}: judging on {arguments.judged} documents\n")
        cases = make_cases(task, arguments.judged, JUDGING_SEED, tokenizer=tokenizer)
        tasks[task.value] = judged(model, tokenizer, cases, ways)
    found = rounded(
        {
            "kind": "learned",
            "machine": machine,
            "seconds": time.monotonic() - begin,
            "settings": {"documents": arguments.documents, "judged": arguments.judged},
            "tasks": tasks,
        }
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "learned.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (arguments.out / "learned.md").write_text(page(found), "utf-8")
    sys.stdout.write("\n".join([*summary(found), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
