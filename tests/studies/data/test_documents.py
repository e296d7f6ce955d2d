# SPDX-License-Identifier: MIT
"""Documents of studies: each counts once, under its own name, at its own depth."""

import json

import pytest

from guide_ext import integration
from guide_ext.studies.data import documents
from guide_ext.studies.data.rows import document_rows
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import TASKS
from guide_ext.studies.run import adapters, runner


def write_texts(path, texts):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return str(path)


class Answers:
    """An engine that answers with the name of the row."""

    def run(self, cells):
        return [{"text": cell.row.id, "new_tokens": 1} for cell in cells]


def test_a_text_that_comes_twice_is_one(tmp_path):
    data = write_texts(tmp_path / "texts.jsonl", ["The cat.", "The dog.", "The cat."])
    settings = RunSettings(studies=("french",), data=data, samples=1, deltas=())
    tables = runner.run_studies(settings, tmp_path / "run", engine=Answers())
    assert tables["tables"][0]["rows"][0][3:5] == [2, 2]
    assert tables["failures"] == [
        {"study": "", "row": "texts.jsonl:3", "condition": "",
         "error": "text must be new, got that of texts.jsonl:1 again"}
    ]  # fmt: skip


def test_a_needle_counts_at_its_depth_where_there_is_no_sentence(tmp_path):
    """A text of one sentence has its needle at its start; it is asked by two prompts."""
    data = write_texts(tmp_path / "texts.jsonl", ["one sentence without an end"])
    settings = RunSettings(studies=("needle",), data=data, deltas=(), baselines=False)
    tables = runner.run_studies(settings, tmp_path / "run", engine=Answers())
    assert tables["progress"]["needle"]["total"] == 2
    (grid,) = (table["rows"] for table in tables["tables"] if table["name"] == "needle_grid")
    assert [(row[3], row[4], row[5]) for row in grid] == [(0, 0.1, 2)]


def test_fine_tuning_sees_no_text_that_is_evaluated(tmp_path):
    """Not under another number either; and the same texts when other studies are added."""
    texts = [f"The cat sees {n} dogs." for n in range(8)]
    lines = [{"text": text, "fr": f"Le chat {n}."} for n, text in enumerate(texts)]
    path = tmp_path / "texts@home.jsonl"
    path.write_text("\n".join(map(json.dumps, [*lines, *lines])))
    settings = RunSettings(studies=("sft",), data=str(path), reference_column="fr")
    _, tokenizer = integration.load_embedded()
    given = [documents.Document(f"{path.name}:{n}", text) for n, text in enumerate(texts, 1)]

    def rows(task):
        options = {"lengths": [(0, 500)], "tokenizer": tokenizer}
        return document_rows(TASKS[task], given, 3, 42, **options)[0]

    french = rows("french")
    found = adapters._examples(settings, french, tokenizer, None)
    trained = {example.prompt[0]["content"].partition("\n\n")[2] for example in found}
    assert len(found) == len(trained) == 5
    assert not trained & {row.after.strip() for row in french}
    assert adapters._examples(settings, french + rows("json"), tokenizer, None) == found


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
