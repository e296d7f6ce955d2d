# SPDX-License-Identifier: MIT
"""Measure the Influence of one prompt, plain and guided, as a record of plain data.

`guide_ext.influence.record` describes the record.
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
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.influence.measure import generate_with_influence
from guide_ext.integration.inputs import encode
from guide_ext.integration.model.state import refuse_two_texts, table_size
from guide_ext.integration.streaming import AnswerStream
from guide_ext.integration.token_texts import token_texts as token_texts
from guide_ext.machine.facts import machine_facts
from guide_ext.marking.chat import Chat, encode_chat
from guide_ext.marking.spans import DEFAULT_GROUP, MarkedText, Span, parse
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.support.version import VERSION

END_TOKENS = 10  # the paper predicts from the mean over this many tokens at the end of a prompt
_NOTHING_MARKED = (
    "prompt must mark the text whose Influence is wanted: <?-> ... <-?> measures, <!!-> ... <-!!> "
    "steers and measures; got no mark"
)


def check_marked(*texts: str | None) -> None:
    """Check that some text has a mark, so that no model is loaded in vain.

    Args:
        *texts: Texts with tags; None is skipped.

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
    on_values: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Answer a prompt twice, plain and guided, and measure the Influence of its marks in both runs.

    The groups are those of ``<?name-> ... <-?name>``. A prompt without such tags gets one group,
    ``"marked"``, of all text whose marks steer.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: Text with tags or a `MarkedText`, which gets no chat template; a chat, which the
            template renders; or an `Encoding`.
        delta: Δ of a level-2 mark in the guided run, nats. In the plain run no mark steers, not
            even one that states its own Δ.
        form: Name of the recursion, see `guide_ext.influence.form_named`.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, the same for both runs.
        model_name: Name of the model in the record; None for the name in its configuration.
        on_token: Called after every token with the name of the run and the number of tokens of its
            answer so far.
        on_values: Called after every token with the name of the run and the Influence of the tokens
            that were read since, ``[1, layers + 1, groups, tokens]``, the prompt first.

    Returns:
        A JSON-ready record, see `guide_ext.influence.record`.

    Raises:
        TagError: If a tag cannot be read.
        ValueError: If nothing is marked, an argument is out of range, or the prompt has more tokens
            than the model knows positions; or the model is an encoder–decoder, which
            `generate_with_influence` measures.
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
    table_size(model)  # raises if the model is not enabled
    refuse_two_texts(model, "a record, which has one row of tokens,")
    require_text("measure_prompt()", tokenizer, prompt)
    encoding = watched(as_encoding(tokenizer, prompt))
    inputs = encode(model, tokenizer, encoding, delta=delta)
    tokens, seeds = inputs["input_ids"].shape[1], PromptSeeds(seed).of(inputs)
    nats = encoding.nats(delta)
    ways: list[tuple[str, float, Mapping[str, Any]]] = [(PLAIN, 0.0, unsteered(inputs))]
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
            model,
            given,
            form=form,
            groups=inputs.groups,
            on_values=None if on_values is None else partial(on_values, name),
            **decoding,
        )
        run = Run(name, strength, sequences[0], measured)
        runs.append(run.described(tokenizer))
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return record_of(
        model, tokenizer, encoding, runs, inputs.groups, delta, form, settings, model_name
    )


