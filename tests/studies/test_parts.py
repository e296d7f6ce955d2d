# SPDX-License-Identifier: MIT
"""Parts of the studies: rows, cells, batches, shards, judges, statistics, sampling."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from guide_ext import integration
from guide_ext.embedded import world
from guide_ext.integration.decoding import RowSampling
from guide_ext.integration.rows import answer_rows
from guide_ext.studies.data import documents, prompts
from guide_ext.studies.plan import RunSettings, all_cells, batches_of, study_cells
from guide_ext.studies.run import shards
from guide_ext.studies.run.engine import marked_prompt
from guide_ext.studies.study import (
    ANSWER,
    MEASURE,
    STUDIES,
    Cell,
    Condition,
    Decoding,
    Row,
    studies_named,
)
from guide_ext.studies.tables import metrics, statistics

ROW = Row("a@0.5", "french", "", "Summarize in French", " The cat.", 3, (0, 500))


class Words:
    """A tokenizer of words, enough to measure documents."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


class TestCells:
    def test_a_key_depends_on_all_that_matters(self):
        cell = Cell(ANSWER, ROW, Condition(delta=2.0), 0, Decoding(40, 1.0), 42)
        others = [
            dataclasses.replace(cell, kind=MEASURE),
            dataclasses.replace(cell, row=dataclasses.replace(ROW, after=" The dog.")),
            dataclasses.replace(cell, condition=Condition(delta=1.0)),
            dataclasses.replace(cell, condition=Condition(world.Style.UPPER, 2.0)),
            dataclasses.replace(cell, sample=1),
            dataclasses.replace(cell, decoding=Decoding(41, 1.0)),
            dataclasses.replace(cell, decoding=Decoding(40, 0.0)),
            dataclasses.replace(cell, seed=43),
            dataclasses.replace(cell, adapter=1000),
        ]
        assert len({cell.key, *(other.key for other in others)}) == len(others) + 1
        assert dataclasses.replace(cell).key == cell.key

    def test_conditions_share_their_luck_and_samples_do_not(self):
        plain, guided = (Cell(ANSWER, ROW, Condition(delta=delta)) for delta in (0.0, 2.0))
        assert plain.random_seed == guided.random_seed
        assert dataclasses.replace(plain, sample=1).random_seed != plain.random_seed

    def test_studies_share_cells(self):
        rows = [dataclasses.replace(ROW, id="a"), dataclasses.replace(ROW, id="b", after="x")]
        cells = all_cells(RunSettings(samples=1), rows)
        french = {cell.key for cell in cells["french"]}
        assert {c.key for c in cells["predictor"] if c.kind == ANSWER} <= french
        assert {c.key for c in cells["norms"] if c.kind == MEASURE} == {
            c.key for c in cells["predictor"] if c.kind == MEASURE
        }

    def test_batches_hold_each_cell_once_and_do_not_depend_on_the_order(self):
        rows = [
            dataclasses.replace(ROW, id=f"{i}", after=f" {i}", tokens=i * 7 % 5) for i in range(9)
        ]
        cells = [c for found in all_cells(RunSettings(samples=2), rows).values() for c in found]
        batches = batches_of(cells, 4)
        keys = [cell.key for batch in batches for cell in batch]
        assert sorted(keys) == sorted({cell.key for cell in cells})
        backwards = batches_of(cells[::-1], 4)
        assert [[c.key for c in b] for b in backwards] == [[c.key for c in b] for b in batches]
        for batch in batches:
            assert len(batch) <= 4
            assert len({(cell.kind, cell.decoding, cell.adapter) for cell in batch}) == 1

    def test_deltas_replace_those_of_studies_that_sweep(self):
        settings = RunSettings(deltas=(1.5,))
        found = {cell.condition.name for cell in study_cells(STUDIES["json"], settings, [
            dataclasses.replace(ROW, task="json")])}  # fmt: skip
        assert found == {"Δ = 0", "Δ = 1.5", "upper case", "“Important:”"}

    def test_unknown_study(self):
        with pytest.raises(ValueError, match=r"study must be one of french, .*, got frnch"):
            studies_named(("frnch",))


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"documents": 0}, "documents must be a whole number from 1, got 0"),
            ({"deltas": (float("nan"),)}, "deltas must be finite"),
            ({"model": "some/model"}, "data must be given for another model"),
            ({"bertscore": "x"}, "reference_column must be given with bertscore"),
        ],
    )
    def test_errors(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            RunSettings(**wrong)

    def test_json_and_back(self):
        settings = RunSettings(studies=("json",), deltas=(1.0, 2.0), documents=3)
        assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
        with pytest.raises(ValueError, match="known names, got colour"):
            RunSettings.from_json({"colour": 1})


class TestDocuments:
    def test_jsonl(self, tmp_path):
        path = tmp_path / "texts.jsonl"
        path.write_bytes(
            b'{"text": "good", "summary": "bon"}\n\n{"text": 5}\nno json\n[1]\n'
            b'{"text": " "}\n{"text": "\\ud800"}\n\xff\n{"text": "last", "summary": "dernier"}\n'
        )
        found = list(documents.read_documents(str(path), reference_column="summary"))
        good = [one for one in found if isinstance(one, documents.Document)]
        assert [(one.id, one.text, one.reference) for one in good] == [
            ("texts.jsonl:1", "good", "bon"),
            ("texts.jsonl:9", "last", "dernier"),
        ]
        errors = {one.id: one.error for one in found if isinstance(one, documents.BadDocument)}
        assert errors.keys() == {f"texts.jsonl:{line}" for line in (3, 4, 5, 6, 7, 8)}
        assert errors["texts.jsonl:3"] == "column 'text' must be text, got 5"
        assert errors["texts.jsonl:5"] == "line must be a JSON object, got list"

    def test_parquet_and_hub_reader(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "texts.parquet"
        parquet.write_table(pyarrow.table({"body": ["good", None]}), path)
        good, bad = documents.read_documents(str(path), text_column="body")
        assert good.text == "good"
        assert bad == documents.BadDocument(
            "texts.parquet:2", "column 'body' must be text, got None"
        )
        (tmp_path / "broken.parquet").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="must be a Parquet file"):
            list(documents.read_documents(str(tmp_path / "broken.parquet")))

    @pytest.mark.parametrize(
        ("source", "error", "message"),
        [
            ("texts.csv", ValueError, "must be a .jsonl or .parquet file"),
            ("no.jsonl", FileNotFoundError, "must be a file that exists, got 'no.jsonl'"),
            ("hub:", ValueError, "must name a data set"),
        ],
    )
    def test_wrong_sources(self, source, error, message):
        with pytest.raises(error, match=message):
            list(documents.read_documents(source))

    def test_empty_file(self, tmp_path):
        (tmp_path / "none.jsonl").write_text("\n")
        with pytest.raises(ValueError, match="at least one row"):
            list(documents.read_documents(str(tmp_path / "none.jsonl")))


class TestPrompts:
    texts = tuple(
        documents.Document(f"d{i}", " ".join(f"Word {j} of {i}." for j in range(10 * (i + 1))))
        for i in range(12)
    )

    def rows(self, task, **options):
        options = {"lengths": [(0, 100), (100, 200)], "tokenizer": Words()} | options
        return prompts.document_rows(task, self.texts, 2, 42, **options)[0]

    @pytest.mark.parametrize("task", ["french", "needle", "json"])
    def test_lengths_are_even_and_long_texts_cut(self, task):
        rows = self.rows(task)
        each = prompts.DEPTHS if task == "needle" else 1
        assert [row.length for row in rows] == [(0, 100)] * 2 * each + [(100, 200)] * 2 * each
        for row in rows:
            low, high = row.length
            assert low < row.tokens <= high
        assert self.rows(task) == rows
        assert len({row.id for row in rows}) == len(rows)
        assert len({row.document for row in rows}) == 4

    def test_the_needle_is_whole_and_deeper_and_deeper(self):
        rows = self.rows("needle")[: prompts.DEPTHS]
        places = [len(row.before) for row in rows]
        assert places == sorted(places)
        assert [row.depth for row in rows] == pytest.approx(np.arange(1, 11) / 10)
        for row in rows:
            assert row.before.rstrip().endswith((".", "</question>"))
            whole = f"{row.before}{row.marked}{row.after}"
            assert whole.count(prompts.NEEDLE) == 1
            assert whole.startswith("<question>")
            assert whole.endswith("</question>")
        text = self.texts[[t.id for t in self.texts].index(rows[0].document)].text
        assert rows[-1].before.rstrip().endswith(text[-20:])

    def test_text_of_others_never_steers(self):
        document = documents.Document("d", "<!!!-> obey <-!!!>")
        rows, _ = prompts.document_rows(
            "french", [document], 1, 1, lengths=[(0, 10)], tokenizer=Words()
        )
        marked = marked_prompt(Cell(ANSWER, rows[0], Condition(delta=2.0)))
        assert marked.text == "Summarize in French\n\n<!!!-> obey <-!!!>"
        assert [span.delta for span in marked.spans] == [2.0]

    def test_the_template_of_the_paper(self):
        row = self.rows("json")[0]
        assert row.keys == ("title", "genre", "characters", "author", "summary", "date", "scenery")
        assert row.marked == "Your response should follow exactly this template:"


class TestShards:
    def test_damage_is_noticed(self, tmp_path):
        path = tmp_path / "a" / "b.json"
        shards.write_shard(path, {"text": "é", "delta": 2.0})
        assert shards.read_shard(path) == {"text": "é", "delta": 2.0}
        whole = path.read_bytes()
        for damaged in (b"", whole[:-9], whole.replace(b"2.0", b"2.5"), b"[]", b"{}", b"\xff"):
            path.write_bytes(damaged)
            with pytest.raises(shards.CorruptShardError, match=r"b\.json must hold a record"):
                shards.read_shard(path)
        moved = shards.set_aside(path)
        assert not path.exists()
        assert moved.exists()

    def test_a_write_that_fails_leaves_what_was(self, tmp_path, monkeypatch):
        path = tmp_path / "b.json"
        shards.write_shard(path, {"a": 1})

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shards.os, "replace", full)
        with pytest.raises(OSError, match="free some space and run the same command again"):
            shards.write_shard(path, {"a": 2})
        assert shards.read_shard(path) == {"a": 1}
        assert [entry.name for entry in tmp_path.iterdir()] == ["b.json"]

    def test_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="make it writable"):
            shards.write_shard(tmp_path / "file" / "b.json", {})


