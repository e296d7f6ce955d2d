# SPDX-License-Identifier: MIT
"""Examples for fine-tuning: drawing them, their tokens, and rows of packed samples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.embedded import evaluate
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.marking.chat import Chat, render_chat
from guide_ext.marking.spans import MarkedText, parse
from guide_ext.marking.tokens import encode_text

TRAINING_SEED = 64_016
"""Seed of the documents of the embedded world to train on; no evaluation uses it."""
EMBEDDED_EXAMPLES = 320
"""Examples for ``SftSettings.embedded()``: 63,000 tokens an epoch."""


@dataclass(frozen=True)
class Example:
    """One training pair.

    Attributes:
        prompt: A chat, or text. Tags are removed: training adds no bias.
        answer: What the model is to answer, literally.

    """

    prompt: str | Chat
    answer: str


@dataclass(frozen=True)
class TokenizedExample:
    """An example as tokens.

    Attributes:
        input_ids: Prompt, then answer.
        answer: Index of the first token of the answer. Only the answer is learnt.

    """

    input_ids: tuple[int, ...]
    answer: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.input_ids)


PackedRow = tuple[TokenizedExample, ...]
"""Samples that are packed into one row."""


def embedded_examples(
    count: int = EMBEDDED_EXAMPLES, *, task: CaseKind, tokenizer: Any, seed: int = TRAINING_SEED
) -> list[Example]:
    """Draw examples of a task of the embedded world, with their right answers.

    Their documents have up to 384 tokens, with the same number of each length. The embedded model
    itself was not trained on such prompts.

    Args:
        count: Number of examples, from 1.
        task: What the prompts ask for.
        tokenizer: Counts the tokens of the documents.
        seed: Seed of the documents; must differ from that of the evaluation.

    Returns:
        The examples, shortest documents first.

    Raises:
        ValueError: If ``count`` is not positive or the seed is one of the model's own evaluations.

    Example:
        >>> from guide_ext import integration
        >>> from guide_ext.embedded import model_path
        >>> tokenizer = integration.load_tokenizer(str(model_path()))
        >>> example, = embedded_examples(1, task=CaseKind.FRENCH, tokenizer=tokenizer)
        >>> example.prompt[0]["content"].splitlines()[0], example.answer.split()[0]
        ('Summarize in French', 'Le')

    """
    used = (evaluate.DEVELOPMENT_SEED, evaluate.FINAL_SEED)
    if seed in used:
        msg = f"seed must be none of an evaluation {used}, got {seed}: training would see its texts"
        raise ValueError(msg)
    cases = evaluate.make_cases(task, count, seed, tokenizer=tokenizer)
    return [
        Example(({"role": "user", "content": parse(case.prompt).text},), case.answer)
        for case in cases
    ]


def encode_example(tokenizer: Any, example: Example) -> TokenizedExample:
    """Tokenise an example, its prompt as generation does.

    A chat is rendered with the answer as the assistant's message, so its template says how an
    answer ends. A text is followed by the answer, unchanged, and by the tokenizer's end token.

    Args:
        tokenizer: A fast tokenizer.
        example: The example.

    Returns:
        Its tokens. A token that belongs to prompt and answer counts as answer.

    Raises:
        ValueError: If the answer has no tokens, the prompt is empty, or the template does not put
            the answer behind the prompt.
        TagError: If a tag of the prompt cannot be read.

    Example:
        >>> from guide_ext import integration
        >>> from guide_ext.embedded import model_path
        >>> tokenizer = integration.load_tokenizer(str(model_path()))
        >>> chat = [{"role": "user", "content": "Summarize"}]
        >>> sample = encode_example(tokenizer, Example(chat, "The cook sings."))
        >>> tokenizer.decode(sample.input_ids[: sample.answer])
        '<s>[INST] Summarize [/INST]'
        >>> tokenizer.decode(sample.input_ids[sample.answer :])
        ' The cook sings.</s>'

    """
    if isinstance(example.prompt, str):
        prompt = parse(example.prompt).text
        encoding = encode_text(tokenizer, MarkedText(prompt + example.answer))
        end = tokenizer.eos_token_id
        ids = list(encoding.input_ids)
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
    else:
        prompt = render_chat(tokenizer, example.prompt).text
        answer = {"role": "assistant", "content": MarkedText(example.answer)}
        clean = render_chat(tokenizer, [*example.prompt, answer], add_generation_prompt=False).text
        if not clean.startswith(prompt):
            msg = (
                "the chat template must write an answer behind the prompt that asks for it, got "
                f"{clean[-80:]!r} for the prompt {prompt[-80:]!r}"
            )
            raise ValueError(msg)
        encoding = encode_text(tokenizer, MarkedText(clean), add_special_tokens=False)
        ids = list(encoding.input_ids)
    ends = [end for _, end in encoding.offsets]
    first = next((index for index, end in enumerate(ends) if end > len(prompt)), len(ends))
    if not 0 < first < len(ends):
        msg = (
            "an example must have a prompt and an answer of at least one token each, got "
            f"{first} and {len(ends) - first}: {prompt[-40:]!r}, {example.answer[:40]!r}"
        )
        raise ValueError(msg)
    return TokenizedExample(tuple(ids), first)


def digest(samples: Sequence[TokenizedExample]) -> str:
    """Return the SHA-256 of all tokens, which tells training sets apart."""
    sha = hashlib.sha256()
    for sample in samples:
        sha.update(f"{sample.answer}:{','.join(map(str, sample.input_ids))}\n".encode())
    return sha.hexdigest()


def packed_batches(
    samples: Sequence[TokenizedExample], *, sequence_length: int, rows: int, seed: int, epoch: int
) -> Iterator[list[PackedRow]]:
    """Shuffle samples and pack them into the rows of one epoch's batches.

    A sample goes into the first row of the batch that has room for it; if no row has, the batch is
    full. Samples are never cut, and each is in exactly one batch.

    Args:
        samples: All samples, none longer than a row.
        sequence_length: Largest number of tokens in a row.
        rows: Largest number of rows in a batch.
        seed: Seed of the order.
        epoch: Number of the epoch; each has another order.

    Yields:
        The rows of one batch, at least one.

    Example:
        >>> samples = [TokenizedExample((1,) * size, 1) for size in (3, 6, 5, 2)]
        >>> for batch in packed_batches(samples, sequence_length=8, rows=1, seed=0, epoch=0):
        ...     print([[len(sample) for sample in row] for row in batch])
        [[2, 6]]
        [[5, 3]]

    """
    order = list(samples)
    random.Random(f"order of {seed}, epoch {epoch}").shuffle(order)
    batch: list[list[TokenizedExample]] = []
    for sample in order:
        place = next(
            (row for row in batch if sum(map(len, row)) + len(sample) <= sequence_length), None
        )
        if place is not None:
            place.append(sample)
        elif len(batch) < rows:
            batch.append([sample])
        else:
            yield [tuple(row) for row in batch]
            batch = [[sample]]
    if batch:
        yield [tuple(row) for row in batch]
