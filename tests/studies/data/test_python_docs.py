# SPDX-License-Identifier: MIT
"""The prose of Python's documentation, and documents made of it."""

import builtins
import collections
import itertools
import os
import subprocess
import sys

import pytest

from guide_ext.integration import load_embedded
from guide_ext.studies.data import python_docs
from guide_ext.studies.data.documents import read_documents
from guide_ext.studies.data.prose import LONGEST, SHORTEST
from guide_ext.studies.data.python_docs import PYTHON_DOCS, Paragraph, documents, paragraphs
from guide_ext.studies.data.rows import document_rows
from guide_ext.studies.registry import TASKS
from guide_ext.support.extras import MissingPackageError

WORDS = [(60 * i, 60 * (i + 1)) for i in range(4)] + [(500 * i, 500 * (i + 1)) for i in range(4)]


class Words:
    """A tokenizer of words."""

    def encode(self, text, *, add_special_tokens):
        return text.split()


@pytest.fixture(scope="module")
def tokenizer():
    return load_embedded()[1]


def count(tokenizer, text):
    return len(tokenizer.encode(text, add_special_tokens=False))


class TestParagraphs:
    def test_of_this_python(self):
        found = paragraphs()
        assert len(found) > 500
        assert sum(len(p.text.split()) for p in found) > 25_000
        assert len({p.text for p in found}) == len(found)
        assert len({p.topic for p in found}) > 50
        for text in (paragraph.text for paragraph in found):
            assert SHORTEST <= len(text) <= LONGEST
            assert text.rstrip("”’\"')")[-1] in ".!?"
            assert not any(
                code in text for code in (">>>", "::", "  ", "\n", "\t", "=", "`", "**[")
            )
            assert text.count("(") == text.count(")"), text
            assert text.count('"') % 2 == 0, text

    def test_each_once_with_its_first_topic(self):
        text = (
            "All of this is said of every object, and it is said in two topics, and once in each. "
        )
        found = paragraphs({"b": text * 2, "a": text * 2})
        assert found == (Paragraph("a", (text * 2).strip()),)

    def test_without_documentation(self, monkeypatch):
        real = builtins.__import__

        def without(name, *arguments, **options):
            if name.startswith("pydoc_data"):
                raise ModuleNotFoundError(name)
            return real(name, *arguments, **options)

        python_docs._of_this_python.cache_clear()
        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingPackageError, match=r"pydoc_data must be .* apt install libpyth"):
            paragraphs()


class TestDocuments:
    @pytest.mark.parametrize("tokens", ["words", "embedded"])
    def test_lengths(self, tokens, tokenizer):
        tokenizer = Words() if tokens == "words" else tokenizer
        texts = {paragraph.text for paragraph in paragraphs()}
        lengths = WORDS[1:]
        made = documents(lengths, 5, 7, tokenizer=tokenizer)
        assert len({one.id for one in made}) == len({one.text for one in made}) == 5 * len(lengths)
        for number, one in enumerate(made):
            low, high = lengths[number // 5]
            assert low < count(tokenizer, one.text) <= high
            assert one.id == f"{PYTHON_DOCS}:seed7:{high}:{number % 5 + 1}"
            parts = one.text.split("\n\n")
            assert len(set(parts)) == len(parts)
            assert set(parts) <= texts
            assert one.reference == ""

    def test_lengths_are_drawn_evenly(self):
        lengths = [
            count(Words(), d.text) for d in documents([(500, 1000)], 80, 1, tokenizer=Words())
        ]
        quarters = collections.Counter((length - 501) // 125 for length in lengths)
        assert sorted(quarters) == [0, 1, 2, 3]
        assert min(quarters.values()) > 8  # of 20

    def test_paragraphs_are_used_evenly(self):
        made = documents([(500, 1000)], 80, 1, tokenizer=Words())
        used = collections.Counter(part for one in made for part in one.text.split("\n\n"))
        assert len(used) == len(paragraphs())
        assert max(used.values()) <= min(used.values()) + 1
        few = documents([(500, 1000)], 20, 1, tokenizer=Words())
        parts = [part for one in few for part in one.text.split("\n\n")]
        assert len(parts) == len(set(parts))

    def test_none_is_too_short(self):
        made = documents([(0, 100)], 80, 1, tokenizer=Words())
        assert min(count(Words(), one.text) for one in made) == 60

    def test_they_read_in_order(self):
        place = {paragraph.text: index for index, paragraph in enumerate(paragraphs())}
        follows = []
        for one in documents([(500, 1000)], 20, 1, tokenizer=Words()):
            places = [place[part] for part in one.text.split("\n\n")]
            follows += [b == a + 1 for a, b in itertools.pairwise(places)]
        assert sum(follows) > 0.6 * len(follows)

    def test_what_there_is_stays(self):
        few = documents([(0, 250)], 3, 5, tokenizer=Words())
        more = documents([(0, 250), (250, 500)], 6, 5, tokenizer=Words())
        assert more[:3] == few
        other = documents([(0, 250)], 3, 6, tokenizer=Words())
        assert not {one.text for one in other} & {one.text for one in few}

    def test_the_same_in_every_process(self):
        code = (
            "import hashlib, sys\n"
            "from guide_ext.studies.data.python_docs import documents\n"
            "class Words:\n"
            "    def encode(self, text, *, add_special_tokens): return text.split()\n"
            "made = documents([(0, 200), (500, 1000)], 4, 3, tokenizer=Words())\n"
            "print(hashlib.sha256(repr(made).encode()).hexdigest())"
        )
        found = [
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True, text=True, check=True,
            ).stdout
            for seed in ("1", "2")
        ]  # fmt: skip
        assert found[0] == found[1]

    def test_all_of_it(self):
        source = paragraphs()[:40]
        whole = sum(count(Words(), paragraph.text) for paragraph in source)
        (made,) = documents([(whole - 1, whole)], 1, 0, tokenizer=Words(), source=source)
        assert set(made.text.split("\n\n")) == {paragraph.text for paragraph in source}

    @pytest.mark.parametrize(
        ("lengths", "number", "message"),
        [
            (
                (0, 50),
                1,
                r"lengths must be ranges of tokens that end between 60 and \d+, .* \(0, 50",
            ),
            ((0, 10**6), 1, "lengths must be ranges of tokens that end between"),
            ((100, 100), 1, "lengths must be ranges"),
            ((59, 60), 900, r"documents of \(59, 60\] tokens must be at most \d+, .* got 900"),
        ],
    )
    def test_ranges_that_cannot_be_met(self, lengths, number, message):
        with pytest.raises(ValueError, match=message):
            documents([lengths], number, 0, tokenizer=Words())

    def test_errors(self):
        with pytest.raises(ValueError, match="source must have paragraphs, got none"):
            documents([(0, 500)], 1, 0, tokenizer=Words(), source=())
        with pytest.raises(ValueError, match="data must have rows to read, got 'python-docs'"):
            list(read_documents(PYTHON_DOCS))

    @pytest.mark.parametrize("task", TASKS)
    def test_rows(self, task, tokenizer):
        lengths = [(0, 200), (200, 400)]
        made = documents(lengths, 2, 42, tokenizer=tokenizer)
        rows, bad = document_rows(TASKS[task], made, 2, 42, lengths=lengths, tokenizer=tokenizer)
        assert not bad
        assert {row.document for row in rows} == {one.id for one in made}
        assert len({row.id for row in rows}) == len(rows)
