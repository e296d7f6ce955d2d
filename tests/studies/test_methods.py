# SPDX-License-Identifier: MIT
"""The study `methods`: strengths chosen on one half, judged on the other; made-up answers."""

import math
from pathlib import Path

import pytest

from guide_ext.studies import methods
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row, Where
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.methods import STUDY
from guide_ext.studies.plan import RunSettings, study_cells
from guide_ext.studies.tables.results import Results

PLAIN, PASTA = Condition(), [Condition(delta=-math.log(a), where=Where.PASTA) for a in (0.1, 0.01)]
GUIDE = [Condition(delta=delta) for delta in (1.0, 2.0)]
BOOSTED = [Condition(delta=math.log(9))]
HIGHLIGHTED = [Condition(delta=math.log(5), guidance=1.5)]
SHARE = [Condition(share=0.2), Condition(share=0.5)]
SEKA = [Condition(gain=0.4), Condition(gain=1.6)]
# Successes of eight documents: what is best on one half is not on the other.
CHOOSING = {
    PLAIN: 8, GUIDE[0]: 3, GUIDE[1]: 5, PASTA[0]: 6, PASTA[1]: 6, BOOSTED[0]: 1,
    HIGHLIGHTED[0]: 2, SHARE[0]: 1, SHARE[1]: 0, SEKA[0]: 2, SEKA[1]: 4,
}  # fmt: skip
JUDGING = {
    PLAIN: 2, GUIDE[0]: 8, GUIDE[1]: 4, PASTA[0]: 3, PASTA[1]: 8, BOOSTED[0]: 0,
    HIGHLIGHTED[0]: 8, SHARE[0]: 2, SHARE[1]: 8, SEKA[0]: 1, SEKA[1]: 7,
}  # fmt: skip


def documents(choosing, count=8):
    names = (f"texts:{number}" for number in range(1000))
    return [name for name in names if for_choosing(name) is choosing][:count]


def row(document):
    return Row(f"{document}@1", "needle", document, "The boat is red.", "", 3, (0, 500), "red")


@pytest.fixture(scope="module")
def tables():
    cells, records = [], {}
    for choosing, successes in ((True, CHOOSING), (False, JUDGING)):
        for number, document in enumerate(documents(choosing)):
            for condition, count in successes.items():
                cell = Cell(ANSWER, row(document), condition)
                records[cell.key] = {"text": "red" if number < count else "blue", "new_tokens": 1}
                cells.append(cell)
    results = Results(cells, records, STUDY.tasks, is_embedded=False)

    def named(table):
        made = table.made(results)
        return [dict(zip(made["columns"], values, strict=True)) for values in made["rows"]]

    return named(methods.COMPARED), named(methods.STRENGTHS)


def test_strengths_are_chosen_on_one_half_and_judged_on_the_other(tables):
    found = {line["by_method"]: line for line in tables[0]}
    assert found["plain"]["success"] == 2 / 8
    assert found["plain"]["difference"] is found["plain"]["p"] is None
    guide = found["GUIDE"]
    assert (guide["strength"], guide["tried"]) == ("Δ = 2, the last that was tried", 2)
    assert (guide["success"], guide["difference"]) == (4 / 8, 2 / 8)
    assert (guide["answers"], guide["documents"]) == (8, 8)
    assert guide["difference_low"] < 2 / 8 < guide["difference_high"]
    # Of two with as many successes, the weaker.
    assert (found["PASTA"]["strength"], found["PASTA"]["success"]) == ("α = 0.1", 3 / 8)
    assert (found["InstABoost"]["strength"], found["InstABoost"]["difference"]) == ("M = 9", -2 / 8)
    assert found["Prompt-Highlighter"]["strength"] == "w = 5, γ = 1.5"
    assert (found["Spotlight"]["strength"], found["Spotlight"]["difference"]) == ("ψ = 0.2", 0.0)
    assert (found["SEKA"]["strength"], found["SEKA"]["success"]) == (
        "g⁺ = 1.6, the last that was tried", 7 / 8,
    )  # fmt: skip
    assert "GUIDE in chosen heads" not in found
    assert all(line["p"] <= line["p_corrected"] for line in tables[0][1:])


