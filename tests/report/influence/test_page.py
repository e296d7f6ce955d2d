# SPDX-License-Identifier: MIT
"""The page about Influence: well-formed, self-contained, every number of the record."""

import json

import pytest
from pages import DOCUMENT, HOSTILE, STEERED, Reader, hostile_record

from guide_ext.influence.record import Record, number_text, visible
from guide_ext.integration.compare import measure_prompt
from guide_ext.report.influence.page import InfluenceReport, influence_html

pytest_plugins = ["influence_record"]


@pytest.mark.parametrize("form", ["paper", "exact", "authors", "rollout", "raw"])
def test_every_form_can_be_drawn(embedded, form, tmp_path):
    model, tokenizer = embedded
    found = measure_prompt(model, tokenizer, STEERED, form=form, max_new_tokens=2)
    assert form in influence_html(found)


def test_the_page_is_well_formed_and_self_contained(record):
    page = influence_html(record)
    read = Reader(page)
    assert "http:" not in page
    assert "https:" not in page
    assert ("html", {"lang": "en"}) in read.elements
    assert len(read.ids) == len(set(read.ids))
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")


def test_the_page_shows_every_token_with_its_number(record):
    read = Reader(influence_html(record))
    shown = read.tokens()
    expected = [
        (str(index), str(token), values)
        for index, run in enumerate(record["runs"])
        for token, values in enumerate(run["values"][0][-1])
    ]
    assert {(one["data-run"], one["data-token"]) for one in shown} == {one[:2] for one in expected}
    assert len(shown) == len(expected)
    numbers = {(one["data-run"], one["data-token"]): one for one in shown}
    read_record = Record.read(record)
    for run, token, value in expected:
        attributes = numbers[run, token]
        label = read_record.runs[int(run)].tokens[int(token)].label
        number = "not measured" if value is None else number_text(value)
        assert attributes["title"] == attributes["aria-label"]
        assert label in attributes["title"]
        assert attributes["title"].endswith(number)


def test_hostile_tokens_are_inert(record):
    hostile = hostile_record(record)
    page = influence_html(hostile)
    read, clean = Reader(page), Reader(influence_html(record))
    # The same elements with the same attributes: no token became markup.
    assert [(tag, *found) for tag, found in read.elements] == [
        (tag, *found) for tag, found in clean.elements
    ]
    assert [tag for tag, _ in read.elements].count("script") == 2
    data = json.loads(next(text for tag, text in read.texts if tag == "script"))
    assert data["groups"] == [visible(name) for name in HOSTILE[:2]]
    assert "\u202e" not in page
    page.encode("utf-8")
    titles = " ".join(one["title"] for one in read.tokens())
    for text in HOSTILE:
        assert visible(text) in titles


def test_only_the_own_script_may_run(record):
    read = Reader(influence_html(record))
    policy = next(found["content"] for tag, found in read.elements if found.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-eval" not in policy


def test_one_run_alone(embedded, tmp_path):
    found = measure_prompt(*embedded, f"<?->Summarize<-?> {DOCUMENT}", max_new_tokens=2)
    read = Reader(influence_html(found))
    assert {one["data-run"] for one in read.tokens()} == {"0"}
    InfluenceReport(found).save(tmp_path / "one.png")


def test_notebooks_get_the_page_in_a_frame(record):
    report = InfluenceReport(record)
    read = Reader(report._repr_html_())
    assert [tag for tag, _ in read.elements] == ["iframe"]
    assert read.elements[0][1]["srcdoc"] == influence_html(record)
    assert repr(report) == (
        "InfluenceReport('embedded', groups=['rule', 'place'], runs=['plain', 'guided'])"
    )


def test_saved_files(record, tmp_path):
    report = InfluenceReport(record)
    page = report.save(tmp_path / "a.html")
    assert page.read_text(encoding="utf-8") == influence_html(record)
    numbers = report.save(str(tmp_path / "a.json"))
    assert json.loads(numbers.read_text(encoding="utf-8")) == record
    with pytest.raises(ValueError, match=r"path must end in .html, .png, .json, got"):
        report.save(tmp_path / "a.pdf")
