# SPDX-License-Identifier: MIT
"""docs/studies.md and docs/reproduction.md say what happens."""

import doctest
import importlib.util
import json
import re
from pathlib import Path

import pytest

from guide_ext.studies.registry import STUDIES

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "studies.md"
NAMED = {
    "Δ = 0": 75, "Δ = 2": 95, "Δ = 2 on question": 61, "Δ = 2 on other": 53,
    "Δ = 2, last third of the layers": 96, "Δ = 2 on marked and a quarter of the text": 78,
    "Δ = 2 on marked and the whole text": 34, "Δ = 2, chosen heads": 100,
    "Δ = 2, PASTA, chosen heads": 100,
}  # fmt: skip
"""Shares found that docs/practice.md and docs/real_models.md name."""


def test_examples():
    failed, attempted = doctest.testfile(
        str(PAGE),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 0


def test_every_study_is_described():
    text = PAGE.read_text("utf-8")
    for name in STUDIES:
        assert f"| `{name}` |" in text


def published():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "docs" / "publish_studies.py")
    publish = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publish)
    return publish


def test_the_tables_of_the_page_are_those_of_the_run():
    publish = published()
    made, text = publish.tables_of(publish.RESULT), publish.PAGE.read_text("utf-8")
    assert publish.with_tables(text, publish.all_tables()) == text
    assert text.count("<!-- table ") == 10
    assert text.count("<!-- beside ") == 1
    for name, points in (("needle", 10), ("smollm2_needle/needle", 13)):  # as the page says
        found = {row["delta"]: row["found"] for row in publish.all_tables()[name]
                 if row["style"] == "plain"}  # fmt: skip
        assert round(100 * (found[1.0] - found[0.0])) == points
    for figure in re.findall(r"\(studies/(\w+)\.png\)", text):
        assert figure in made
        assert (publish.FOLDER / f"{figure}.png").exists()


def test_every_figure_and_result_is_named_in_a_page():
    publish = published()
    shown = "".join(page.read_text("utf-8") for page in (publish.PAGE, publish.REAL_PAGE))
    shown += (ROOT / "README.md").read_text("utf-8")
    files = {file.name for file in publish.FOLDER.iterdir()} - {publish.RESULT.name}
    assert {name for name in files if f"studies/{name})" not in shown} == set()


def test_the_page_of_real_models_has_the_tables_of_its_runs():
    publish = published()
    text = publish.REAL_PAGE.read_text("utf-8")
    assert publish.with_tables(text, publish.all_tables()) == text
    assert text.count("<!-- table ") == 16
    for figure in re.findall(r"\(studies/(\w+)\.png\)", text):
        assert (publish.FOLDER / f"{figure}.png").exists()


def test_what_the_page_of_real_models_says_of_its_tables():
    publish = published()
    rows = {
        name: own
        for run in publish.REAL_RUNS
        for name, own in publish.tables_of(publish.FOLDER / f"{run}.json").items()
        if run in ("smollm2_needle", "smollm2_instruction")
    }
    found = {row["delta"]: row for row in rows["needle"]}
    assert found[2.0]["found_low"] > found[0.0]["found_high"]
    assert max(found, key=lambda delta: found[delta]["found"]) == 3
    obeyed = {row["delta"]: row["obeys"] for row in rows["instruction"]}
    assert max(obeyed, key=obeyed.get) == 1
    done = {row["delta"]: row["on_task"] for row in rows["instruction"]}
    assert done[2.0] == pytest.approx(1 / 3, abs=0.03)  # docs/practice.md: two of three are none
    assert found[5.0]["found"] < found[1.0]["found"]
    changes = {row["delta"]: row for row in rows["instruction_differences"]}
    assert all(changes[delta]["p_corrected"] < 0.05 for delta in (0.5, 1.0))
    assert all(changes[delta]["difference_low"] > 0 for delta in (0.5, 1.0))
    assert changes[2.0]["difference_high"] < 0
    both = {row["delta"]: round(100 * row["success"], 1) for row in rows["instruction"]}
    assert (both[0.0], both[0.5], both[2.0]) == (5.0, 6.6, 2.6)
    assert max(both, key=both.get) == 0.5
    assert obeyed[0.0] == pytest.approx(1 / 10, abs=0.01)
    assert all(row["p_corrected"] > 0.05 for row in rows["instruction_gains"])
    assert sum(row["success_at_zero"] == 0 for row in rows["instruction_gains"]) == 6