def test_every_strength_is_shown_on_the_half_that_chooses(tables):
    found = {(line["by_method"], line["strength"]): line["success"] for line in tables[1]}
    assert found == {
        ("InstABoost", "M = 9"): 1 / 8,
        ("GUIDE", "Δ = 1"): 3 / 8,
        ("GUIDE", "Δ = 2"): 5 / 8,
        ("PASTA", "α = 0.1"): 6 / 8,
        ("PASTA", "α = 0.01"): 6 / 8,
        ("Spotlight", "ψ = 0.2"): 1 / 8,
        ("Spotlight", "ψ = 0.5"): 0.0,
        ("Prompt-Highlighter", "w = 5, γ = 1.5"): 2 / 8,
        ("SEKA", "g⁺ = 0.4"): 2 / 8,
        ("SEKA", "g⁺ = 1.6"): 4 / 8,
    }


def test_findings(tables):
    [sentence] = methods.COMPARED.findings(tables[0])
    assert sentence.startswith("Success on documents that chose no strength: InstABoost (M = 9)")
    assert "GUIDE (Δ = 2, the last that was tried) 0.50, 0.25 [" in sentence
    assert "not beyond chance" in sentence
    assert methods.COMPARED.findings(tables[0][:1]) == []


@pytest.mark.parametrize("data", [None, "x.jsonl"])
@pytest.mark.parametrize("heads", [(), ((0, 1),)])
def test_every_method_is_asked_in_every_world(data, heads):
    settings = RunSettings(studies=(STUDY.name,), data=data, heads=heads)
    asked = [cell.condition for cell in study_cells(STUDY, settings, [row("texts:1")])]
    assert len(set(asked)) == len(asked)
    owners = [
        [method.name for method in methods._METHODS if method.owns(condition)]
        for condition in asked
    ]
    assert [condition for condition, own in zip(asked, owners, strict=True) if not own] == [PLAIN]
    assert all(len(own) < 2 for own in owners)
    names = {name for own in owners for name in own}
    in_heads = {"GUIDE in chosen heads", "PASTA"}
    assert names == {"InstABoost", "GUIDE", "Spotlight", "Prompt-Highlighter", "SEKA"} | (
        in_heads if heads else set()
    )


def test_without_baselines_only_guide_is_asked():
    settings = RunSettings(studies=(STUDY.name,), baselines=False, deltas=(1.0,), heads=((0, 1),))
    asked = [cell.condition for cell in study_cells(STUDY, settings, [row("texts:1")])]
    assert asked == [PLAIN, GUIDE[0]]


def test_a_run_without_answers_has_empty_tables():
    results = Results([], {}, STUDY.tasks, is_embedded=True)
    assert methods.COMPARED.made(results)["rows"] == []
    assert methods.STRENGTHS.made(results)["rows"] == []


def test_the_page_names_what_is_tried():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")
    everywhere, chosen = _listed(STUDY.deltas[1:]), _listed(one.delta for one in methods._CHOSEN)
    highlights = ", ".join(f"({w:g}, {scale:g})" for w, scale in methods._HIGHLIGHTS)
    for row in (
        f"| GUIDE, also in chosen heads | Δ = {everywhere}; {chosen} |",
        f"| InstABoost | M = {_listed(methods._MULTIPLIERS)} |",
        f"| PASTA, in chosen heads | α = {_listed(methods._ALPHAS)} |",
        f"| Spotlight | ψ = {_listed(methods._SHARES)} |",
        f"| Prompt-Highlighter | (w, γ) = {highlights} |",
        f"| SEKA, in half of the heads | g⁺ = {_listed(methods._GAINS)} |",
    ):
        assert row in page


def _listed(numbers):
    return ", ".join(f"{number:g}" for number in numbers)
