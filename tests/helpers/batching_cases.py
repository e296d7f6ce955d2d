# SPDX-License-Identifier: MIT
"""Requests to continuous batching, and the log-probabilities that their answers must have."""

import models
import torch
from tolerance import MODEL_LOGITS
from transformers import ContinuousBatchingConfig, GenerationConfig

NEW = 7
LENGTHS = (14, 6, 1, 11, 14)
# A window of 5 and steps of 10 tokens: prompts longer than both.
SMALL = {"page_size": 4, "num_blocks": 64, "max_batch_tokens": 10}


def settings(answer=None, **batching):
    """Arguments of `generate_batch` that make it greedy, small and talkative."""
    config = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    return {
        "generation_config": GenerationConfig(**{**config, **(answer or {})}),
        "continuous_batching_config": ContinuousBatchingConfig(
            **{**SMALL, "return_logprobs": True, **batching}
        ),
    }


def prompts(lengths=LENGTHS):
    """Prompts that begin alike, so that caches could be mistaken for each other."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, models.VOCABULARY, (max(lengths),), generator=generator).tolist()
    return [ids[:length] for length in lengths]


def biases(texts):
    """For each another Δ at other places; the second is unsteered."""
    found = []
    for index, ids in enumerate(texts):
        bias = torch.zeros(len(ids))
        bias[len(ids) // 3 : len(ids) // 2 + 1] = (2.0, 0.0, 1.0, -2.5, 1.5)[index % 5]
        bias[0] = 0.5
        found.append(None if index == 1 else bias)
    return found


def log_probabilities(model, ids, answer, bias=None, strength=None, temperature=1.0):
    """Those of the tokens of an answer, and the largest logit, by eager attention alone."""
    text = torch.tensor([ids + answer])
    nats = torch.zeros(1, text.shape[1])
    if bias is not None:
        nats[0, : len(ids)] = torch.as_tensor(bias)
    strength = None if strength is None else strength[None]
    logits = models.reference_logits(model, {"input_ids": text}, nats, strength)[0]
    behind = (logits[len(ids) - 1 : -1] / temperature).log_softmax(-1)
    return behind.gather(1, text[0, len(ids) :, None])[:, 0], logits.abs().max().item()


def difference(model, result, ids, bias=None, **how):
    """How far the log-probabilities of a result are off, in units of what is allowed."""
    assert result.error is None
    assert result.prompt_ids == ids
    assert len(result.logprobs) == len(result.generated_tokens)
    wanted, scale = log_probabilities(model, ids, result.generated_tokens, bias, **how)
    found = torch.tensor(result.logprobs)
    return (found - wanted).abs().max().item() / (MODEL_LOGITS * scale)