def test_what_the_pages_say_of_other_marks_and_wordings():
    publish = published()
    tables = publish.tables_of(publish.FOLDER / "smollm2_needle_ways.json")
    found = {row["condition"]: round(100 * row["found"]) for row in tables["needle"]}
    assert {name: found[name] for name in NAMED} == NAMED
    changes = {row["condition"]: row for row in tables["needle_differences"]}
    assert all(row["answers"] == 240 for row in changes.values())
    none = {name for name, row in changes.items() if row["p_corrected"] > 0.05}
    assert none == {
        "“Important:”", "“Pay close attention to this:”", "“This is the most important part:”",
        "said twice", "Δ = 2, middle third of the layers",
        "Δ = 2 on marked and a quarter of the text",
    }  # fmt: skip
    worse = {name for name, row in changes.items() if row["difference"] < 0} - none
    assert worse == {
        "upper case", "Δ = 2 on question", "Δ = 1 on other", "Δ = 2 on other",
        "Δ = 2 on marked and the whole text", "Δ = 2, first third of the layers",
    }  # fmt: skip
    assert changes["Δ = 2, first third of the layers"]["difference"] > -0.1
    twice, share, two = (
        changes[name]["difference"] for name in ("said twice", "share ≥ 0.1", "Δ = 2")
    )
    assert 0 < twice < share < two
    assert round(100 * changes["upper case"]["difference"]) == -54
    assert abs(changes["Δ = 2 on other"]["difference"]) == pytest.approx(two, abs=0.05)


def test_the_heads_of_the_page_are_those_of_its_run():
    profile = json.loads((ROOT / "docs" / "studies" / "smollm2_heads.json").read_text("utf-8"))
    assert (len(profile["heads"]), sum(map(len, profile["gains"]))) == (25, 270)
    assert (profile["documents"], profile["delta"], profile["model"]) == (12, 2.0, "smollm2")
    run = json.loads((published().FOLDER / "smollm2_needle_ways.json").read_text("utf-8"))
    assert run["settings"]["heads"] == profile["heads"]
    assert run["settings"]["seed"] != profile["seed"]


def test_what_the_pages_say_of_sentences_that_contradict():
    publish = published()
    tables = publish.tables_of(publish.FOLDER / "smollm2_conflict.json")
    won = {
        name: {row["condition"]: round(100 * row["won"]) for row in tables[name]}
        for name in ("conflict_known", "conflict_two")
    }
    assert [won["conflict_known"][name] for name in ("Δ = 0", "Δ = 2")] == [63, 88]
    assert [won["conflict_two"][name] for name in ("Δ = 0", "Δ = 2")] == [46, 92]
    for name in won:
        changes = {row["condition"]: row for row in tables[f"{name}_differences"]}
        assert all(row["answers"] == 120 for row in changes.values())
        beyond = {name for name, row in changes.items() if row["p_corrected"] <= 0.05}
        assert beyond - {"Δ = 1", "Δ = 2", "Δ = 3"} <= {"upper case", "Δ = 2 on other"}
        assert {"upper case", "Δ = 2"} <= beyond
        assert changes["upper case"]["difference"] < 0 < changes["Δ = 2"]["difference"]
    other = next(row for row in tables["conflict_two"] if row["condition"] == "Δ = 2 on other")
    assert round(100 * other["lost"]) == 93
    by_order = {(row["marked_sentence"], row["delta"]): round(100 * row["won"])
                for row in tables["conflict_by_order"] if row["style"] == "plain"}  # fmt: skip
    keys = (("second", 0.0), ("first", 0.0), ("second", 2.0), ("first", 2.0))
    assert [by_order[key] for key in keys] == [70, 22, 97, 87]


def test_what_the_pages_say_of_the_chosen_heads_elsewhere():
    publish = published()
    tables = publish.tables_of(publish.FOLDER / "smollm2_conflict_heads.json")
    run = json.loads((publish.FOLDER / "smollm2_conflict_heads.json").read_text("utf-8"))
    profile = json.loads((ROOT / "docs" / "studies" / "smollm2_heads.json").read_text("utf-8"))
    assert run["settings"]["heads"] == profile["heads"]
    for name, plain in (("conflict_two", 45), ("conflict_known", 65)):
        rows = {row["condition"]: row for row in tables[name]}
        assert round(100 * rows["Δ = 0"]["won"]) == plain
        for chosen in ("Δ = 2, chosen heads", "Δ = 2, PASTA, chosen heads"):
            assert rows[chosen]["won"] >= rows["Δ = 2"]["won"]
            assert round(100 * rows[chosen]["lost"]) == 1
    chosen = {row["condition"]: row["won"] for row in tables["conflict_two"]}
    assert round(100 * chosen["Δ = 2, chosen heads"]) == 98


def test_what_the_page_says_of_sampled_answers_and_of_large_deltas():
    tables = published().all_tables()
    [change] = tables["smollm2_instruction_sampled/instruction_sampled_differences"]
    assert round(100 * change["difference"], 1) == 1.5
    ends = [round(100 * change[name], 1) for name in ("difference_low", "difference_high")]
    assert ends == [0.5, 2.5]
    assert change["p_corrected"] == pytest.approx(0.007, abs=5e-4)
    ways = tables["smollm2_instruction_ways/instruction_differences"]
    assert all(row["p_corrected"] > 0.05 and row["documents"] == 12 for row in ways)
    limit = {row["delta"]: row for row in tables["smollm2_delta_limit/delta_limit"]}
    assert all(row["answers"] == 120 for row in limit.values())
    assert all(limit[delta]["in_french"] < 0.1 for delta in (5.0, 7.0, 9.0))
    # Two shares of 120 answers differ by some 13 points by chance.
    assert max(abs(limit[d]["in_french"] - limit[0.0]["in_french"]) for d in (1.0, 2.0)) < 0.13


