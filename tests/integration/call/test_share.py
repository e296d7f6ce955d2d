# SPDX-License-Identifier: MIT
"""guide_share: every row of every head of a model gives marked tokens a stated share."""

import math

import pytest
import torch
from models import DENSE, ZOO, assert_logits_close, generation, logits, make, prompts
from share_reference import put_under

from guide_ext import integration as guide

SHARE = 0.4
TOKENS = 9


def share_of(rows=2, tokens=TOKENS, least=SHARE):
    """Two tokens of the first row, one of the last."""
    share = torch.zeros(rows, tokens)
    share[0, 4:6] = least
    share[-1, 1] = least
    return share


@pytest.fixture(params=ZOO)
def architecture(request):
    return request.param


@pytest.fixture
def reference(architecture):
    """A model under the reference, without any cache."""
    return lambda share: put_under(make(architecture), share)


def test_forward(architecture, reference):
    inputs, share = prompts(), share_of()
    wanted = logits(reference(share), inputs)
    model = guide.enable(make(architecture))
    found = logits(model, inputs, guide_share=share)
    assert_logits_close(found, wanted, inputs["attention_mask"])
    plain = logits(model, inputs)
    assert (found - plain)[inputs["attention_mask"].bool()].abs().max() > 1e-3
    assert torch.equal(logits(model, inputs), plain)


def test_first_tokens_marked(architecture, reference):
    """Rows that see marked tokens alone; in gpt-oss a sink stands beside them."""
    inputs, share = prompts(), torch.zeros(2, TOKENS)
    share[0, 3:6] = 0.9  # after 3 of padding
    share[1, :4] = 0.9
    wanted = logits(reference(share), inputs)
    found = logits(guide.enable(make(architecture)), inputs, guide_share=share)
    assert_logits_close(found, wanted, inputs["attention_mask"])


@pytest.mark.parametrize("way", [{}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}])
def test_generate(architecture, reference, way):
    inputs, share = prompts(), share_of()
    wanted = generation(reference(share), inputs, use_cache=False, max_new_tokens=4)
    model = guide.enable(make(architecture))
    found = generation(model, {**inputs, "guide_share": share}, max_new_tokens=4, **way)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    for one, other in zip(found.logits, wanted.logits, strict=True):
        assert_logits_close(one, other)


def test_influence_of_the_raised_share(architecture):
    inputs, share = prompts(), share_of()
    model = guide.enable(make(architecture))
    marked = {**inputs, "guide_share": share, "guide_seed": (share > 0).float()[:, None]}
    found = guide.influence(model, marked, form="raw", by_head=True).by_head
    sees = found > 0
    assert sees.any()
    if architecture != "gpt2":
        assert found[sees].min() > SHARE - 1e-5


def test_encode():
    model, tokenizer = guide.load_embedded()
    texts = ["Summarize <!!->in French<-!!>: the cat", "the <!->cat<-!>"]
    inputs = guide.encode(model, tokenizer, texts, min_share=0.25)
    assert "guide_bias" not in inputs
    levels = guide.encode(model, tokenizer, texts, delta=1.0)["guide_bias"]
    assert torch.equal(inputs["guide_share"], 0.25 * (levels > 0))
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2
    with pytest.raises(ValueError, match="min_share must come without delta"):
        guide.encode(model, tokenizer, texts, min_share=0.25, delta=1.0)
    for wrong in (1.0, "0.3", [0.3], True, math.nan, torch.tensor([0.3, 0.4])):
        with pytest.raises(ValueError, match=r"min_share must be a number from 0 to below 1, got"):
            guide.encode(model, tokenizer, texts, min_share=wrong)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (torch.ones(2, TOKENS, dtype=torch.long), "guide_share must be a floating-point tensor"),
        (torch.zeros(2, TOKENS - 1), "guide_bias must be"),
        (share_of(least=1.0), "guide_share must be one number from 0 to below 1"),
        (share_of(least=-0.5), "guide_share must be one number from 0 to below 1"),
        (share_of() + torch.eye(2, TOKENS) / 8, "guide_share must be one number"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_refusals(share, message, call):
    model, inputs = guide.enable(make("llama")), {**prompts(), "guide_share": share}
    run = model if call == "forward" else model.generate
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        run(**inputs)


@pytest.mark.parametrize("name", DENSE)
def test_models_with_dense_masks(name):
    model = guide.enable(make(name))
    with pytest.raises(ValueError, match="guide_share must go to a model that leaves its mask"):
        logits(model, prompts(), guide_share=share_of())