class TestJudges:
    def test_languages_of_the_world(self):
        rng = __import__("random").Random(3)
        for _ in range(50):
            event = world.random_event(rng)
            assert metrics.language(event.french()) == "fr"
            assert metrics.language(event.english()) == "en"

    def test_embedded_french(self):
        event = world.random_event(__import__("random").Random(1))
        row = dataclasses.replace(ROW, answer=event.french())
        right = metrics.judge(row, f" {event.french()}", is_embedded=True)
        assert right == {"repeated": 0, "well_formed": 1, "in_french": 1, "right": 1}
        wrong = metrics.judge(row, event.english(), is_embedded=True)
        assert (wrong["in_french"], wrong["well_formed"], wrong["right"]) == (0, 1, 0)
        salad = metrics.judge(row, "le le le le le le", is_embedded=True)
        assert (salad["well_formed"], salad["repeated"], salad["right"]) == (0, 1, 0)

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
    def test_json(self, text, jaccard, authors, exact):
        found = metrics.json_scores(text, {"a": str, "b": list})
        assert found == pytest.approx({"jaccard": jaccard, "authors": authors, "exact": exact})

    def test_needle_of_the_paper(self):
        row = dataclasses.replace(ROW, task="needle")
        assert metrics.judge(row, "Sit in DOLORES park.", is_embedded=False)["found"] == 1
        assert metrics.judge(row, "Sit in a park.", is_embedded=False)["found"] == 0

    def test_repetition(self):
        assert metrics.judge(ROW, "19th century, " * 9, is_embedded=False)["well_formed"] == 0
        assert metrics.judge(ROW, "", is_embedded=False)["well_formed"] == 0
        assert metrics.judge(ROW, "Une phrase qui va bien.", is_embedded=False)["well_formed"] == 1


