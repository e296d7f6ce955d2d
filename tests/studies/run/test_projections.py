# SPDX-License-Identifier: MIT
"""SEKA's projections of a run: what they are learned from, and that this is not judged."""

import dataclasses
import json
import re

import pytest
import torch

from guide_ext import integration
from guide_ext.studies import needle
from guide_ext.studies.data.facts import FACTS
from guide_ext.studies.data.halves import for_choosing
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run.projections import _triples, learned_projections
from guide_ext.studies.run.rows import rows_of

SETTINGS = RunSettings(studies=("methods",))
ASKED = "<question> What is the secret word of {}? </question>"
TEXTS = [
    f"The {noun} number {number} was found in the cellar. Nobody had looked for it. It was old."
    for number in range(4) for noun in ("clock", "violin", "letter", "lamp", "map", "coat", "drum")
]  # fmt: skip


@pytest.fixture(scope="module")
def embedded():
    return integration.load_embedded()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), "utf-8")
    return RunSettings(studies=("methods",), data=str(path), windows=1)


def parts(prompt):
    content = prompt[0]["content"] if isinstance(prompt, list) else prompt
    [span] = content.spans
    assert content.text.endswith(content.text[span.start : span.end])
    return content.text[: span.start], content.text[span.start : span.end]


def test_in_the_embedded_world(embedded):
    found = _triples(SETTINGS, embedded[1])
    assert len(found) > 30
    for neutral, relevant, irrelevant in found:
        text, marked = parts(neutral)
        name = re.fullmatch(r"The secret word of (\S+) is \S+\.", marked)[1]
        assert "secret word" not in text
        assert parts(relevant) == (f"{ASKED.format(name)}\n{text}", marked)
        before, same = parts(irrelevant)
        question, _, rest = before.partition("\n")
        assert (rest, same) == (text, marked)
        assert re.fullmatch(ASKED.replace("?", r"\?").format(r"\S+"), question)
        assert question != ASKED.format(name)
    judged, _ = rows_of(needle.TASK, SETTINGS, embedded[1], [])
    assert not {parts(one[0])[0] for one in found} & {
        row.before.partition("\n")[2] for row in judged
    }


def test_in_real_texts(embedded, texts):
    found = _triples(texts, embedded[1])
    rows, _ = rows_of(needle.TASK, texts, embedded[1], [])
    whole = [f"{row.before}{row.after}" for row in rows if not for_choosing(row.document)]
    judged = {re.search(r"The \w+ number \d", text)[0] for text in whole}
    assert judged
    questions = {fact.question: fact.sentence.split("{}")[0] for fact in FACTS}
    assert found
    for neutral, relevant, irrelevant in found:
        text, marked = parts(neutral)
        assert not text.startswith("Read this")
        asked, other = (parts(one)[0].partition("\n")[0] for one in (relevant, irrelevant))
        assert parts(relevant) == (f"{asked}\n{text}", marked)
        assert parts(irrelevant) == (f"{other}\n{text}", marked)
        assert marked.startswith(questions[asked])
        assert not marked.startswith(questions[other])
        assert not any(one in text for one in judged)


def test_half_of_the_heads_are_kept_and_nothing_is_drawn_anew(embedded):
    found = learned_projections(SETTINGS, *embedded)
    kept = found.positive.flatten(2).any(-1)
    assert torch.equal(kept, found.shifts >= found.shifts.flatten().sort().values[4])
    assert 2 * kept.sum() == kept.numel()
    again = _triples(SETTINGS, embedded[1])
    assert again == _triples(SETTINGS, embedded[1])
    other = dataclasses.replace(SETTINGS, seed=7)
    assert _triples(other, embedded[1]) != again


def test_texts_that_are_too_few(embedded, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0]}), "utf-8")
    settings = RunSettings(studies=("methods",), data=str(path))
    with pytest.raises(ValueError, match="data must have documents with two questions or more"):
        _triples(settings, embedded[1])
