# SPDX-License-Identifier: MIT
"""Documents of studies: each counts once, under its own name, at its own depth."""

import json

from guide_ext import integration
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.prompts import document_rows
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run import adapters, runner
from guide_ext.studies.study import Row
from guide_ext.studies.tables import metrics


def write_texts(path, texts):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return str(path)


class Answers:
    """An engine that answers with the name of the row."""

    def run(self, cells):
        return [{"text": cell.row.id, "new_tokens": 1} for cell in cells]


def test_an_at_in_the_name_of_the_data():
    rows = [
        Row(f"texts@home.jsonl:{line}{depth}", "needle", "", "", "", 3, (0, 500))
        for line in (1, 12) for depth in ("", "@0.1", "@1")
    ]  # fmt: skip
    assert [row.document for row in rows] == ["texts@home.jsonl:1"] * 3 + [
        "texts@home.jsonl:12"
    ] * 3


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
    """Ten depths of a text of one sentence are two places: two cells, each depth counts."""
    data = write_texts(tmp_path / "texts.jsonl", ["one sentence without an end"])
    settings = RunSettings(studies=("needle",), data=data, deltas=())
    tables = runner.run_studies(settings, tmp_path / "run", engine=Answers())
    assert tables["progress"]["needle"]["total"] == 2
    grid = tables["tables"][1]["rows"]
    assert [(row[3], row[4], row[5]) for row in grid] == [
        (depth / 10, (depth + 1) / 10, 1) for depth in range(10)
    ]


def test_fine_tuning_sees_no_text_that_is_evaluated(tmp_path):
    """Not under another number either; and the same texts when other studies are added."""
    texts = [f"The cat sees {n} dogs." for n in range(8)]
    lines = [{"text": text, "fr": f"Le chat {n}."} for n, text in enumerate(texts)]
    path = tmp_path / "texts@home.jsonl"
    path.write_text("\n".join(map(json.dumps, [*lines, *lines])))
    settings = RunSettings(studies=("sft",), data=str(path), reference_column="fr")
    _, tokenizer = integration.load_embedded()
    documents = [Document(f"{path.name}:{n}", text) for n, text in enumerate(texts, 1)]

    def rows(task):
        options = {"lengths": [(0, 500)], "tokenizer": tokenizer}
        return document_rows(task, documents, 3, 42, **options)[0]

    french = rows("french")
    found = adapters._examples(settings, french, tokenizer, None)
    trained = {example.prompt[0]["content"].partition("\n\n")[2] for example in found}
    assert len(found) == len(trained) == 5
    assert not trained & {row.after.strip() for row in french}
    assert adapters._examples(settings, french + rows("json"), tokenizer, None) == found


def test_brackets_without_end_are_no_json():
    text = '{"a": ' + "[" * 100_000 + "}"
    assert metrics.json_scores(text, {"a": str}) == {"jaccard": 0, "authors": 0, "exact": 0}
