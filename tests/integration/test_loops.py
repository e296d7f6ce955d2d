# SPDX-License-Identifier: MIT
"""Modes that are no part of transformers any more, as loops of one's own, against eager attention.

Each loop runs twice: under the reference without a cache, and steered with one.
"""

from __future__ import annotations

import models
import pytest
import torch
from models import CACHE
from transformers.generation import GenerateDecoderOnlyOutput

import guide_ext.integration as guide

STEPS = 4


def contrastive(model, input_ids, *, alpha=0.5, candidates=3, **kwargs):
    """Of the likeliest tokens, take the one whose hidden state is least like those before."""
    tokens, scores = input_ids, []
    logits, seen = step(model, tokens, kwargs, first=True)
    for _ in range(STEPS):
        scores.append(logits)
        probabilities, likely = logits.softmax(-1).topk(candidates)
        wide = {
            name: value.repeat_interleave(candidates, 0) if torch.is_tensor(value) else value
            for name, value in kwargs.items()
        }
        cache = kwargs.get(CACHE)
        if cache is not None:
            cache.batch_repeat_interleave(candidates)
        tried = torch.cat([tokens.repeat_interleave(candidates, 0), likely.view(-1, 1)], 1)
        lengthen(wide)
        next_logits, states = step(model, tried, wide)
        likeness = torch.cosine_similarity(
            states[:, -1:], seen.repeat_interleave(candidates, 0), dim=-1
        ).amax(1)
        best = ((1 - alpha) * probabilities - alpha * likeness.view_as(probabilities)).argmax(1)
        rows = torch.arange(len(tokens)) * candidates + best
        if cache is not None:
            cache.batch_select_indices(rows)
        tokens, logits = tried[rows], next_logits[rows]
        seen = torch.cat([seen, states[rows, -1:]], 1)
        lengthen(kwargs)
    return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(scores))


def dola(model, input_ids, **kwargs):
    """Subtract what the first layer would say."""
    tokens, scores = input_ids, []
    for index in range(STEPS):
        inputs = prepared(model, tokens, kwargs, first=index == 0)
        output = model(**inputs, output_hidden_states=True)
        early = model.lm_head(model.model.norm(output.hidden_states[1][:, -1]))
        logits = output.logits[:, -1].log_softmax(-1) - early.log_softmax(-1)
        scores.append(logits)
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        lengthen(kwargs)
    return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(scores))


def diverse(model, input_ids, *, groups=2, penalty=4.0, **kwargs):
    """Groups of one beam: a token that an earlier group chose in this step costs something."""
    tokens, scores = input_ids, []
    wide = {
        name: value.repeat_interleave(groups, 0) if torch.is_tensor(value) else value
        for name, value in kwargs.items()
    }
    tokens = tokens.repeat_interleave(groups, 0)
    for index in range(STEPS):
        logits, _ = step(model, tokens, wide, first=index == 0)
        logits = logits.log_softmax(-1).view(-1, groups, logits.shape[-1])
        for group in range(1, groups):
            chosen = logits[:, :group].argmax(-1)
            logits[:, group].scatter_add_(1, chosen, torch.full(chosen.shape, -penalty))
        logits = logits.flatten(0, 1)
        scores.append(logits)
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        lengthen(wide)
    return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(scores))


def prepared(model, tokens, kwargs, *, first):
    mask = kwargs["attention_mask"]
    has_cache = kwargs.get("use_cache") is not False
    return model.prepare_inputs_for_generation(
        tokens,
        next_sequence_length=None if first or not has_cache else 1,
        is_first_iteration=first,
        **{**kwargs, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)},
    )


def step(model, tokens, kwargs, first=False):
    """Return logits of the last token and the states of all tokens of the call."""
    inputs = prepared(model, tokens, kwargs, first=first)
    output = model(**inputs, output_hidden_states=True)
    return output.logits[:, -1], output.hidden_states[-1]


