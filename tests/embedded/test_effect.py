# SPDX-License-Identifier: MIT
"""What Δ does to the shipped weights, from exact first-token probabilities and greedy answers.

The numbers are margins around an effect of frozen weights, on documents of the development seed,
and not tolerances: they are far from what was measured, so that another machine's rounding cannot
cross them. A retrained model may differ; see docs/embedded_model.md.
"""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from guide_ext.embedded import evaluate, model_path
from guide_ext.embedded.evaluate import DEVELOPMENT_SEED, Case, CaseKind, Rate
from guide_ext.embedded.training import quality
from guide_ext.embedded.training.lean_engine import LeanEngine
from guide_ext.embedded.training.train import TrainingConfig
from guide_ext.embedded.world import Style

COUNT = 36
GOOD_DELTA = 2.0
DESTRUCTIVE_DELTA = 9.0


@pytest.fixture(scope="module")
def french_cases(engine: LeanEngine) -> list[Case]:
    return evaluate.make_cases(CaseKind.FRENCH, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)


@pytest.fixture(scope="module")
def report():
    return json.loads((model_path() / "quality.json").read_text(encoding="utf-8"))


def first_token_share(engine: LeanEngine, prompts: list[str], delta: float, words: str) -> float:
    """Mean probability that the first answer token is one of ``words``."""
    ids = [engine.tokenizer.token_to_id(word) for word in words.split()]
    found = [engine.next_token_probabilities([prompt], delta)[0, ids].sum() for prompt in prompts]
    return float(torch.stack(found).mean())


def rates(engine: LeanEngine, cases: list[Case], delta: float) -> evaluate.Summary:
    return evaluate.summarize(evaluate.run_cases(cases, engine, delta=delta))


def test_marking_the_instruction_raises_the_probability_of_french(engine, french_cases):
    prompts = [case.prompt for case in french_cases]
    plain, guided = (first_token_share(engine, prompts, d, "ĠLe ĠLa") for d in (0.0, GOOD_DELTA))
    assert guided - plain > 0.15


def test_right_french_answers_become_more(engine, french_cases):
    plain, guided = (rates(engine, french_cases, delta) for delta in (0.0, GOOD_DELTA))
    assert guided.success.value - plain.success.value > 0.15
    assert guided.well_formed.value > 0.8


def test_marking_other_text_does_not_help(engine, french_cases):
    """A sentence of the document instead of the instruction, marked with the same strength."""
    rng = random.Random(0)
    prompts = []
    for case in french_cases:
        instruction, document = case.marked, case.after.strip()
        sentence = rng.choice(document.split(". "))
        marked = document.replace(sentence, f"<!!->{sentence}<-!!>", 1)
        prompts.append(f"{instruction}\n{marked}")
    plain, guided = (first_token_share(engine, prompts, d, "ĠLe ĠLa") for d in (0.0, GOOD_DELTA))
    assert guided - plain < 0.05


def test_marked_english_stays_english(engine):
    cases = evaluate.make_cases(
        CaseKind.ENGLISH, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer
    )
    prompts = [case.prompt for case in cases]
    assert first_token_share(engine, prompts, GOOD_DELTA, "ĠLe ĠLa") < 0.02
    assert first_token_share(engine, prompts, GOOD_DELTA, "ĠThe") > 0.95


@pytest.mark.parametrize("task", [CaseKind.FRENCH, CaseKind.JSON])
def test_a_large_delta_destroys_the_answers(engine, task):
    cases = evaluate.make_cases(task, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)
    destroyed = rates(engine, cases, DESTRUCTIVE_DELTA)
    assert destroyed.success == Rate(0, COUNT)
    assert destroyed.well_formed.value < 0.1


def test_json_answers_become_more(engine):
    cases = evaluate.make_cases(CaseKind.JSON, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)
    plain, guided = (rates(engine, cases, delta) for delta in (0.0, GOOD_DELTA))
    assert guided.success.value - plain.success.value > 0.05


def test_short_documents_need_no_steering(engine, french_cases):
    """Where the instruction was trained, plain and guided are both right."""
    short = [case for case in french_cases if case.bucket == 0]
    for delta in (0.0, 1.0):
        assert rates(engine, short, delta).success.value > 0.8


def test_upper_case_reaches_the_model(engine, french_cases):
    """The baseline is a real one: on short documents it works as the plain instruction does."""
    short = [case for case in french_cases if case.bucket == 0]
    summary = evaluate.summarize(evaluate.run_cases(short, engine, style=Style.UPPER))
    assert summary.success.value > 0.8


class TestReport:
    """The numbers in the documentation and in the package are those of one recorded run."""

    @pytest.mark.parametrize("measure", ["success", "well_formed"])
    def test_the_documentation_shows_the_recorded_tables(self, report, measure):
        page = Path(__file__).parents[2] / "docs" / "embedded_model.md"
        assert quality.markdown_table(report, measure) in page.read_text(encoding="utf-8")

    def test_the_shipped_seed_follows_from_the_rule(self, report):
        training = json.loads((model_path() / "training.json").read_text(encoding="utf-8"))
        gains = {
            run["seed"]: quality.development_gain(run["development"]) for run in report["runs"]
        }
        assert len(gains) >= 3
        assert max(gains, key=gains.get) == report["shipped_seed"] == training["arguments"]["seed"]
        assert report["selection_rule"] == quality.SELECTION_RULE

    def test_the_settings_that_were_trained_are_the_defaults(self):
        training = json.loads((model_path() / "training.json").read_text(encoding="utf-8"))
        config = TrainingConfig(seed=training["arguments"]["seed"])
        assert json.loads(json.dumps(asdict(config))) == training["arguments"]

    def test_the_effect_is_larger_than_its_uncertainty(self, report):
        """On the final documents, at some delta from 1 to 3, and gone at the largest one."""
        (run,) = (run for run in report["runs"] if run["seed"] == report["shipped_seed"])
        rows = {
            row["delta"]: row["success"]
            for row in run["final"]
            if (row["task"], row["style"]) == ("french", "plain")
        }
        plain_high = rows[0.0]["interval95"][1]
        assert max(rows[delta]["interval95"][0] for delta in (1.0, 2.0, 3.0)) > plain_high
        assert rows[DESTRUCTIVE_DELTA]["interval95"][1] < rows[0.0]["interval95"][0]


def test_a_recorded_row_can_be_measured_again(engine, report):
    """From the shipped weights: the same documents, judge and engine."""
    (run,) = (run for run in report["runs"] if run["seed"] == report["shipped_seed"])
    (row,) = (
        row for row in run["development"] if (row["task"], row["delta"]) == ("french", GOOD_DELTA)
    )
    documents = report["documents"]
    cases = evaluate.make_cases(
        CaseKind.FRENCH,
        documents["per_row"],
        documents["development_seed"],
        documents["max_tokens"],
        tokenizer=engine.tokenizer,
    )
    low, high = Rate(row["success"]["successes"], row["success"]["trials"]).interval()
    assert low < rates(engine, cases, GOOD_DELTA).success.value < high