def test_what_the_page_says_of_calibration_and_of_predictors():
    publish = published()
    tables = publish.all_tables()
    for name, task in (("needle", "needle"), ("conflict", "conflict_two")):
        rules = {
            row["rule"]: row for row in tables[f"smollm2_{name}/chosen_delta"]
            if row["asked"] == task
        }  # fmt: skip
        assert abs(rules["uppercase"]["delta"]) < 0.4
        assert rules["uppercase"]["success"] == rules["plain"]["success"]
        assert all(rules[rule]["prompts"] == 24 for rule in ("uppercase", "1.5", "2.0", "3.0"))
        assert rules["3.0"]["delta"] == pytest.approx(1, abs=0.15)
        gain, lost = -rules["plain"]["change"], -rules["3.0"]["change"]
        assert 0.4 < 1 - lost / gain < 0.7
        assert round(100 * rules["best"]["success"]) == 93
    predictors = tables["smollm2_needle/predictor"]
    assert all(row["cases"] == 240 for row in predictors)
    assert all(row["auc_low"] <= 0.5 <= row["auc_high"] for row in predictors)
    choices = tables["smollm2_instruction_choices/chosen_delta"]
    rules = {row["rule"]: row for row in choices}
    assert [round(rules[rule]["delta"], 2) for rule in ("uppercase", "2.0")] == [0.04, 0.91]
    assert rules["3.0"]["delta"] == pytest.approx(1.5, abs=0.05)
    assert all(row["change_low"] <= 0 <= row["change_high"] for row in choices)
    areas = {row["predictor"]: row for row in tables["smollm2_instruction_choices/predictor"]}
    named = {"influence": 0.31, "rollout": 0.31, "raw": 0.52, "1 / length": 0.58}
    assert {name: round(areas[name]["auc"], 2) for name in named} == named
    below = {name for name, row in areas.items() if row["auc_high"] < 0.5}
    assert below == {"influence", "exact", "authors", "rollout"}
    assert all(row["auc_low"] < 0.5 for row in areas.values())


def test_what_the_pages_say_of_json_and_of_norms():
    publish = published()
    tables = publish.tables_of(publish.FOLDER / "smollm2_json.json")
    rows = {row["condition"]: row for row in tables["json"]}
    assert all(row["answers"] == 40 and row["exact"] == 0 for row in rows.values())
    assert all(row["jaccard"] < 0.02 for row in rows.values())
    assert rows["Δ = 1"]["jaccard"] == rows["Δ = 2"]["jaccard"] == 0
    medians = [row["median"] for row in tables["norms"]]
    assert len(medians) == 30
    assert [round(median) for median in medians[:2]] == [1, 1]
    assert (round(min(medians[2:])), round(max(medians))) == (2, 9)
    assert tables["norms"][0]["tokens"] == pytest.approx(20_000, abs=500)


def test_what_the_page_says_of_its_tables():
    """The sentences that a new run could make untrue."""
    publish = published()
    rows = publish.tables_of(publish.RESULT)
    assert json.loads(publish.RESULT.read_text("utf-8"))["failures"] == []
    for name, score, delta in (("french", "in_french", 2), ("needle", "found", 3)):
        best = max((r for r in rows[name] if r["style"] == "plain"), key=lambda r: r[score])
        assert best["delta"] == delta
    choices = {(row["asked"], row["rule"]): row for row in rows["chosen_delta"]}
    gain, lost = (-choices["needle", rule]["change"] for rule in ("plain", "uppercase"))
    assert 1 - lost / gain == pytest.approx(1 / 3, abs=0.03)
    json_rules = [choices["json", rule]["success"] for rule in ("plain", "uppercase")]
    assert json_rules[0] == json_rules[1]
    for row in rows["predictor"]:
        length = next(
            r for r in rows["predictor"]
            if (r["task"], r["predictor"]) == (row["task"], "1 / length")
        )  # fmt: skip
        assert row["auc_low"] <= length["auc"]
        if row["predictor"] == "influence":
            assert row["auc_within"] <= length["auc_within"]
            assert (row["auc_within_low"] > 0.5) == (row["task"] == "json")
    assert rows["norms"][0]["median"] < 0.2
    assert all(3.5 < row["median"] < 11.5 for row in rows["norms"][1:])
    guide = next(row for row in rows["sft"] if row["method"] == "guide")
    crossed = [r["tokens"] for r in rows["sft"] if r["method"] == "sft" and
               r["in_french"] > guide["in_french"]]  # fmt: skip
    assert 9_000 < min(crossed) < 30_000
    last = rows["delta_limit"][-1]
    assert last["delta"] == 9
    assert last["in_french"] > 0.8
    assert last["well_formed"] < 0.01