def lengthen(kwargs):
    mask = kwargs["attention_mask"]
    kwargs["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)


def as_custom(loop):
    """A function for `custom_generate`."""

    def run(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        for name in ("synced_gpus", "streamer", "position_ids"):
            kwargs.pop(name, None)
        kwargs["attention_mask"] = torch.ones_like(
            input_ids
        )  # generate() drops one without padding
        return loop(model, input_ids, **kwargs)

    return run


LOOPS = {"contrastive": contrastive, "dola": dola, "diverse": diverse}


@pytest.mark.parametrize("name", LOOPS)
def test_equals_eager(name):
    inputs, bias = models.prompts(padding=0), models.marks()
    run = as_custom(LOOPS[name])
    wanted = models.reference_generation(models.shared("llama"), inputs, bias, custom_generate=run)
    model = guide.enable(models.make("llama"))
    found = models.generation(model, {**inputs, "guide_bias": bias}, custom_generate=run)
    models.assert_same_generation(found, wanted)
    unsteered = models.generation(model, inputs, custom_generate=run)
    with pytest.raises(AssertionError):
        models.assert_same_generation(unsteered, wanted)


def test_contrastive_loop_that_forgets_its_rows():
    """As the loop on the hub does: it repeats the cache, and not what it does not know."""

    def forgetful(model, input_ids, **kwargs):
        logits, _ = step(model, input_ids, kwargs, first=True)
        kwargs[CACHE].batch_repeat_interleave(3)
        tried = torch.cat([input_ids.repeat_interleave(3, 0), logits.topk(3)[1].view(-1, 1)], 1)
        kwargs["attention_mask"] = kwargs["attention_mask"].repeat_interleave(3, 0)
        lengthen(kwargs)
        return step(model, tried, kwargs)

    model = guide.enable(models.make("llama"))
    inputs = {**models.prompts(padding=0), "guide_bias": models.marks()}
    with pytest.raises(ValueError, match=r"guide_bias must be \[batch, tokens\] with 6 row"):
        model.generate(**inputs, custom_generate=as_custom(forgetful))


def test_loop_that_takes_another_cache():
    """One that was filled without the bias, in a generation that has checked its own."""
    model = guide.enable(models.make("llama"))
    inputs = models.prompts(padding=0)
    with torch.no_grad():
        other = model(**inputs)[CACHE]

    def swapping(model, input_ids, **kwargs):
        logits, _ = step(model, input_ids, kwargs, first=True)
        tokens = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], 1)
        lengthen(kwargs)
        return step(model, tokens, {**kwargs, CACHE: other})

    with pytest.raises(ValueError, match="guide_bias must leave the tokens in the cache the bias"):
        model.generate(**inputs, guide_bias=models.marks(), custom_generate=as_custom(swapping))


CONSTRAINTS = {
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda row, ids: range(9 + row, 40 + row)},
    "allowed tokens of beams": {
        "num_beams": 3,
        "prefix_allowed_tokens_fn": lambda row, ids: range(9 + row, 40 + row),
    },
    "penalties": {
        "sequence_bias": {(5,): 3.0},
        "bad_words_ids": [[7]],
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
    },
    "cut-offs": {"do_sample": True, "min_p": 0.05, "typical_p": 0.9, "top_k": 9},
}


@pytest.mark.parametrize("options", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constrained_decoding(options):
    inputs, bias = models.prompts(), models.marks()
    wanted = models.reference_generation(models.shared("llama"), inputs, bias, **options)
    model = guide.enable(models.make("llama"))
    found = models.generation(model, {**inputs, "guide_bias": bias}, **options)
    models.assert_same_generation(found, wanted)


def test_early_exit():
    """The first layer drafts, steered; the whole model decides."""
    inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
    wanted = models.reference_generation(models.shared("llama"), inputs, bias)
    model = guide.enable(models.make("llama"))
    given = {**inputs, "guide_bias": bias}
    found = models.generation(model, given, assistant_early_exit=1)
    assert found.sequences.tolist() == wanted.sequences.tolist()


def test_guidance_over_several_steps():
    """The pass without the prompt has a cache of its own, which no bias fills."""
    inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
    negative = models.prompts(rows=1, tokens=5, padding=0, seed=4)["input_ids"]
    model = guide.enable(models.make("llama"))
    settings = {"do_sample": False, "guidance_scale": 1.5, "max_new_tokens": 3}
    found = model.generate(
        **inputs, guide_bias=bias, negative_prompt_ids=negative, **settings,
        return_dict_in_generate=True, output_scores=True, pad_token_id=0,
    )  # fmt: skip
    for index in range(3):
        new = found.sequences[:, 9 : 9 + index]
        whole = torch.cat([inputs["input_ids"], new], 1)
        with_prompt = models.reference_logits(
            models.shared("llama"), {"input_ids": whole, "attention_mask": torch.ones_like(whole)},
            bias,
        )[:, -1].log_softmax(-1)  # fmt: skip
        with torch.no_grad():
            without = models.shared("llama")(torch.cat([negative, new], 1)).logits[:, -1]
        without = without.log_softmax(-1)
        models.assert_logits_close(found.scores[index], 1.5 * (with_prompt - without) + without)
