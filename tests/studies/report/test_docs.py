# SPDX-License-Identifier: MIT
"""docs/studies.md and docs/reproduction.md say what happens."""

import doctest
import importlib.util
import json
import re
from pathlib import Path

from guide_ext.studies.registry import STUDIES

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "studies.md"


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


def test_the_tables_of_the_page_are_those_of_the_run():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "docs" / "publish_studies.py")
    publish = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publish)
    result = json.loads(publish.RESULT.read_text("utf-8"))
    text = publish.PAGE.read_text("utf-8")
    assert publish.with_tables(text, result) == text
    assert text.count("<!-- table ") == 9
    made = {table["name"] for table in result["tables"]}
    for figure in re.findall(r"\(studies/(\w+)\.png\)", text):
        assert figure in made
        assert (publish.FOLDER / f"{figure}.png").exists()


def test_what_the_page_says_of_its_tables():
    """The sentences that a new run could make untrue."""
    result = json.loads((ROOT / "docs" / "studies" / "embedded.json").read_text("utf-8"))
    rows = {
        table["name"]: [dict(zip(table["columns"], r, strict=True)) for r in table["rows"]]
        for table in result["tables"]
    }
    assert result["failures"] == []
    for name, score in (("french", "in_french"), ("needle", "found")):
        best = max((r for r in rows[name] if r["style"] == "plain"), key=lambda r: r[score])
        assert best["delta"] == 2
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
