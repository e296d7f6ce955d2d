# SPDX-License-Identifier: MIT
"""The paper's prompts (App. C.5), and rows made of documents by them or of the embedded world."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from guide_ext.embedded import evaluate
from guide_ext.embedded.evaluate import CountsTokens
from guide_ext.studies.data.documents import BadDocument, Document
from guide_ext.studies.study import Row

FRENCH_INSTRUCTION = "Summarize in French"
NEEDLE = (
    "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny "
    "day."
)
NEEDLE_FOUND = "dolores"
_NEEDLE_QUESTION = """\
<question>
Your objective is to answer the following question based on the context:
What is the best thing to do in San Francisco?
Don't give information outside the document or repeat our findings
</question>"""
_JSON_BEFORE = (
    "You are an assistant designed to provide information in JSON format. I will give you a story, "
    "and you need to extract and return specific details from the story. Do not output anything "
    "else than the JSON. "
)
JSON_INSTRUCTION = "Your response should follow exactly this template:"
JSON_FIELDS: dict[str, type] = {
    "title": str,
    "genre": str,
    "characters": list,
    "author": str,
    "summary": str,
    "date": str,
    "scenery": str,
}
"""Keys of the template and the types of their values."""
_JSON_TEMPLATE = """
<schema>
{
"title": "title of the story (string)",
"genre": string,
"characters": [
{
"name": string,
"description": string. If not available set it to none
}] (one dict per character),
"author": "the author of the story. If not available, set it to None",
"summary": "a brief summary of the story. Do not write more than 50 words",
"date": "when the story was released (string)",
"scenery": "where the story takes place (string)",
}
</schema>