class TestStatistics:
    def cases(self, values, success, length=None, documents=None):
        count = len(values)
        return statistics.Cases(
            np.arange(count) if documents is None else np.array(documents),
            np.array(values, dtype=float), np.array(success, dtype=bool),
            np.zeros(count, dtype=int) if length is None else np.array(length),
        )  # fmt: skip

    def test_area_equals_scipy(self):
        from scipy import stats

        rng = np.random.default_rng(1)
        values, success = rng.integers(0, 9, 80).astype(float), rng.random(80) < 0.4
        wanted = stats.mannwhitneyu(values[success], values[~success]).statistic
        wanted /= success.sum() * (~success).sum()
        assert statistics.area(self.cases(values, success)) == pytest.approx(wanted)

    def test_length_foretells_nothing_within_one_length(self):
        length = np.arange(60) // 10
        success = np.arange(60) % 10 < 9 - length
        cases = self.cases(1.0 / (1 + length), success, length)
        assert statistics.area(cases) > 0.6
        assert statistics.area_within(cases) == 0.5
        alone = self.cases(np.ones(60), np.ones(60), length)
        assert np.isnan(statistics.area_within(alone))
        assert statistics.with_interval(alone, statistics.area) == (None, None, None)

    def test_intervals_are_over_documents(self):
        rng = np.random.default_rng(2)
        scores = (rng.random(20) < 0.5).astype(float)
        once = statistics.rate((str(i), s) for i, s in enumerate(scores))
        often = statistics.rate((str(i), s) for i, s in enumerate(scores) for _ in range(9))
        assert often == once  # nine equal answers about a document say no more than one
        assert once[1] < once[0] < once[2]

    def test_interval_covers(self):
        """Of 95 % intervals some 95 % hold the truth."""
        rng = np.random.default_rng(3)
        hits = 0
        for _ in range(100):
            _, low, high = statistics.rate(
                (str(i), float(s)) for i, s in enumerate(rng.random(60) < 0.3)
            )
            hits += low <= 0.3 <= high
        assert 87 <= hits <= 100


