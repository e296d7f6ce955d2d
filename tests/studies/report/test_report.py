"""The report of the paper's studies: findings, figures, the page, the terminal."""

import base64
import copy
import io
import re

import matplotlib.image
import numpy as np
import pytest
from pages import HOSTILE, Reader
from rich.console import Console
from study_tables import hostile, tables

from guide_ext.influence.record import visible
from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report import page as study_page
from guide_ext.studies.report import panels as study_panels
from guide_ext.studies.report.cells import columns_of, value_text
from guide_ext.studies.report.figures import described, drawings, picture
from guide_ext.studies.report.findings import findings
from guide_ext.studies.report.page import study_html, write_report
from guide_ext.studies.report.panels import DARK, LIGHT
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.terminal import study_table

COLUMNS = {
    table.name: [column.name for column in table.columns]
    for section in SECTIONS
    for table in section.tables
}


def all_drawings(record):
    """Return every figure of a run with its section."""
    return [(section, one) for section in record.sections for one in drawings(record, section)]


@pytest.fixture(scope="module")
def page():
    return study_html(tables(), SECTIONS)


@pytest.fixture(scope="module")
def shown(page):
    """The pictures of the page by the names of their figures, each for light and dark."""
    png = 'data:image/png;base64,([^"]+)'
    found = re.findall(f'srcset="{png}">\\s*<img src="{png}"', page)
    pictures = [tuple(map(base64.b64decode, (light, dark))) for dark, light in found]
    record = StudyRecord.read(tables(), SECTIONS)
    names = [drawing.name for _, drawing in all_drawings(record)]
    return dict(zip(names, pictures, strict=True))


@pytest.fixture
def drawn_once(monkeypatch):
    """Draw every figure for light pages alone: those for dark ones have the same texts and data."""
    pictures = {}

    def once(record, drawing, _palette=LIGHT):
        if drawing.name not in pictures:
            pictures[drawing.name] = picture(record, drawing)
        return pictures[drawing.name]

    monkeypatch.setattr(study_page, "picture", once)


@pytest.fixture(scope="module")
def read(page):
    return Tables(page)


class Tables(Reader):
    """A page's tables as texts: heads and rows by caption."""

    def __init__(self, text):
        self.found, self.parts = {}, {}
        super().__init__(text)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        super().handle_endtag(tag)
        if tag == "table":
            self.found.setdefault(self.caption, []).append(self.rows)

    def handle_data(self, data):
        super().handle_data(data)
        if self.open and self.open[-1] == "caption":
            self.caption = data
        elif self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    def all_text(self):
        found = " ".join(text for tag, text in self.texts if tag != "style")
        return found.replace("\xa0", " ")


# What was found.


def test_sentences_hold_the_numbers_of_the_tables():
    record = StudyRecord.read(tables(), SECTIONS)
    said = {section.name: " ".join(findings(record, section)) for section in SECTIONS}
    assert "In French: 0.29 at Δ = 0, 0.60 at Δ = 2 (+0.31), the highest of 4" in said["french"]
    assert "the 95 % intervals do not overlap" in said["french"]
    assert "upper case 0.28, “Important:” 0.32" in said["french"]
    assert "0.40 for texts of 0–500 tokens, 0.19 for 3,500–4,000" in said["french"]
    assert "0.96 at Δ = 1 (+0.07)" in said["needle"]
    assert "the 95 % intervals overlap" in said["needle"]
    assert "Hardest place at Δ = 0: 0.74 in texts of 3,500–4,000 tokens" in said["needle"]
    assert "clearly below at Δ = 5)" in said["french_quality"]
    assert "0.72 in French, 0.63 in another language" in said["french_quality"]
    assert (
        "JSON: AUC of Influence 0.63 [0.60, 0.66], of the plain 1 / length 0.70"
        in (said["predictor"])
    )
    assert "40 (layer 32) to 140 times (layer 16)" in said["norms"]
    assert "×0.15 (French)" in said["norms"]
    assert "×3.87 (JSON)" in said["norms"]
    assert "0.29 at Δ = 0, 0.60 at Δ = 2, 0.03 at Δ = 9" in said["delta_limit"]
    assert "plain 0.29, GUIDE 0.60 (Δ = 2), fine-tuning 0.71 after 1,572,864" in said["sft"]
    assert "first ahead of GUIDE after 1,179,648 tokens" in said["sft"]


