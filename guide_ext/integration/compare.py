# SPDX-License-Identifier: MIT
"""The Influence of one prompt, plain and guided, as a record of plain data.

`guide_ext.influence.record` says what a record holds.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guide_ext.influence.forms import form_named
from guide_ext.influence.record import FORMAT, GUIDED, KIND, PLAIN
from guide_ext.influence.result import Influence
from guide_ext.integration.decoding import PromptSeeds, decoding_options
from guide_ext.integration.influence.measure import generate_with_influence
from guide_ext.integration.inputs import encode
from guide_ext.integration.streaming import AnswerStream
from guide_ext.machine.facts import machine_facts
from guide_ext.marking.chat import Chat, encode_chat
from guide_ext.marking.spans import DEFAULT_GROUP, MarkedText, Span, parse
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.support.version import VERSION

END_TOKENS = 10  # the mean at the end of a prompt that the paper predicts from
_NOTHING_MARKED = (
    "prompt must mark the text whose Influence is wanted: <?-> ... <-?> measures, <!!-> ... <-!!> "
    "steers and measures; got no mark"
)
# A character has at most four bytes and so at most four tokens; two more see what is around it.
_CONTEXT = 6


def check_marked(*texts: str | None) -> None:
    """Raise ValueError where no text has a mark, before anybody loads a model for nothing.

    Raises:
        ValueError: If nothing is marked.
        TagError: If a tag cannot be read.

    Example:
        >>> check_marked("<?->Be brief.<-?>", None)

    """
    if not any(parse(text).spans for text in texts if text is not None):
        raise ValueError(_NOTHING_MARKED)


def measure_prompt(
    model: Any,
    tokenizer: Any,
    prompt: str | MarkedText | Chat | Encoding,
    *,
    delta: float = 2.0,
    form: str = "paper",
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
    model_name: str | None = None,
    on_token: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Answer a prompt plainly and guided, and measure the Influence of its marks in both.

    Groups are those of ``<?name-> ... <-?name>``. A prompt without any gets one, ``"marked"``, of
    all text that it steers.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: Text with tags, taken as it stands; or a chat, which the template renders.
        delta: Δ of a level-2 mark in the guided run, nats. In the plain one no mark steers, not
            even one that states its own Δ.
        form: Which recursion: see `guide_ext.influence.form_named`.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, the same for both runs.
        model_name: What to call the model; None for the name in its configuration.
        on_token: Called after every token with the name of its run and the tokens of its answer.

    Returns:
        A JSON-ready record, see `guide_ext.influence.record`.

    Raises:
        TagError: If a tag cannot be read.
        ValueError: If nothing is marked, an argument is out of range, or the prompt has more tokens
            than the model knows positions.
        UnsupportedModelError: If what an attention layer adds to the residual stream cannot be
            found.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> model, tokenizer = load_embedded()
        >>> prompt = "<!!->Summarize in French<-!!>: the cat sleeps."
        >>> record = measure_prompt(model, tokenizer, prompt, delta=2.0, max_new_tokens=4)
        >>> record["groups"], [run["name"] for run in record["runs"]]
        (['marked'], ['plain', 'guided'])
        >>> values = record["runs"][1]["values"]  # [group][level][token]
        >>> len(values), len(values[0]) == model.config.num_hidden_layers + 1
        (1, True)

    """
    form_named(form)
    encoding = _watched(_encoded(tokenizer, prompt))
    inputs = encode(model, tokenizer, encoding, delta=delta)
    plain = {
        name: value
        for name, value in inputs.items()
        if name == "guide_seed" or not name.startswith("guide_")
    }
    tokens, seeds = inputs["input_ids"].shape[1], PromptSeeds(seed).of(inputs)
    nats = encoding.nats(delta)
    ways: list[tuple[str, float, Mapping[str, Any]]] = [(PLAIN, 0.0, plain)]
    if any(nats):
        ways.append((GUIDED, delta, inputs))
    runs = []
    for name, strength, given in ways:
        decoding = decoding_options(
            model, tokens, max_new_tokens, temperature, seeds=seeds, tokenizer=tokenizer
        )
        if on_token is not None:
            decoding["streamer"] = AnswerStream(on_token=partial(on_token, name))
        sequences, measured = generate_with_influence(
            model, given, form=form, groups=inputs.groups, **decoding
        )
        run = _Run(name, strength, sequences[0], measured)
        runs.append(run.described(tokenizer))
    return {
        "kind": KIND,
        "format": FORMAT,
        "model": _name_of(model) if model_name is None else model_name,
        "settings": {
            "delta": delta,
            "form": form,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "end_tokens": END_TOKENS,
        },
        "groups": list(inputs.groups),
        "layers": len(runs[0]["values"][0]) - 1,
        "prompt": {
            "text": encoding.text,
            "tokens": _described_tokens(tokenizer, encoding.input_ids),
            "nats": nats,
            "groups": encoding.groups(),
        },
        "runs": runs,
        "versions": {
            "guide_ext": VERSION,
            "torch": torch.__version__,
            "transformers": importlib.metadata.version("transformers"),
            "python": platform.python_version(),
        },
        "machine": machine_facts(),
    }


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text.

    Decoded one by one, tokens of many vocabularies lose their spaces and the bytes of characters
    that several tokens share. Here the last of them has the character and the others are empty.

    Args:
        tokenizer: The tokenizer.
        token_ids: Ids, special ones too.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> _, tokenizer = load_embedded()
        >>> token_texts(tokenizer, tokenizer("the cat")["input_ids"][-2:])
        ['the', ' cat']

    """
    found = []
    for index in range(len(token_ids)):
        start = max(0, index - _CONTEXT)
        before = _decode(tokenizer, token_ids[start:index])
        through = _decode(tokenizer, token_ids[start : index + 1])
        if through.startswith(before):
            found.append(through[len(before) :])
        else:
            alone = _decode(tokenizer, token_ids[index : index + 1])
            found.append(alone)
    return found


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Decode without the placeholder of a character whose bytes are not complete."""
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text.rstrip("\ufffd")


