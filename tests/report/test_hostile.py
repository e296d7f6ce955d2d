"""Records may come from anywhere: no text in one becomes markup, and no file is half written."""

import copy
import itertools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Reader
from study_tables import tables

from guide_ext.influence.record import visible
from guide_ext.report.document import asset, document, markup
from guide_ext.report.influence.page import InfluenceReport, influence_html
from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report.page import study_html

PIECES = (
    *HOSTILE, "<", ">", '"', "'", "&", "=", "/", "`", " ", "\t", "\n", "\r", "\f", "\v", "\x1b[31m",
    "\u2028", "\udfff", "\ufffe", "-->", "</title>", "</textarea>", "<svg onload=x>", "onload=",
    "javascript:x", "style=", "{", "}", "}}", "{0.__class__}", "%", "$", "\\", "_", "a",
    "plain", "", "&#34;", "&lt", "<!--<script>", "../", "\u202e", "é",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=4).map("".join)
QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def token(text):
    return {"id": 1, "token": f"▁{text}", "text": text, "special": False}


def small_record():
    """Return a record of two groups and two layers, with a text in every place that has one."""
    values = [[[0.0, 0.5, 0.25, 0.1, None]] * 3] * 2
    summary = [{"group": name, "end_of_prompt": 0.1, "answer": None} for name in ("rule", "place")]
    runs = [
        {"name": name, "delta": delta, "answer": "a b", "tokens": [token("a"), token(" b")],
         "values": values, "summary": summary}
        for name, delta in (("plain", 0.0), ("guided", 2.0))
    ]  # fmt: skip
    return copy.deepcopy({
        "kind": "guide_ext influence", "format": 1, "model": "tiny", "layers": 2,
        "settings": {"delta": 2.0, "form": "paper", "end_tokens": 10},
        "groups": ["rule", "place"],
        "prompt": {
            "text": "x\ny z", "tokens": [token("x\ny"), token(" "), token("z")],
            "nats": [2.0, 0.0, 0.0],
            "groups": {"rule": [True, False, False], "place": [False, True, True]},
        },
        "runs": runs, "versions": {"guide_ext": "1"}, "machine": {"cpu": "x"},
    })  # fmt: skip