def test_a_strength_that_harms_is_said_to():
    found = tables("french")
    table = found["tables"][0]
    at = table["columns"].index("in_french")
    for row in table["rows"]:
        row[at : at + 3] = [0.5 if row[2] == 0 else 0.2, None, None]
    said = findings(StudyRecord.read(found, SECTIONS), SECTIONS[0])
    assert (
        said[0] == "In French: 0.50 at Δ = 0, 0.20 at Δ = 0.5 (−0.30), the highest of 4 strengths."
    )


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_of_nulls_is_shown_and_said_nothing_of(name):
    found = tables(name)
    table = found["tables"][0]
    texts = {"condition", "style", "language", "task", "predictor", "method", "prompt", "fact",
             "marked_sentence", "instruction", "family", "place", "asked", "rule", "by_method",
             "strength"}  # fmt: skip
    table["rows"] = [
        [
            cell if column in texts else None
            for column, cell in zip(table["columns"], row, strict=True)
        ]
        for row in table["rows"][:3]
    ]
    record = StudyRecord.read(found, SECTIONS)
    (section,) = record.shown_sections
    assert not re.search(r"\d\.\d", " ".join(findings(record, section)))
    rows = next(iter(Tables(study_html(found, SECTIONS)).found[table["title"]]))
    assert len(rows) == 4
    assert all(cell == "–" for row in rows[1:] for cell in row if "–" in cell)
    study_table(found, SECTIONS)


# Figures.


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


@pytest.mark.parametrize("name", [one.name for section in SECTIONS for one in section.drawings])
def test_figures_are_pictures_and_the_same_every_time(shown, name):
    record = StudyRecord.read(tables(), SECTIONS)
    section, drawing = next(one for one in all_drawings(record) if one[1].name == name)
    assert picture(record, drawing) == shown[name][0]
    light, dark = map(pixels, shown[name])
    assert light.shape == dark.shape
    assert light.shape[1] == 1440
    assert light.std() > 0.03
    assert np.median(light) > 0.9
    assert np.median(dark) < 0.45
    assert described(record, section, drawing).startswith(drawing.alt)


def test_figures_follow_the_tables():
    first = tables("french")
    second = copy.deepcopy(first)
    at = second["tables"][0]["columns"].index("in_french_low")
    second["tables"][0]["rows"][1][at] -= 0.1
    records = [StudyRecord.read(one, SECTIONS) for one in (first, second)]
    (drawing,) = drawings(records[0], SECTIONS[0])
    assert picture(records[0], drawing) != picture(records[1], drawing)


def test_only_what_was_measured_is_drawn():
    record = StudyRecord.read(tables("french_by_length", "norms"), SECTIONS)
    assert [one.name for _, one in all_drawings(record)] == ["norms"]
    every = all_drawings(StudyRecord.read(tables(), SECTIONS))
    details = ("_by_length", "_by_prompt", "_by_fact", "_by_order", "_by_variant", "_gains",
               "_differences", "chosen_delta", "methods", "methods_strengths")  # fmt: skip
    assert {one.name for _, one in every} == {
        name for name in COLUMNS if not name.endswith(details)
    } | {"norms_by_length"}


def test_colours_differ_in_lightness_or_mark():
    for palette in (LIGHT, DARK):
        assert len(set(palette.accents)) == len(palette.accents)
        assert len(set(palette.strengths(6))) == 6


@pytest.mark.parametrize("label", ["_x", "$a$", "<b>"])
def test_legends_show_every_label_as_it_is(label):
    figure, panels = study_panels.canvas(
        StudyRecord.read(tables("norms"), SECTIONS), "", "x", LIGHT
    )
    value = study_panels.Estimate(0.5)
    study_panels.draw_series(panels[0], [study_panels.Series(label, ((0.0, value),), "#000000")])
    study_panels.draw_level(panels[0], f"{label}!", value, "#000000", "-")
    study_panels.legend(figure, panels, LIGHT, first=[f"{label}!"])
    (legend,) = figure.legends
    shown = legend.get_texts()
    assert [one.get_text().strip() for one in shown] == [f"{label}!", label]
    assert not any(one.get_parse_math() for one in shown)


