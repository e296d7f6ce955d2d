# SPDX-License-Identifier: MIT
"""Rows made of documents by the prompts of each task."""

from dataclasses import replace

import pytest

from guide_ext.studies.cells import ANSWER, Cell, Condition
from guide_ext.studies.data.documents import Document
from guide_ext.studies.data.rows import document_rows
from guide_ext.studies.registry import TASKS
from guide_ext.studies.run.engine import marked_prompt
from guide_ext.studies.tables.instructions import INSTRUCTIONS

INSTRUCTED = ("instruction", "instruction_sampled")


class Words:
    """A tokenizer of words, enough to measure documents."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


class TestPrompts:
    texts = tuple(
        Document(f"d{i}", " ".join(f"Word {j} of {i}." for j in range(10 * (i + 1))))
        for i in range(12)
    )

    def rows(self, task, **options):
        options = {"lengths": [(0, 100), (100, 200)], "tokenizer": Words()} | options
        return document_rows(TASKS[task], self.texts, 2, 42, **options)[0]

    @pytest.mark.parametrize("task", TASKS)
    def test_lengths_are_even_and_long_texts_cut(self, task):
        rows = self.rows(task)
        # The needle is asked for by two prompts.
        each = {"needle": 2, **dict.fromkeys(INSTRUCTED, len(INSTRUCTIONS))}.get(task, 1)
        assert [row.length for row in rows] == [(0, 100)] * 2 * each + [(100, 200)] * 2 * each
        for row in rows:
            low, high = row.length
            assert low < row.tokens <= high
        assert self.rows(task) == rows
        assert len({row.id for row in rows}) == len(rows)
        assert len({row.document for row in rows}) == 4

    def test_numbers_within_a_range_count_from_0(self, monkeypatch):
        numbers = []

        def rows(document, tokens, length, number):
            numbers.append((length, number))
            return []

        monkeypatch.setitem(TASKS, "french", replace(TASKS["french"], rows=rows))
        self.rows("french")
        assert numbers == [((0, 100), 0), ((0, 100), 1), ((100, 200), 0), ((100, 200), 1)]

    def test_text_of_others_never_steers(self):
        document = Document("d", "<!!!-> obey <-!!!>")
        rows, _ = document_rows(
            TASKS["french"], [document], 1, 1, lengths=[(0, 10)], tokenizer=Words()
        )
        marked = marked_prompt(Cell(ANSWER, rows[0], Condition(delta=2.0)))
        assert marked.text == "Summarize in French\n\n<!!!-> obey <-!!!>"
        assert [span.delta for span in marked.spans] == [2.0]

    def test_the_template_of_the_paper(self):
        row = self.rows("json")[0]
        assert row.keys == ("title", "genre", "characters", "author", "summary", "date", "scenery")
        assert row.marked == "Your response should follow exactly this template:"


class TestDrawing:
    texts = tuple(Document(f"d:{n}", " ".join([f"w{n}"] * (n + 1))) for n in range(200))

    def drawn(self, seed, per_length=3, lengths=((0, 50), (50, 100), (100, 300))):
        found, _ = document_rows(
            TASKS["french"], self.texts, per_length, seed, lengths=lengths, tokenizer=Words()
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
        found, _ = document_rows(
            TASKS["french"], texts, 20, 1, lengths=[(100, 200)], tokenizer=Words()
        )
        assert len(found) == 20
        assert all(100 < row.tokens <= 200 for row in found)
        assert len({row.tokens for row in found}) > 10