def leaves(value, path=()):
    """Yield the path of everything in plain data that is no container, and of every container."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for step, part in items:
        if isinstance(part, dict | list):
            yield from leaves(part, (*path, step))
        else:
            yield (*path, step)


def places(data):
    """Return a path for every kind of place: the last of those that differ by numbers alone."""
    kinds = {
        tuple("*" if isinstance(step, int) else step for step in path): path
        for path in leaves(data)
        if path
    }
    return list(kinds.values())


def replaced(data, path, value):
    found = copy.deepcopy(data)
    place = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return found


def renamed(record, index, name):
    """Give a group another name wherever it is named, and every token of the prompt, too."""
    found = copy.deepcopy(record)
    old = found["groups"][index]
    found["groups"][index] = name
    found["prompt"]["groups"][name] = found["prompt"]["groups"].pop(old)
    for run in found["runs"]:
        run["summary"][index]["group"] = name
    return found


FREE = {"title", "aria-label", "alt", "src"}  # attributes whose values come from the record


def skeleton(page):
    """Return elements with attributes; their values where no text of a record belongs."""
    return [
        (tag, {name: None if name in FREE else value for name, value in found.items()})
        for tag, found in Reader(page).elements
    ]


CLEAN = skeleton(influence_html(small_record()))
SCRIPTS = [
    asset("guide_ext.report.influence", "values.js")
    + asset("guide_ext.report.influence", "influence.js")
]
PATHS = places(small_record())


def check_page(page):
    assert skeleton(page) == CLEAN
    read = Reader(page)
    scripts = [text for tag, text in read.texts if tag == "script"]
    assert scripts[1:] == SCRIPTS
    assert [text for tag, text in read.texts if tag == "style"] == [
        asset("guide_ext.report", "base.css") + asset("guide_ext.report.influence", "influence.css")
    ]
    assert not re.search("[<>&]", scripts[0])
    for _, found in read.elements:
        assert found.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    page.encode("utf-8")


def check_files(report, folder):
    """Every kind of file is whole, or not there."""
    page = report.save(folder / "a.html")
    assert page.read_text(encoding="utf-8") == influence_html(report.record)
    report.save(folder / "a.json").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == {"a.html", "a.json"}
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
@QUICK
@given(text=TEXTS)
def test_a_text_anywhere_in_a_record_stays_text_or_is_refused(tmp_path, path, text):
    try:
        report = InfluenceReport(replaced(small_record(), path, text))
    except ValueError as error:
        assert re.search("must be", str(error))  # noqa: PT017 - no record may raise anything else
        return
    if not text and path[-1] == "text":
        return  # a token without text is shown by its name, in another element
    check_page(influence_html(report.record))
    check_page(Reader(report._repr_html_()).elements[0][1]["srcdoc"])
    check_files(report, tmp_path)


@QUICK
@given(text=TEXTS, index=st.integers(0, 1))
def test_names_of_groups_stay_text(tmp_path, text, index):
    if text in small_record()["groups"]:
        return
    report = InfluenceReport(renamed(small_record(), index, text))
    page = influence_html(report.record)
    check_page(page)
    assert f"{visible(text)}, guided − plain" in [shown for _, shown in Reader(page).texts]
    check_files(report, tmp_path)


@pytest.mark.parametrize("at", range(0, len(HOSTILE), 4))
def test_pictures_show_texts_as_they_are(tmp_path, at):
    texts = itertools.islice(itertools.cycle(HOSTILE), at, None)
    record = renamed(renamed(small_record(), 0, next(texts)), 1, next(texts))
    record["model"], record["settings"]["form"] = next(texts), next(texts)
    for row in (record["prompt"]["tokens"], *(run["tokens"] for run in record["runs"])):
        for one in row:
            one["text"] = next(texts)
    path = InfluenceReport(record).save(tmp_path / "a.png")
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_of_another_name_is_refused():
    record = replaced(small_record(), ("runs", 1, "name"), 'x"><script>alert(1)</script>')
    with pytest.raises(ValueError, match="runs of the record must be 'plain', or 'plain' and"):
        InfluenceReport(record)


# The studies: tables without a figure, so that a page takes milliseconds.


def small_tables():
    found = tables("french_by_length")
    found["tables"][0]["rows"] = found["tables"][0]["rows"][:2]
    found["tables"].append({
        "name": "zoo", "title": "Animals", "note": "seen", "columns": ["animal", "legs"],
        "rows": [["cat", 4], ["snake", None]],
    })  # fmt: skip
    found["settings"] = {"seed": 1, "inner": {"a": ["b"]}}
    found["failures"] = [dict.fromkeys(("study", "row", "condition", "error"), "x")]
    found["samples"] = [{"study": "french", "delta": 1.0, "prompt": "p", "answer": "a\nb"}]
    return found


def shapes(page):
    """Return the elements of a page, each with its attributes but for what may be counted up."""
    return {(tag, *sorted(found)) for tag, found in Reader(page).elements}


OTHER = {"samples": [{"study": "another", "delta": None, "prompt": "p", "answer": "a"}]}
KNOWN = shapes(study_html(small_tables(), SECTIONS)) | shapes(
    study_html(small_tables() | OTHER, SECTIONS)
)
STUDY_PATHS = places(small_tables())


@pytest.mark.parametrize("path", STUDY_PATHS, ids=lambda path: ".".join(map(str, path)))
@QUICK
@given(text=TEXTS)
def test_a_text_anywhere_in_tables_stays_text_or_is_refused(path, text):
    try:
        page = study_html(replaced(small_tables(), path, text), SECTIONS)
    except ValueError as error:
        assert re.search("must be|must have", str(error))  # noqa: PT017 - and nothing else
        return
    assert shapes(page) <= KNOWN
    read = Reader(page)
    assert all(re.fullmatch("[a-z_]+(-[a-z0-9_]+)?", name) for name in read.ids)
    for _, found in read.elements:
        assert re.fullmatch("#[a-z_]+|", found.get("href", ""))
        assert re.fullmatch("wide|hint|number|finding|claims|sample|text|", found.get("class", ""))
    page.encode("utf-8")


@QUICK
@given(text=TEXTS)
def test_settings_of_any_name_stay_text(text):
    page = study_html(small_tables() | {"settings": {text: {text: [text]}}}, SECTIONS)
    assert shapes(page) <= KNOWN
    assert visible(text) in " ".join(shown for _, shown in Reader(page).texts)


# The one place.


@given(text=TEXTS, other=TEXTS)
@QUICK
def test_whatever_is_filled_in_is_text(text, other):
    page = document(text, other, markup(""), markup('<p title="{}">{}</p>', text, other))
    read = Reader(page)
    tags = ["html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "p"]
    assert [tag for tag, _ in read.elements] == tags
    assert read.elements[-1][1] == {"title": visible(text)}
    assert "".join(shown for tag, shown in read.texts if tag == "p") == visible(other)