# The page.


def test_every_table_is_shown_with_its_numbers(read):
    record = StudyRecord.read(tables(), SECTIONS)
    for table in record.tables.values():
        shown = read.found[table.title]
        columns = columns_of(table)
        expected = [[value_text(column, row) for column in columns] for row in table.rows]
        assert [[column.head for column in columns], *expected] in shown
    french = record.tables["french"]
    assert [column.head for column in columns_of(french)] == [
        "condition", "answers", "documents", "in French", "95 % interval", "well-formed",
    ]  # fmt: skip
    found = read.found["Summaries in French"][0]
    assert found[1] == ["Δ = 0", "1,600", "160", "0.294", "0.229 to 0.369", "0.980"]
    grid = read.found["By length and depth"][0]
    assert grid[0] == ["Δ", "tokens of the text", "depth", "answers", "found"]
    assert grid[5][:3] == ["0", "0–500", "40–50 %"]
    assert [row[-1] for row in grid].count("–") == 1


def test_tables_have_captions_and_scopes(read):
    boxes = [found for tag, found in read.elements if found.get("class") == "wide"]
    kinds = [tag for tag, _ in read.elements]
    assert kinds.count("table") == kinds.count("caption") == len(boxes)
    assert all(found["tabindex"] == "0" and found["role"] == "region" for found in boxes)
    assert {found["aria-labelledby"] for found in boxes} <= set(read.ids)
    scopes = [found.get("scope") for tag, found in read.elements if tag == "th"]
    assert set(scopes) == {"col", "row"}
    assert len(read.ids) == len(set(read.ids))
    anchors = {found["href"].removeprefix("#") for tag, found in read.elements if tag == "a"}
    assert anchors <= set(read.ids)


def test_every_finding_stands_in_its_section(read):
    record = StudyRecord.read(tables(), SECTIONS)
    said = read.all_text()
    for section in SECTIONS:
        assert " ".join(findings(record, section)) in said


def test_figures_are_inside_and_described(read):
    images = [found for tag, found in read.elements if tag == "img"]
    assert len(images) == len(all_drawings(StudyRecord.read(tables(), SECTIONS)))
    for image in images:
        assert image["src"].startswith("data:image/png;base64,")
        assert len(image["alt"]) > 60
        assert re.search(r"\d\.\d", image["alt"])


