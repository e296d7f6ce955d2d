# SPDX-License-Identifier: MIT
"""What Δ does to the shipped weights, from exact first-token probabilities and greedy answers.

The numbers are margins around an effect of frozen weights, on documents of the development seed,
and not tolerances: they are far from what was measured, so that another machine's rounding cannot
cross them. A retrained model may differ; see docs/embedded_model.md.
"""

import random

import pytest
import torch

from guide_ext.experiments.embedded import evaluate, model_path
from guide_ext.experiments.embedded.engine import LeanEngine
from guide_ext.experiments.embedded.evaluate import DEVELOPMENT_SEED, Case, Rate, Task
from guide_ext.experiments.embedded.world import Style

COUNT = 36
GOOD_DELTA = 2.0
DESTRUCTIVE_DELTA = 9.0


@pytest.fixture(scope="module")
def engine() -> LeanEngine:
    return LeanEngine.from_folder(model_path())


@pytest.fixture(scope="module")
def french_cases(engine: LeanEngine) -> list[Case]:
    return evaluate.make_cases(Task.FRENCH, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)


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
    cases = evaluate.make_cases(Task.ENGLISH, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)
    prompts = [case.prompt for case in cases]
    assert first_token_share(engine, prompts, GOOD_DELTA, "ĠLe ĠLa") < 0.02
    assert first_token_share(engine, prompts, GOOD_DELTA, "ĠThe") > 0.95


@pytest.mark.parametrize("task", [Task.FRENCH, Task.JSON])
def test_a_large_delta_destroys_the_answers(engine, task):
    cases = evaluate.make_cases(task, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)
    destroyed = rates(engine, cases, DESTRUCTIVE_DELTA)
    assert destroyed.success == Rate(0, COUNT)
    assert destroyed.well_formed.value < 0.1


def test_json_answers_become_more(engine):
    cases = evaluate.make_cases(Task.JSON, COUNT, DEVELOPMENT_SEED, tokenizer=engine.tokenizer)
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