"""
DEPTHS = 10
"""Places of the needle in a document, at equal distances; the last is its end."""
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")

_TASKS = {
    "french": evaluate.Task.FRENCH,
    "needle": evaluate.Task.NEEDLE,
    "json": evaluate.Task.JSON,
}


def embedded_rows(task: str, per_length: int, seed: int, *, tokenizer: CountsTokens) -> list[Row]:
    """Make rows of the constructed world of the embedded model, as many of every length.

    Args:
        task: ``"french"``, ``"needle"`` or ``"json"``.
        per_length: Documents of each of the six ranges of length.
        seed: Of the documents.
        tokenizer: Measures them.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> rows = embedded_rows("french", 2, 7, tokenizer=load_embedded()[1])
        >>> len(rows), rows[0].marked, rows[-1].length
        (12, 'Summarize in French', (320, 384))

    """
    count = per_length * evaluate.NUM_BUCKETS
    width = evaluate.MAX_TOKENS // evaluate.NUM_BUCKETS
    rows = []
    for number, case in enumerate(
        evaluate.make_cases(_TASKS[task], count, seed, tokenizer=tokenizer), 1
    ):
        depth = None
        if task == "needle":
            # The question stands in front of the text, too.
            before = len(case.before.partition("\n")[2])
            depth = before / max(1, before + len(case.after.rpartition("\n")[0]))
        rows.append(
            Row(
                f"{task}-{number}", task, case.before, case.marked, case.after,
                case.context_tokens, (case.bucket * width, (case.bucket + 1) * width),
                case.answer, case.keys, depth,
            )
        )  # fmt: skip
    return rows


def document_rows(
    task: str,
    documents: Iterable[Document | BadDocument],
    per_length: int,
    seed: int,
    *,
    lengths: Sequence[tuple[int, int]],
    tokenizer: Any,
) -> tuple[list[Row], list[BadDocument]]:
    """Make rows of documents by the paper's prompts, as many of every range of lengths.

    Documents are taken in a random order. One that is longer than all ranges is cut at a space,
    to a length drawn from a range that still lacks documents.

    Args:
        task: ``"french"``, ``"needle"`` or ``"json"``.
        documents: Where they come from.
        per_length: How many of each range, at most.
        seed: Of order and lengths.
        lengths: Ranges ``(from, to]`` in tokens.
        tokenizer: Of the model; measures them.

    Returns:
        The rows, shortest range first; and what was no document, or one that was there before.

    """
    good, bad = distinct(documents)
    rng = random.Random(f"{seed} {task}")
    rng.shuffle(good)
    chosen: dict[tuple[int, int], list[tuple[Document, int]]] = defaultdict(list)
    for document in good:
        lacking = [length for length in lengths if len(chosen[length]) < per_length]
        if not lacking:
            break
        fitted, tokens = _fitted(document, lacking, lengths[-1][1], rng, tokenizer)
        for low, high in lacking:
            if low < tokens <= high:
                chosen[low, high].append((fitted, tokens))
    make = {"french": _french, "needle": _needle, "json": _json}[task]
    rows = []
    for length in lengths:
        for document, tokens in chosen[length]:
            rows += make(document, tokens, length)
    return rows, bad


def distinct(
    documents: Iterable[Document | BadDocument],
) -> tuple[list[Document], list[BadDocument]]:
    """Part documents from what is none.

    A text that comes again is left out: it would count twice, or be trained on and evaluated.

    Example:
        >>> distinct([Document("a:1", "One."), Document("a:2", "One.")])
        ([Document(id='a:1', text='One.', reference='')],
        [BadDocument(id='a:2', error='text must be new, got that of a:1 again')])

    """
    good: list[Document] = []
    bad: list[BadDocument] = []
    first: dict[str, str] = {}
    for document in documents:
        if isinstance(document, BadDocument):
            bad.append(document)
        elif document.text in first:
            bad.append(
                BadDocument(
                    document.id, f"text must be new, got that of {first[document.text]} again"
                )
            )
        else:
            first[document.text] = document.id
            good.append(document)
    return good, bad


def _fitted(
    document: Document,
    lacking: Sequence[tuple[int, int]],
    longest: int,
    rng: random.Random,
    tokenizer: Any,
) -> tuple[Document, int]:
    """Return a document that is not too long, and its length in tokens."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    tokens = count(document.text)
    if tokens <= longest:
        return document, tokens
    low, high = rng.choice(lacking)
    text = document.text[: int(len(document.text) * rng.uniform(low, high) / tokens)]
    text = text.rpartition(" ")[0] or text
    return Document(document.id, text, document.reference), count(text)


def _french(document: Document, tokens: int, length: tuple[int, int]) -> list[Row]:
    after = f"\n\n{document.text}"
    return [
        Row(
            document.id, "french", "", FRENCH_INSTRUCTION, after, tokens, length, document.reference
        )
    ]


def _json(document: Document, tokens: int, length: tuple[int, int]) -> list[Row]:
    after = f"{_JSON_TEMPLATE}{document.text}"
    return [
        Row(
            document.id, "json", _JSON_BEFORE, JSON_INSTRUCTION, after, tokens, length,
            keys=tuple(JSON_FIELDS),
        )
    ]  # fmt: skip


def _needle(document: Document, tokens: int, length: tuple[int, int]) -> list[Row]:
    """Hide the needle at every depth, behind the end of a sentence where there is one before."""
    ends = [match.end() for match in _SENTENCE_END.finditer(document.text)]
    rows = []
    for step in range(1, DEPTHS + 1):
        depth = step / DEPTHS
        wanted = round(depth * len(document.text))
        place = max((end for end in ends if end <= wanted), default=0)
        if step == DEPTHS:
            place = len(document.text)
        before = f"{_NEEDLE_QUESTION}\n{document.text[:place]} ".lstrip(" ")
        after = f" {document.text[place:].lstrip()}\n{_NEEDLE_QUESTION}"
        rows.append(
            Row(
                f"{document.id}@{depth:g}", "needle", before, NEEDLE, after, tokens, length,
                depth=depth,
            )
        )  # fmt: skip
    return rows
