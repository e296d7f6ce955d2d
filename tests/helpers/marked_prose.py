# SPDX-License-Identifier: MIT
"""Real prose with marks, what a model is to read of it, and what eager attention makes of that.

All of it is made by hand. The product parses tags, follows them through chat templates, finds
tokens, pads, carries the bias to the keys and caches them; nothing here does any of that its way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from models import assert_logits_close
from torch import Tensor, nn

from guide_ext.studies.data.python_docs import documents

# An end of text that no model writes, so that each row has all steps.
ENDLESS = {"eos_token_id": -1}


@dataclass(frozen=True)
class Mark:
    """Characters ``[start, end)`` that get some nats, or belong to a group, or both."""

    start: int
    end: int
    delta: float = 0.0
    group: str = ""

    def around(self, text: str) -> str:
        """Return the text between the tags that say so."""
        tagged = f"<!{self.delta!r}->{text}<-!>" if self.delta else text
        return f"<?{self.group}->{tagged}<-?{self.group}>" if self.group else tagged


@dataclass(frozen=True)
class Prose:
    """A text and its marks, in order and apart from each other."""

    text: str
    marks: tuple[Mark, ...]

    @property
    def tagged(self) -> str:
        """The text as a user writes it."""
        pieces, cursor = [], 0
        for mark in self.marks:
            pieces.append(self.text[cursor : mark.start])
            pieces.append(mark.around(self.text[mark.start : mark.end]))
            cursor = mark.end
        return "".join([*pieces, self.text[cursor:]])

    @property
    def chat(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.tagged}]


def draw(tokenizer: Any, tokens: int, kinds: list[dict[str, Any]], seed: int) -> Prose:
    """Draw so many tokens of a document, with some words of each of its parts marked."""
    (document,) = documents([(400, 600)], 1, 1000 * seed + tokens, tokenizer=tokenizer)
    found = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)
    text = document.text[: found["offset_mapping"][tokens][0]].rsplit(None, 1)[0]
    rng = random.Random(f"marks {seed} {tokens}")
    starts = [0, *(place + 1 for place, char in enumerate(text) if char.isspace())]
    words = [place for place in starts if place < len(text) and not text[place].isspace()]
    part, marks = len(words) // len(kinds), []
    for index, kind in enumerate(kinds):
        first = index * part + rng.randrange(part - 6)
        last = first + rng.randint(2, 5)
        marks.append(Mark(words[first], words[last] - 1, **kind))
    return Prose(text, tuple(marks))


def by_hand(tokenizer: Any, proses: list[Prose], groups: list[str] | None = None) -> dict[str, Any]:
    """Return ids and mask of chats, padded on the left, with bias and seed of their marks."""
    rows = [_row(tokenizer, prose, groups or []) for prose in proses]
    width = max(len(ids) for ids, _, _ in rows)

    def padded(values: Any, fill: float = 0) -> Tensor:
        tensor = torch.as_tensor(values)
        return nn.functional.pad(tensor, (width - tensor.shape[-1], 0), value=fill)

    made = {
        "input_ids": torch.stack([padded(ids, tokenizer.pad_token_id or 0) for ids, _, _ in rows]),
        "attention_mask": torch.stack([padded([1] * len(ids)) for ids, _, _ in rows]),
        "guide_bias": torch.stack([padded(bias) for _, bias, _ in rows]),
    }
    if groups:
        made["guide_seed"] = torch.stack([padded(seed) for _, _, seed in rows])
    return made


def _row(tokenizer: Any, prose: Prose, groups: list[str]) -> tuple[list[int], Tensor, Tensor]:
    rendered = prose.text
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": prose.text}], tokenize=False, add_generation_prompt=True
        )
    found = tokenizer(
        rendered,
        return_offsets_mapping=True,
        add_special_tokens=not tokenizer.chat_template,
    )
    shift = rendered.index(prose.text)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    bias, seed = torch.zeros(len(ids)), torch.zeros(len(groups), len(ids))
    for mark in prose.marks:
        start, end = mark.start + shift, mark.end + shift
        members = torch.tensor([begin < end and stop > start for begin, stop in offsets])
        bias += mark.delta * members
        if mark.group:
            seed[groups.index(mark.group)] += members
    return ids, bias, seed


def additive_mask(attention_mask: Tensor, bias: Tensor) -> Tensor:
    """Return causality, padding and bias in one float mask, ``[batch, 1, tokens, tokens]``."""
    rows, tokens = attention_mask.shape
    visible = torch.ones(tokens, tokens, dtype=torch.bool).tril() & attention_mask.bool()[:, None]
    visible = visible | torch.eye(tokens, dtype=torch.bool)  # rows of padding see themselves
    lowest = torch.finfo(bias.dtype).min
    return torch.where(visible, bias[:, None], lowest).view(rows, 1, tokens, tokens)


def whole(inputs: dict[str, Tensor], sequences: Tensor) -> dict[str, Tensor]:
    """Return prompts and what was written behind them as a text to read at once."""
    new = sequences.shape[1] - inputs["input_ids"].shape[1]
    return {
        "input_ids": sequences,
        "attention_mask": nn.functional.pad(inputs["attention_mask"], (0, new), value=1),
        "guide_bias": nn.functional.pad(inputs["guide_bias"], (0, new)),
    }


def eager_logits(eager: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of a model under its own eager attention, given the whole mask."""
    assert eager.config._attn_implementation == "eager"
    mask = inputs["attention_mask"]
    with torch.no_grad():
        return eager(
            input_ids=inputs["input_ids"],
            attention_mask=additive_mask(mask, inputs["guide_bias"]).to(eager.dtype),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).logits


def assert_greedy(found: Any, logits: Tensor) -> None:
    """Check greedy generation, step by step, against logits of the whole sequences read at once.

    If at every place the likeliest token is the one that was written, a generation by those logits
    writes the same; so one pass stands for a generation without a cache.
    """
    first = found.sequences.shape[1] - len(found.logits)
    for step, mine in enumerate(found.logits):
        wanted = logits[:, first + step - 1]
        assert_logits_close(mine, wanted)
        assert found.sequences[:, first + step].tolist() == wanted.argmax(-1).tolist(), step
