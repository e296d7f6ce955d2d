# SPDX-License-Identifier: MIT
"""The studies of instructions: their requests, their tables, and a run on real text."""

import json
from collections import Counter

import pytest

from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.data.documents import Document
from guide_ext.studies.instruction import (
    BY_CONDITION,
    BY_KIND,
    BY_VARIANT,
    GAINS,
    REQUEST,
    STUDY,
    TASK,
    judge_instructed,
)
from guide_ext.studies.instruction_sampled import STUDY as SAMPLED
from guide_ext.studies.instruction_sampled import TASK as SAMPLED_TASK
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.run.runner import run_studies
from guide_ext.studies.tables.instructions import INSTRUCTIONS
from guide_ext.studies.tables.results import Results

TEXT = "The baker hides the golden key in the barn, and the farmer finds it near the river."
SUMMARY = "The baker hides the golden key, which the farmer finds."
DOCUMENTS = [Document(f"texts.jsonl:{number}", f"{TEXT} {number}") for number in range(1, 61)]
ROWS = [row for n, one in enumerate(DOCUMENTS) for row in TASK.rows(one, 20, (0, 500), n)]


class TestRequests:
    def test_each_document_gets_each_instruction_once_and_all_variants_alike(self):
        for document in DOCUMENTS:
            own = [row for row in ROWS if row.document == document.id]
            assert [row.kind for row in own] == list(INSTRUCTIONS)
            assert set(Counter(row.variant for row in own).values()) == {len(INSTRUCTIONS) // 6}
        assert len({row.id for row in ROWS}) == len(ROWS)

    def test_each_instruction_meets_all_variants_equally_often(self):
        for kind in INSTRUCTIONS:
            found = Counter(row.variant for row in ROWS if row.kind == kind)
            assert len(found) == 6
            assert max(found.values()) - min(found.values()) <= 1

    def test_prompts(self):
        for row in ROWS:
            place, phrasing = row.variant.split(" ")
            assert row.marked == INSTRUCTIONS[row.kind].phrasings[int(phrasing) - 1]
            text = DOCUMENTS[int(row.document.split(":")[1]) - 1].text
            if place == "first":
                assert (row.before, row.after) == ("", f"\n\n{REQUEST}\n\n{text}")
            else:
                assert (row.before, row.after) == (f"{REQUEST}\n\n{text}\n\n", "")

    def test_which_variant_is_a_matter_of_the_number_alone(self):
        again = TASK.rows(Document(DOCUMENTS[7].id, "Another text."), 3, (0, 500), 7)
        assert [row.variant for row in again] == [
            row.variant for row in ROWS if row.document == DOCUMENTS[7].id
        ]

    def test_sampled_requests_are_those_of_another_task(self):
        first = SAMPLED_TASK.rows(DOCUMENTS[0], 20, (0, 500), 0)[0]
        assert first.task == "instruction_sampled"
        cells = study_cells(SAMPLED, RunSettings(("instruction_sampled",), data="x.jsonl"), [first])
        assert len(cells) == 3 * len(SAMPLED.deltas)


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        (f"{SUMMARY} THE END", (1, 1, 1)),
        (SUMMARY, (0, 1, 0)),
        ("THE END", (1, 0, 0)),
        ("Nothing.", (0, 0, 0)),
    ],
)
def test_success_is_to_obey_and_to_do_the_task(answer, scores):
    row = next(row for row in ROWS if row.kind == "the end")
    found = judge_instructed(row, answer, None)
    assert found == dict(zip(("obeys", "on_task", "success"), scores, strict=True))


def results(answer_of):
    """Return results in which a function makes the answers: of a row and a Δ."""
    cells = [
        Cell(ANSWER, row, Condition(delta=delta), decoding=TASK.decoding)
        for row in ROWS
        for delta in (0.0, 1.0, 2.0)
    ]
    records = {
        cell.key: {"text": answer_of(cell.row, cell.condition.delta), "new_tokens": 9}
        for cell in cells
    }
    return Results(cells, records, [TASK], is_embedded=False)


def read(table, found):
    made = table.made(found)
    return [dict(zip(made["columns"], row, strict=True)) for row in made["rows"]]


@pytest.fixture(scope="module")
def found():
    """At Δ = 1 `the end` is obeyed, at 2 nothing but it is said; commas come with Δ = 1."""

    def answer(row: Row, delta: float) -> str:
        if row.kind == "the end" and delta:
            return f"{SUMMARY} THE END" if delta == 1 else "THE END"
        if row.kind == "no commas":
            return SUMMARY if delta else SUMMARY.replace(",", "")
        return SUMMARY if row.kind in ("one sentence", "ten words") else "Nothing at all."

    return results(answer)