def test_nothing_is_loaded_and_nothing_runs(page, read):
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    for tag, attributes in read.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = next(found["content"] for _, found in read.elements if found.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_the_papers_numbers_stand_beside_the_same_model(read):
    beside = [row for shown in read.found["Beside the paper"] for row in shown]
    french = {row[0]: row[1:4] for row in beside if row[0].startswith("in French")}
    assert french["in French, Δ = 2"] == ["0.604 (0.527 to 0.676)", "0.604", "0.601"]
    assert french["in French, Δ = 0.5"][1:] == ["–", "0.448"]
    assert ["win rate, Δ = 5", "0.360 (0.314 to 0.408)", "0.385", "0.350"] in [
        row[:4] for row in beside
    ]
    assert "until 1M training tokens" in read.all_text()
    numbers = [one for section in SECTIONS for one in section.printed]
    assert len(numbers) == len({(n.model, n.table, n.row, n.column, n.source) for n in numbers})


def test_printed_numbers_have_a_column_and_a_row_of_the_contract():
    for one in (one for section in SECTIONS for one in section.printed):
        assert {column for column, _ in one.row} | {one.column} <= set(COLUMNS[one.table])
        assert -1 <= one.value <= 1
        assert one.place


@pytest.mark.parametrize("model", ["google/gemma-2-2b-it", "Qwen/Qwen3-4B", "embedded"])
def test_other_models_have_other_numbers_beside_them_or_none(model):
    read = Tables(
        study_html(tables("french", embedded=model == "embedded") | {"model": model}, SECTIONS)
    )
    beside = read.found.get("Beside the paper", [[]])[0]
    if "gemma" in model:
        assert beside[1][:4] == ["in French, Δ = 0", "0.294 (0.229 to 0.369)", "0.433", "0.434"]
        assert ["in French, upper case", "0.284 (0.220 to 0.358)", "–", "0.408"] in [
            row[:4] for row in beside
        ]
    else:
        assert beside == []
    constructed = "The world of these documents is constructed" in read.all_text()
    assert constructed == (model == "embedded")


@pytest.mark.long
def test_missing_studies_leave_nothing_behind():
    for name in COLUMNS:
        read = Tables(
            study_html(tables(name) | {"failures": [], "samples": [], "settings": {}}, SECTIONS)
        )
        (section,) = [one for one in SECTIONS if name in [table.name for table in one.tables]]
        heads = [found for tag, found in read.elements if tag == "h2"]
        assert [head["id"] for head in heads] == [section.name]
    found = tables("french")
    found["tables"][0]["rows"] = []
    read = Tables(study_html(found | {"failures": [], "samples": [], "settings": {}}, SECTIONS))
    assert [tag for tag, _ in read.elements].count("section") == 0


def test_unknown_tables_are_shown_as_they_are():
    found = tables("norms")
    found["tables"].append({
        "name": "zoo", "title": "Animals",
        "columns": ["animal", "legs", "seen_low", "seen_high", "x"],
        "rows": [["cat", 4, 0.00012, 2.5, None], ["snake", 0, None, None, True]],
    })  # fmt: skip
    read = Tables(study_html(found, SECTIONS))
    assert read.found["Animals"] == [[
        ["animal", "legs", "95 % interval", "x"],
        ["cat", "4", "0.00012 to 2.5", "–"],
        ["snake", "0", "–", "True"],
    ]]  # fmt: skip


@pytest.mark.usefixtures("drawn_once")
def test_hostile_texts_are_inert():
    found = hostile()
    page = study_html(found, SECTIONS)
    read = Reader(page)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "p", "b", "a", "main",
        "nav", "ol", "li", "span", "section", "h2", "small", "div", "picture", "source", "img",
        "ul", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "h3",
    }  # fmt: skip
    assert {tag for tag, _ in read.elements} <= allowed
    assert not any(name.startswith("on") for _, found in read.elements for name in found)
    page.encode("utf-8")
    assert "\u202e" not in page
    shown = " ".join(text for _, text in read.texts)
    for text in HOSTILE:
        assert visible(text) in shown


def test_samples_keep_their_lines(read):
    assert "Paris est la capitale\net la plus grande ville." in [text for _, text in read.texts]


def test_failures_are_listed(read):
    assert read.found["Cases without an answer"] == [
        [["study", "row", "condition", "error"], ["json", "blbooks-17", "Δ = 5", "20 s are over"]]
    ]
    assert "1 case failed" in read.all_text()
    none = Tables(study_html(tables("norms") | {"failures": []}, SECTIONS))
    assert "no case failed" in none.all_text()


# Files and the terminal.


def test_the_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "report"
    paths = write_report(tables("norms", "sft"), folder, SECTIONS)
    assert [path.relative_to(folder).as_posix() for path in paths] == [
        "report.html", "figures/sft.png", "figures/norms.png",
    ]  # fmt: skip
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == sorted(paths)
    before = {path: path.read_bytes() for path in paths}
    write_report(tables("norms", "sft"), folder, SECTIONS)
    assert {path: path.read_bytes() for path in paths} == before

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_report(tables("norms"), folder, SECTIONS)
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == sorted(paths)
    assert {path: path.read_bytes() for path in paths} == before


def test_the_terminal_says_what_was_found():
    console = Console(width=160, file=io.StringIO())
    console.print(study_table(tables(embedded=True), SECTIONS))
    shown = " ".join(console.file.getvalue().replace("│", " ").split())
    for section in SECTIONS:
        assert section.title in shown
    assert "0.60 at Δ = 2 (+0.31)" in shown
    assert "1 case failed, the first (json, blbooks-17, Δ = 5): 20 s are over" in shown
    assert "constructed" in shown
    found = hostile()
    found["model"], found["failures"][0]["error"] = "[b][/zz]", "[/zz]"
    console.print(study_table(found, SECTIONS))
    assert "[b][/zz]" in console.file.getvalue()
