# SPDX-License-Identifier: MIT
"""Tables of made-up answers whose numbers can be told by hand, and the paper's protocol."""

import dataclasses
import itertools

import numpy as np
import pytest

from guide_ext.embedded.world import Style
from guide_ext.influence.forms import FORMS
from guide_ext.studies.data import prompts
from guide_ext.studies.data.documents import Document
from guide_ext.studies.plan import RunSettings, all_cells, batches_of, study_cells
from guide_ext.studies.run.engine import END_TOKENS, marked_prompt
from guide_ext.studies.study import ANSWER, MEASURE, STUDIES, Cell, Condition, Decoding, Row
from guide_ext.studies.tables import measured, metrics, statistics, tables

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


@pytest.fixture(autouse=True)
def languages(monkeypatch):
    """Let an answer say itself which language it is in: ``"fr 0.5"``."""
    monkeypatch.setattr(metrics, "language", lambda text: text[:2])


def rows_of(count, **changes):
    return [
        dataclasses.replace(
            ROW, **{"id": f"a:{n}", "after": f" {n}.", "tokens": 10 * n + 10, **changes}
        )
        for n in range(count)
    ]


def as_dicts(table):
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


class TestQuality:
    """Win rates and densities, of scores that the answers say themselves."""

    @pytest.fixture
    def results(self, monkeypatch):
        monkeypatch.setattr(
            metrics,
            "bert_scores",
            lambda answers, *_, **__: [float(text.split()[1]) for text in answers],
        )

        def make(texts):
            settings = RunSettings(
                studies=("french",), data="x.jsonl", samples=2, deltas=(1.0,),
                reference_column="r", bertscore="x",
            )  # fmt: skip
            rows = rows_of(len(texts) // 2)
            cells = all_cells(settings, rows)["french"]
            records = {}
            for cell in cells:
                found = texts.get((rows.index(cell.row), cell.sample))
                if found and cell.condition.style is Style.PLAIN:
                    text = found[cell.condition.delta > 0]
                    records[cell.key] = {"text": text, "new_tokens": 2}
            return tables.Results(settings, {"french": cells}, records)

        return make

    def test_the_answer_of_the_same_sample_is_the_rival(self, results):
        found = results({
            (0, 0): ("fr 0.5", "fr 0.55"), (0, 1): ("fr 0.9", "fr 0.95"),
            (1, 0): ("fr 0.5", "fr 0.55"), (1, 1): ("fr 0.9", "fr 0.85"),
        })  # fmt: skip
        quality, _ = measured.french_quality(found)
        assert [row[:3] for row in quality["rows"]] == [[1.0, 4, 0.75]]

    def test_ties_are_no_wins_and_both_must_be_french(self, results):
        found = results({
            (0, 0): ("fr 0.5", "fr 0.5"), (0, 1): ("fr 0.5", "fr 0.6"),
            (1, 0): ("en 0.1", "fr 0.9"), (1, 1): ("fr 0.1", "en 0.9"),
        })  # fmt: skip
        quality, densities = measured.french_quality(found)
        assert [row[:3] for row in quality["rows"]] == [[1.0, 2, 0.5]]
        shares = as_dicts(densities)
        french = [row for row in shares if row["language"] == "french"]
        assert french[0]["share"] == pytest.approx(1 / 6, abs=1e-6)
        assert french[-1]["share"] == pytest.approx(1 / 6, abs=1e-6)
        others = [row for row in shares if row["language"] == "other"]
        assert [others[0]["share"], others[-1]["share"]] == [0.5, 0.5]


def test_the_last_level_foretells():
    settings = RunSettings(studies=("predictor",), data="x.jsonl", samples=1)
    rows = rows_of(6, task="french")
    cells = study_cells(STUDIES["predictor"], settings, rows)
    records = {}
    for cell in cells:
        number = rows.index(cell.row)
        if cell.kind == MEASURE:
            levels = {form: [-float(number), 0.0, float(number)] for form in FORMS}
            records[cell.key] = {"levels": levels}
        else:
            records[cell.key] = {"text": "fr" if number > 2 else "en", "new_tokens": 1}
    results = tables.Results(settings, {"predictor": cells}, records)
    made = {row["predictor"]: row for row in as_dicts(measured.predictor(results)[0])}
    assert made["influence"]["auc"] == made["raw"]["auc"] == 1.0
    assert made["1 / length"]["auc"] == 0.0
    assert made["influence"]["success"] == 0.5
    assert made["influence"]["correlation"] > 0.8 > made["1 / length"]["correlation"]


def test_intervals_are_low_then_high():
    rng = np.random.default_rng(5)
    success = rng.random(60) < 0.5
    values = success + rng.normal(size=60)
    cases = statistics.Cases(np.arange(60), values, success, np.zeros(60, dtype=int))
    for statistic in (statistics.area, statistics.area_within, statistics.correlation):
        value, low, high = statistics.with_interval(cases, statistic)
        assert low < value < high
        assert 0.1 < high - low < 0.6


def test_intervals_of_tables_are_over_documents():
    """Three samples about each document do not make three times the evidence."""
    settings = RunSettings(studies=("french",), data="x.jsonl", samples=3, deltas=())
    rows = rows_of(12)
    cells = study_cells(STUDIES["french"], settings, rows)

    def width(samples):
        records = {
            cell.key: {"text": "fr" if rows.index(cell.row) % 2 else "en", "new_tokens": 1}
            for cell in cells
            if cell.sample < samples
        }
        made = tables.french(tables.Results(settings, {"french": cells}, records))[0]
        row = as_dicts(made)[0]
        assert (row["answers"], row["documents"]) == (12 * samples, 12)
        return row["in_french_high"] - row["in_french_low"]

    assert width(3) == width(1)


class TestProtocol:
    def test_tokens_at_the_end_of_the_prompt(self):
        assert END_TOKENS == {"french": 10, "needle": 5, "json": 5}  # the authors'

    @pytest.mark.parametrize(
        ("style", "marked"),
        [
            (Style.UPPER, "SUMMARIZE IN FRENCH"),
            (Style.IMPORTANT, "Important: Summarize in French"),
        ],
    )
    def test_baselines_are_written_so(self, style, marked):
        found = marked_prompt(Cell(ANSWER, ROW, Condition(style)))
        assert found.text == f"{marked} The cat."
        assert [(span.start, span.end, span.delta) for span in found.spans] == [
            (0, len(marked), 0.0)
        ]

    def test_the_seed_of_a_run_changes_its_luck(self):
        cell = Cell(ANSWER, ROW, Condition(), 0, Decoding(40, 1.0), 42)
        assert dataclasses.replace(cell, seed=43).random_seed != cell.random_seed

    def test_batches_hold_neighbours_in_length_of_one_adapter(self):
        rows = rows_of(9)[::-1]
        settings = RunSettings(studies=("sft",), data="x.jsonl", reference_column="r")
        cells = study_cells(STUDIES["sft"], settings, rows, [0, 1000])
        batches = batches_of(cells, 4)
        assert sum(map(len, batches)) == 9 * 4
        for batch in batches:
            assert len({cell.adapter for cell in batch}) == 1
        for before, after in itertools.pairwise(batches):
            if before[0].adapter == after[0].adapter:
                assert before[-1].row.tokens <= after[0].row.tokens


class Words:
    """A tokenizer of words."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


class TestDrawing:
    texts = tuple(Document(f"d:{n}", " ".join([f"w{n}"] * (n + 1))) for n in range(200))

    def drawn(self, seed, per_length=3, lengths=((0, 50), (50, 100), (100, 300))):
        found, _ = prompts.document_rows(
            "french", self.texts, per_length, seed, lengths=lengths, tokenizer=Words()
        )
        return found

    def test_a_range_holds_its_upper_end(self):
        found = {row.tokens: row.length for row in self.drawn(1, per_length=200)}
        assert len(found) == 200
        for tokens in (1, 50, 51, 100, 101, 200):
            low, high = found[tokens]
            assert low < tokens <= high

    def test_which_texts_is_a_matter_of_the_seed(self):
        ids = [[row.id for row in self.drawn(seed)] for seed in (1, 1, 2)]
        assert ids[0] == ids[1]
        assert not set(ids[0]) <= set(ids[2])
        assert set(ids[0]) != {f"d:{n}" for n in (0, 1, 2, 50, 51, 52, 100, 101, 102)}

    def test_a_long_text_is_cut_into_a_range_that_lacks_texts(self):
        """Where one range alone lacks texts, every long text gets a length of it."""
        texts = [Document(f"d:{n}", f"w{n:02} " * 5000) for n in range(24)]
        found, _ = prompts.document_rows(
            "french", texts, 20, 1, lengths=[(100, 200)], tokenizer=Words()
        )
        assert len(found) == 20
        assert all(100 < row.tokens <= 200 for row in found)
        assert len({row.tokens for row in found}) > 10

    def test_needles_are_as_deep_as_they_say(self):
        text = " ".join(f"This is sentence {n}." for n in range(100))
        found, _ = prompts.document_rows(
            "needle", [Document("d", text)], 1, 1, lengths=[(0, 500)], tokenizer=Words()
        )
        assert len(found) == prompts.DEPTHS
        for row in found:
            before = row.before.partition("</question>\n")[2].rstrip()
            assert text.startswith(before)
            assert row.depth - 0.02 <= len(before) / len(text) <= row.depth
            after = row.after.partition("\n<question>")[0].strip()
            assert f"{before} {after}".strip() == text