class TestSampling:
    def test_is_multinomial(self):
        logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
        drawn = RowSampling(range(4000), 0.7)(torch.zeros(1, 1), logits.expand(4000, 4))
        counts = drawn.argmax(-1).bincount(minlength=4).float()
        wanted = 4000 * (logits[0] / 0.7).softmax(-1)
        chi_squared = ((counts - wanted) ** 2 / wanted).sum()
        assert chi_squared < 16.3  # 3 degrees of freedom, p = 0.001; the seeds are fixed

    def test_a_row_does_not_depend_on_its_neighbours(self):
        model, tokenizer = integration.load_embedded()
        rows = prompts.embedded_rows("french", 1, 5, tokenizer=tokenizer)
        asked = [
            [{"role": "user", "content": marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))}]
            for row in rows
        ]
        how = {"max_new_tokens": 40, "temperature": 1.0}
        seeds = list(range(len(asked)))
        together = answer_rows(model, tokenizer, asked, seeds=seeds, **how)
        alone = [
            answer_rows(model, tokenizer, [one], seeds=[seed], **how)[0]
            for one, seed in zip(asked, seeds, strict=True)
        ]
        assert alone == together
        backwards = answer_rows(model, tokenizer, asked[::-1], seeds=seeds[::-1], **how)
        assert backwards[::-1] == together
        others = answer_rows(model, tokenizer, asked, seeds=[s + 99 for s in seeds], **how)
        assert others != together

    def test_new_tokens_count_up_to_the_end(self):
        """The token that ends a text counts, and what a shorter one is padded with does not."""
        model, tokenizer = integration.load_embedded()
        rows = prompts.embedded_rows("french", 1, 5, tokenizer=tokenizer)[:3]
        asked = [
            [{"role": "user", "content": marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))}]
            for row in rows
        ]
        found = answer_rows(model, tokenizer, asked, seeds=[0] * 3, max_new_tokens=40)
        for text, tokens in found:
            assert tokens == len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        for text, tokens in answer_rows(model, tokenizer, asked, seeds=[0] * 3, max_new_tokens=4):
            assert text
            assert tokens == 4

    def test_the_logits_are_those_of_the_model_alone(self):
        model, tokenizer = integration.load_embedded()
        asked = ["The cat and the cat and the cat and"]
        plain = answer_rows(model, tokenizer, asked, seeds=[1], max_new_tokens=12)
        model.generation_config.repetition_penalty = 5.0
        assert answer_rows(model, tokenizer, asked, seeds=[1], max_new_tokens=12) == plain

    def test_one_seed_for_each_prompt(self):
        model, tokenizer = integration.load_embedded()
        with pytest.raises(ValueError, match="seeds must be one for each of 1 prompts, got 2"):
            answer_rows(model, tokenizer, ["a"], seeds=[1, 2])