@dataclass(frozen=True)
class _Run:
    """One answer: whole sequence ``[tokens]`` and what was measured on it, a batch of one."""

    name: str
    delta: float
    sequence: Tensor
    measured: Influence

    def described(self, tokenizer: Any) -> dict[str, Any]:
        ids = self.sequence.tolist()
        prompt_tokens = self.measured.prompt_tokens
        levels = self.measured.values[0].transpose(0, 1)  # [groups, levels, tokens]
        missing = [None] * (len(ids) - levels.shape[2])
        values = [[[*map(_rounded, row), *missing] for row in group] for group in levels.tolist()]
        at_end = self.measured.at_end_of_prompt(END_TOKENS)[0].tolist()
        last = levels[:, -1, prompt_tokens:]
        answer = last.mean(-1).tolist() if last.shape[1] else [None] * len(at_end)
        new = ids[prompt_tokens:]
        # Texts depend on the tokens before them, so those of the answer come from the whole.
        return {
            "name": self.name,
            "delta": self.delta,
            "answer": tokenizer.decode(new, skip_special_tokens=True).strip(),
            "tokens": _described_tokens(tokenizer, ids)[prompt_tokens:],
            "values": values,
            "summary": [
                {"group": group, "end_of_prompt": _rounded(end), "answer": _rounded(mean)}
                for group, end, mean in zip(self.measured.groups, at_end, answer, strict=True)
            ],
        }


def _rounded(value: float | None) -> float | None:
    """Return six digits; None for what JSON cannot say, where a model computed NaN."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def _encoded(tokenizer: Any, prompt: str | MarkedText | Chat | Encoding) -> Encoding:
    if isinstance(prompt, Encoding):
        return prompt
    if isinstance(prompt, str | MarkedText):
        return encode_text(tokenizer, prompt)
    return encode_chat(tokenizer, prompt)


def _watched(encoding: Encoding) -> Encoding:
    """Return the prompt with a group to measure."""
    if encoding.groups():
        return encoding
    if not encoding.token_spans:
        raise ValueError(_NOTHING_MARKED)
    watched = [Span(span.start, span.end, group=DEFAULT_GROUP) for span in encoding.token_spans]
    return replace(encoding, token_spans=(*encoding.token_spans, *watched))


def _described_tokens(tokenizer: Any, ids: Sequence[int]) -> list[dict[str, Any]]:
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        {"id": index, "token": str(name), "text": text, "special": index in special}
        for index, name, text in zip(ids, names, token_texts(tokenizer, ids), strict=True)
    ]


def _name_of(model: Any) -> str:
    """Return a hub id as it is, and of a folder its own name alone."""
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return os.path.basename(os.path.normpath(name)) if os.path.isabs(name) else name
