# SPDX-License-Identifier: MIT
"""The tokens of prompts with images: a processor makes them, and marks are followed into them.

A processor replaces each placeholder of an image by a text that stands for its tokens, and reports
what it wrote. So its text is written again here, tokenised with offsets, and compared with the
tokens that the processor returned, all of them. What cannot be written again is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.image_prompts import ImagePrompt
from guide_ext.marking.marked_text import MarkedText
from guide_ext.marking.placeholders import Expansion, encode_expanded
from guide_ext.marking.sentinels import Mark, located, unused, with_edges
from guide_ext.marking.tokens import Encoding

_REPORT = "text_replacement_offsets"
# Of the prompts themselves, in what a processor returns. Some add labels, which are for training.
_OF_TEXT = ("input_ids", "attention_mask", _REPORT, "labels")
# What a processor makes for layers that attend to the image itself instead of to tokens of it.
_CROSS = "cross_attention_mask"


def encode_images(
    processor: Any,
    prompts: Sequence[ImagePrompt],
    *,
    padding_side: str,
    max_length: int | None = None,
) -> tuple[list[Encoding], dict[str, Any]]:
    """Run a processor, and find the tokens of the marks and of the images.

    Args:
        processor: A processor of images and text with a fast tokenizer.
        prompts: What it is to read; at least one.
        padding_side: ``"left"`` or ``"right"``.
        max_length: Longest prompt, in tokens; a longer one loses text, but no image and no mark.

    Returns:
        The prompts as tokens, and all else that the processor made: tensors, or lists of tensors.

    Raises:
        ValueError: If the processor does not report what it writes for an image, its tokens are not
            those of that text, prompts cannot be batched, or `max_length` cuts a mark or an image.

    """
    if not prompts:
        raise ValueError("prompts must be at least one, got none")
    if len({prompt.begins for prompt in prompts}) > 1:
        raise ValueError(
            "prompts of one batch must all begin with the first token of a text as their template "
            "writes it, or all without, got both; encode them one by one"
        )
    call = _Call(processor, prompts, padding_side)
    made = call.run()
    texts = call.prepared()
    reports = _reports(processor, made, prompts, texts)
    words = processor.tokenizer
    encodings, adding = [], []
    rows = zip(prompts, texts, reports, _ids(made, padding_side), strict=True)
    for row, (prompt, text, report, ids) in enumerate(rows):
        adds, encoding = _encoding(words, text, report, ids, begins=prompt.begins)
        _require_same(processor, encoding, ids, row)
        encodings.append(encoding)
        adding.append(adds)
    if max_length is not None:
        whole = encodings
        encodings = [
            encode_expanded(words, text, report, add_special_tokens=adds, max_length=max_length)
            for text, report, adds in zip(texts, reports, adding, strict=True)
        ]
        if encodings != whole:
            made = call.run(truncation=True, max_length=max_length)
            for row, ids in enumerate(_ids(made, padding_side)):
                _require_same(processor, encodings[row], ids, row)
    extra = {name: _tensors(name, value) for name, value in made.items() if name not in _OF_TEXT}
    return encodings, extra


class _Call:
    """One call of a processor, which can be repeated.

    Args:
        processor: The processor.
        prompts: Its prompts.
        padding_side: Where it pads.

    """

    def __init__(self, processor: Any, prompts: Sequence[ImagePrompt], padding_side: str) -> None:
        self._processor, self._prompts, self._side = processor, prompts, padding_side
        own = [list(prompt.images) for prompt in prompts]
        self._images = own if any(own) else None

    def run(self, **options: Any) -> Mapping[str, Any]:
        """Return what the processor makes."""
        if self._prompts[0].begins:
            options["add_special_tokens"] = False
        if len(self._prompts) > 1:
            if self._processor.tokenizer.pad_token is None:
                raise ValueError(
                    "processor.tokenizer must have a pad_token to make a batch, got None; set "
                    "processor.tokenizer.pad_token = processor.tokenizer.eos_token"
                )
            options |= {"padding": True, "padding_side": self._side}
        found: Mapping[str, Any] = self._processor(
            images=self._images,
            text=[prompt.marked.text for prompt in self._prompts],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            **options,
        )
        return found

    def prepared(self) -> list[MarkedText]:
        """Return the texts as the processor completes them before it replaces placeholders.

        Some put tokens of their own between images and text. Marks are followed by sentinels.
        """
        marked = [prompt.marked for prompt in self._prompts]
        clean = self._completed([text.text for text in marked])
        if clean == [text.text for text in marked]:
            return marked
        marks = [
            [Mark(f"prompt {row}", text.text, span) for span in text.spans]
            for row, text in enumerate(marked)
        ]
        pairs = sum(map(len, marks))
        used = {*"".join([*clean, *(text.text for text in marked)])}
        sentinels = iter(unused(used, pairs))
        own = [[next(sentinels) for _ in range(2 * len(marks_here))] for marks_here in marks]
        edged = self._completed(
            [with_edges(text, iter(edges)) for text, edges in zip(marked, own, strict=True)]
        )
        return [
            located(text, with_edge, marks_here, edges, writer="the processor")
            for text, with_edge, marks_here, edges in zip(clean, edged, marks, own, strict=True)
        ]

    def _completed(self, texts: list[str]) -> list[str]:
        layout = self._processor.prepare_inputs_layout(images=self._images, text=texts)
        return list(layout[1])


def _reports(
    processor: Any,
    made: Mapping[str, Any],
    prompts: Sequence[ImagePrompt],
    texts: Sequence[MarkedText],
) -> list[list[Expansion]]:
    """Return what the processor wrote for each image of each prompt."""
    name = type(processor).__name__
    if not any(prompt.images for prompt in prompts):
        return [[] for _ in prompts]
    reports = made.get(_REPORT)
    if reports is None or len(reports) != len(prompts) or _CROSS in made:
        raise ValueError(
            f"the processor must report the text that it writes for an image, got a {name}, which "
            "does not, or whose images are no tokens of the text; mark text by guide_bias of your "
            "own, one number for each token"
        )
    found = []
    for row, (report, prompt, text) in enumerate(zip(reports, prompts, texts, strict=True)):
        for one in report:
            start, end = one["span"]
            if one["type"] != "image" or text.text[start:end] != one["text"]:
                raise _strange(name, row, f"reports {one['type']} at characters [{start}, {end})")
        if len(report) != len(prompt.images):
            raise _strange(name, row, f"reports {len(report)} of {len(prompt.images)} images")
        found.append(
            [Expansion(one["span"][0], one["span"][1], one["replacement"]) for one in report]
        )
    return found


def _ids(made: Mapping[str, Any], padding_side: str) -> list[list[int]]:
    """Return the tokens of each prompt, without padding.

    Raises:
        ValueError: If the padding is elsewhere, so that all that the processor made for each token
            would belong to another one.

    """
    ids, mask = made["input_ids"], made["attention_mask"].bool()
    tokens = mask.sum(1, keepdim=True)
    place = torch.arange(mask.shape[1])
    wanted = place >= mask.shape[1] - tokens if padding_side == "left" else place < tokens
    if not torch.equal(mask, wanted):
        raise ValueError(
            f"the processor must pad on the {padding_side}, got padding elsewhere; encode the "
            "prompts one by one"
        )
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def _encoding(
    words: Any, text: MarkedText, report: Sequence[Expansion], ids: Sequence[int], *, begins: bool
) -> tuple[bool, Encoding]:
    """Return the tokens of a prompt, and whether special ones are added.

    Processors decide for themselves whether they add any, so both ways are tried.
    """
    for adds in (False,) if begins else (False, True):
        encoding = encode_expanded(words, text, report, add_special_tokens=adds)
        if encoding.input_ids == ids:
            break
    return adds, encoding


def _require_same(processor: Any, encoding: Encoding, ids: Sequence[int], row: int) -> None:
    """Raise ValueError if a processor's tokens are not those of the text."""
    wanted = encoding.input_ids
    if wanted == ids:
        return
    pairs = enumerate(zip(wanted, ids, strict=False))
    shorter = min(len(wanted), len(ids))
    place = next((index for index, (one, other) in pairs if one != other), shorter)
    name = processor.tokenizer.convert_ids_to_tokens
    raise _strange(
        type(processor).__name__,
        row,
        f"makes other tokens than its tokenizer makes of the same text: at token {place} "
        f"{name(list(ids[place : place + 3]))} instead of {name(wanted[place : place + 3])}",
    )


def _strange(processor: str, row: int, what: str) -> ValueError:
    return ValueError(
        "the processor must write each image in the place of its placeholder and nothing else, got "
        f"a {processor} that {what}, in prompt {row}; marks cannot be followed: mark text by "
        "guide_bias of your own, one number for each token"
    )


def _tensors(name: str, value: Any) -> Any:
    """Return a tensor or a list of tensors as it is; refuse what no device can hold."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(
            f"the processor must return tensors, got {name} as a {type(value).__name__} of "
            f"{type(parts[0]).__name__ if parts else 'nothing'}"
        )
    return value