class TestTables:
    def test_by_condition(self, found):
        plain, one, two = read(BY_CONDITION, found)
        count = len(INSTRUCTIONS)
        assert plain["answers"] == len(ROWS)
        assert plain["documents"] == len(DOCUMENTS)
        assert plain["success"] == pytest.approx(3 / count, abs=1e-6)
        assert one["success"] == pytest.approx(3 / count, abs=1e-6)
        assert two["success"] == pytest.approx(2 / count, abs=1e-6)
        assert one["on_task"] - two["on_task"] == pytest.approx(1 / count, abs=2e-6)

    def test_by_kind(self, found):
        rows = {(row["instruction"], row["delta"]): row for row in read(BY_KIND, found)}
        assert list(dict.fromkeys(kind for kind, _ in rows)) == list(INSTRUCTIONS)
        end = [rows["the end", delta] for delta in (0.0, 1.0, 2.0)]
        assert [(row["obeys"], row["on_task"], row["success"]) for row in end] == [
            (0, 0, 0), (1, 1, 1), (1, 0, 0)
        ]  # fmt: skip
        assert {row["answers"] for row in rows.values()} == {len(DOCUMENTS)}
        (sentence,) = BY_KIND.findings(list(rows.values()))
        assert sentence.startswith("At no Δ followed with the task done: bullets, three items")
        assert "the end" not in sentence

    def test_by_variant(self, found):
        rows = read(BY_VARIANT, found)
        places = {(row["place"], row["phrasing"], row["delta"]) for row in rows}
        assert len(rows) == len(places) == 2 * 3 * 3
        assert sum(row["answers"] for row in rows) == 3 * len(ROWS)
        (sentence,) = BY_VARIANT.findings(rows)
        assert sentence.startswith("Success with the instruction first in the prompt 0.")
        assert "; last in the prompt 0." in sentence

    def test_gains_are_paired_and_corrected(self, found):
        rows = {row["instruction"]: row for row in read(GAINS, found)}
        assert {row["delta"] for row in rows.values()} == {1.0}
        assert (rows["the end"]["success_at_zero"], rows["the end"]["difference"]) == (0, 1)
        assert (rows["no commas"]["success_at_zero"], rows["no commas"]["difference"]) == (1, -1)
        assert rows["bullets"]["p"] == 1
        assert rows["the end"]["p"] < 0.001
        assert rows["the end"]["p_corrected"] == pytest.approx(
            len(INSTRUCTIONS) * rows["the end"]["p"], abs=1e-5
        )
        (sentence,) = GAINS.findings(list(rows.values()))
        assert "gain: the end 1.00 [1.00, 1.00]; lose: no commas −1.00" in sentence
        assert f"16 of {len(INSTRUCTIONS)} instructions do not change beyond chance" in sentence

    def test_other_ways_to_stress_are_not_taken_for_delta(self):
        cells = [
            Cell(ANSWER, row, condition, decoding=TASK.decoding)
            for row in ROWS[:18]
            for condition in STUDY.conditions(on_texts=True)
        ]
        records = {cell.key: {"text": SUMMARY, "new_tokens": 9} for cell in cells}
        found = Results(cells, records, [TASK], is_embedded=False)
        assert len(read(BY_CONDITION, found)) == len(STUDY.conditions(on_texts=True)) == 15
        assert {row["delta"] for row in read(BY_KIND, found)} == set(STUDY.deltas)
        assert {row["answers"] for row in read(BY_KIND, found)} == {1}

    def test_a_run_of_one_delta_has_no_gains(self):
        cells = [Cell(ANSWER, row, Condition(), decoding=TASK.decoding) for row in ROWS[:18]]
        records = {cell.key: {"text": SUMMARY, "new_tokens": 9} for cell in cells}
        found = Results(cells, records, [TASK], is_embedded=False)
        assert read(GAINS, found) == []
        assert GAINS.findings([]) == []


def test_a_run_on_texts(tmp_path):
    """The embedded model does not know such requests; it is asked all the same."""
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{TEXT} {n}"}) for n in range(3)))
    settings = RunSettings(
        ("instruction",), data=str(path), documents=2, deltas=(1.0,), baselines=False, windows=1
    )
    found = run_studies(settings, tmp_path / "run")
    assert found["failures"] == []
    tables = {table["name"]: table for table in found["tables"]}
    assert list(tables) == [table.name for table in STUDY.tables]
    assert found["progress"]["instruction"]["done"] == 2 * 2 * len(INSTRUCTIONS)
    assert len(tables["instruction_by_kind"]["rows"]) == 2 * len(INSTRUCTIONS)