def record_of(
    model: Any,
    tokenizer: Any,
    encoding: Encoding,
    runs: Sequence[Mapping[str, Any]],
    groups: Sequence[str],
    delta: float,
    form: str,
    settings: Mapping[str, Any],
    model_name: str | None,
) -> dict[str, Any]:
    """Return the record of runs that are described already.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        encoding: The prompt.
        runs: What `Run.described` returned, the plain one first.
        groups: Names of the groups.
        delta: Δ of the guided run, nats.
        form: Name of the recursion.
        settings: How the answers were decoded.
        model_name: See `measure_prompt`.

    """
    return {
        "kind": KIND,
        "format": FORMAT,
        "model": _name_of(model) if model_name is None else model_name,
        "settings": {"delta": delta, "form": form, **settings, "end_tokens": END_TOKENS},
        "groups": list(groups),
        "layers": len(runs[0]["values"][0]) - 1,
        "prompt": {
            "text": encoding.text,
            "tokens": described_tokens(tokenizer, encoding.input_ids),
            "nats": encoding.nats(delta),
            "groups": encoding.groups(),
        },
        "runs": list(runs),
        "versions": _versions(),
        "machine": machine_facts(),
    }


def unsteered(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs without what steers; the groups to measure stay."""
    return {
        name: value
        for name, value in inputs.items()
        if name == "guide_seed" or not name.startswith("guide_")
    }


def _versions() -> dict[str, str]:
    return {
        "guide_ext": VERSION,
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Run:
    """One run: prompt and answer as one sequence, ``[tokens]``, and its Influence (one row)."""

    name: str
    delta: float
    sequence: Tensor
    measured: Influence

    def described(self, tokenizer: Any) -> dict[str, Any]:
        """Return the run as it stands in a record."""
        ids = self.sequence.tolist()
        prompt_tokens = self.measured.prompt_tokens
        levels = self.measured.values[0].transpose(0, 1)  # [groups, levels, tokens]
        missing = [None] * (len(ids) - levels.shape[2])
        values = [[[*map(_rounded, row), *missing] for row in group] for group in levels.tolist()]
        at_end = self.measured.at_end_of_prompt(END_TOKENS)[0].tolist()
        last = levels[:, -1, prompt_tokens:]
        answer = last.mean(-1).tolist() if last.shape[1] else [None] * len(at_end)
        new = ids[prompt_tokens:]
        # The text of a token depends on those before it, so the whole sequence is decoded.
        return {
            "name": self.name,
            "delta": self.delta,
            "answer": tokenizer.decode(new, skip_special_tokens=True).strip(),
            "tokens": described_tokens(tokenizer, ids)[prompt_tokens:],
            "values": values,
            "summary": [
                {"group": group, "end_of_prompt": _rounded(end), "answer": _rounded(mean)}
                for group, end, mean in zip(self.measured.groups, at_end, answer, strict=True)
            ],
        }


def _rounded(value: float | None) -> float | None:
    """Round to six digits; return None for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def as_encoding(tokenizer: Any, prompt: str | MarkedText | Chat | Encoding) -> Encoding:
    """Return a prompt as tokens and marks."""
    if isinstance(prompt, Encoding):
        return prompt
    if isinstance(prompt, str | MarkedText):
        return encode_text(tokenizer, prompt)
    return encode_chat(tokenizer, prompt)


def watched(encoding: Encoding) -> Encoding:
    """Return the prompt with at least one group to measure.

    Raises:
        ValueError: If nothing is marked.

    """
    if encoding.groups():
        return encoding
    if not encoding.token_spans:
        raise ValueError(_NOTHING_MARKED)
    watched = [Span(span.start, span.end, group=DEFAULT_GROUP) for span in encoding.token_spans]
    return replace(encoding, token_spans=(*encoding.token_spans, *watched))


def described_tokens(
    tokenizer: Any, ids: Sequence[int], texts: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return id, name, text and kind of every token, as they stand in a record.

    Args:
        tokenizer: The tokenizer.
        ids: The tokens.
        texts: What each adds to the text, where that is known.

    """
    texts = token_texts(tokenizer, ids) if texts is None else texts
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        {"id": index, "token": str(name), "text": text, "special": index in special}
        for index, name, text in zip(ids, names, texts, strict=True)
    ]


def _name_of(model: Any) -> str:
    """Return the name of a model: a hub id as it is, an absolute path without its parents."""
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return os.path.basename(os.path.normpath(name)) if os.path.isabs(name) else name
