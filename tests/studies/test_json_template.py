# SPDX-License-Identifier: MIT
"""The study `json`: scores of answers against a template."""

import pytest

from guide_ext.studies.json_template import json_scores


@pytest.mark.parametrize(
    ("text", "jaccard", "authors", "exact"),
    [
        ('{"a": "x", "b": []}', 1.0, 1.0, 1.0),
        ('{"a": "x", "b": "no list"}', 1.0, 0.5, 1.0),
        ('{"a": "x"}', 0.5, 0.5, 0.0),
        ('Sure! {"a": "x", "b": []} Bye', 1.0, 1.0, 0.0),
        ('{"a": "x", "c": 1, "d": 2}', 0.25, 1 / 3, 0.0),
        ('{"a": "x", "a": "y"}', 0.0, 0.0, 0.0),
        ("no JSON", 0.0, 0.0, 0.0),
        ("} {", 0.0, 0.0, 0.0),
    ],
)
def test_json(text, jaccard, authors, exact):
    found = json_scores(text, {"a": str, "b": list})
    assert found == pytest.approx({"jaccard": jaccard, "authors": authors, "exact": exact})


def test_brackets_without_end_are_no_json():
    text = '{"a": ' + "[" * 100_000 + "}"
    assert json_scores(text, {"a": str}) == {"jaccard": 0, "authors": 0, "exact": 0}
