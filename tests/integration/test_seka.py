# SPDX-License-Identifier: MIT
"""SEKA: projections and edited keys, beside plain code that edits keys after their rotation."""

import math
import threading

import encoder_decoders as zoo
import models
import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import guide_ext.integration as guide
from guide_ext.integration.answers import answers_of
from guide_ext.integration.seka import _editing, _key_places, _keys
from guide_ext.steering.seka import KeyProjections, fit_projections
from guide_ext.steering.steering import Steering

TEXTS = [
    "Once the baker hides the key. <!!->The secret word of Tom is banana.<-!!> The cat sleeps.",
    "<!->Summarize in French<-!>: the dog eats <!!!->the bread<-!!!>.",
]
FACTS = ["Now <!!->the cat sleeps<-!!> in the mill.", "In the garden <!!->Tom eats bread<-!!>."]
TRIPLES = [
    (text, f"{right} {text}", f"{wrong} {text}")
    for text, right, wrong in zip(
        FACTS, ("Who sleeps?", "Who eats?"), ("Where is the king?", "What is blue?"), strict=True
    )
]
STEPS = 6


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def projections(loaded):
    return guide.fit_seka(*loaded, TRIPLES)


def plain_keys(model, ids):
    """Return keys before their rotation, [layers, heads, tokens, features], by hand."""
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        found = []
        for layer, state in zip(model.model.layers, states, strict=False):
            keys = layer.self_attn.k_proj(layer.input_layernorm(state))[0]
            heads = model.config.num_key_value_heads
            found.append(keys.view(len(keys), heads, -1).transpose(0, 1))
    return torch.stack(found).double().numpy()


def test_projections_beside_plain_code(loaded, projections):
    model, tokenizer = loaded
    parts = [[], [], []]
    for triple in TRIPLES:
        for found, prompt in zip(parts, triple, strict=True):
            inputs = guide.encode(model, tokenizer, prompt, delta=1.0)
            marked = (inputs["guide_bias"][0] != 0).numpy()
            found.append(plain_keys(model, inputs["input_ids"])[:, :, marked])
    neutral, relevant, irrelevant = (np.concatenate(part, 2) for part in parts)
    layers, heads = projections.shifts.shape
    for layer in range(layers):
        for head in range(heads):
            h, right, wrong = (x[layer, head] for x in (neutral, relevant, irrelevant))
            for other, own, keep in (
                (right, projections.positive, lambda u, k: u[:, :k]),
                (wrong, projections.negative, lambda u, k: u[:, k:]),
            ):
                u, values, _ = np.linalg.svd(h.T @ other / len(h))
                count = int((np.cumsum(values) / values.sum() < 0.9 - 1e-9).sum()) + 1
                basis = keep(u, count)
                np.testing.assert_allclose(own[layer, head].numpy(), basis @ basis.T, atol=2e-3)
            shift = np.sqrt(((right - wrong) ** 2).sum(-1)).mean()
            assert projections.shifts[layer, head].item() == pytest.approx(shift, rel=1e-3)


def test_heads_that_hardly_move_get_no_projection():
    keys = [torch.randn(2, 3, 5, 4) for _ in range(3)]
    keys[1][0, 1] = keys[2][0, 1]
    found = fit_projections(*keys, min_shift=0.1)
    assert not found.positive[0, 1].any()
    assert not found.negative[0, 1].any()
    assert found.positive[1, 1].any()
    assert found.shifts[0, 1] == 0


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def by_plain_code(loaded, prompt, projections, positive, negative, bias=None):
    """Write greedily; every step reads the whole text under eager attention with edited keys."""
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, prompt, delta=1.0)
    ids, marked = inputs["input_ids"], inputs["guide_bias"] != 0

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        tokens = key.shape[2]
        cos, sin = model.model.rotary_emb(value, torch.arange(tokens)[None])
        matrix = (
            positive * projections.positive[module.layer_idx]
            + negative * projections.negative[module.layer_idx]
        )
        bare = rotated(key, cos, -sin)
        edited = rotated(bare + bare @ matrix[None], cos, sin)
        here = torch.nn.functional.pad(marked, (0, tokens - marked.shape[1]))[:, None, :, None]
        key = torch.where(here, edited, key)
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        score = query @ key.mT * scaling + attention_mask
        if bias is not None:
            score = score + here.squeeze(-1)[:, :, None] * bias
        return (score.softmax(-1) @ value).transpose(1, 2), None

    AttentionMaskInterface.register("plain_seka", eager_mask)
    AttentionInterface.register("plain_seka", attend)
    before = model.config._attn_implementation
    model.set_attn_implementation("plain_seka")
    logits = []
    try:
        for _step in range(STEPS):
            with torch.no_grad():
                found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
            logits.append(found)
            ids = torch.cat([ids, found.argmax(-1, keepdim=True)], 1)
    finally:
        model.set_attn_implementation(before)
    return torch.stack(logits, 1)[0], ids[0, -STEPS:]


def up_to_the_end(tokenizer, tokens):
    """Return tokens with the first that ends a text as their last."""
    ends = [*tokens, tokenizer.eos_token_id].index(tokenizer.eos_token_id)
    return tokens[: ends + 1]


def logits_of(loaded, prompts, projections, positive, negative, steering):
    model, tokenizer = loaded
    with _editing(model, _key_places(model), projections, positive, negative) as expect:
        inputs = guide.encode(model, tokenizer, prompts, steering=steering)
        marked = guide.encode(model, tokenizer, prompts, delta=1.0)["guide_bias"] != 0
        expect(inputs["input_ids"], marked)
        output = models.generation(model, inputs, max_new_tokens=STEPS)
    return torch.stack(output.logits, 1), output.sequences[:, -STEPS:]


@pytest.mark.parametrize("gains", [(1.5, 0.0), (0.5, -0.7)])
@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_every_step_beside_plain_code(loaded, projections, gains, delta):
    prompts = [guide.as_prompt(loaded[1], text) for text in TEXTS]
    steering = Steering.instaboost(math.exp(delta)) if delta else Steering.guide(0.0)
    found, tokens = logits_of(loaded, prompts, projections, *gains, steering)
    for row, prompt in enumerate(prompts):
        wanted, written = by_plain_code(loaded, prompt, projections, *gains, delta or None)
        steps = up_to_the_end(loaded[1], written.tolist())
        assert len(steps) > 1
        models.assert_logits_close(found[row, : len(steps)], wanted[: len(steps)])
        assert tokens[row, : len(steps)].tolist() == steps
    unedited, _ = logits_of(loaded, prompts, projections, 0.0, 0.0, steering)
    assert (found[:, 0] - unedited[:, 0]).abs().amax(-1).min() > 1e-2


def test_one_call_and_no_trace(loaded, projections):
    model, tokenizer = loaded
    prompts = [guide.as_prompt(tokenizer, text) for text in TEXTS]
    plain = guide.complete(model, tokenizer, prompts, delta=0.0, max_new_tokens=STEPS)
    how = {"positive": 6.0, "max_new_tokens": STEPS}
    found = guide.seka(model, tokenizer, prompts, projections, **how)
    for prompt, answer in zip(prompts, found, strict=True):
        _, written = by_plain_code(loaded, prompt, projections, 6.0, 0.0)
        steps = up_to_the_end(tokenizer, written.tolist())
        assert answer == tokenizer.decode(steps, skip_special_tokens=True)
    assert found != plain
    assert guide.seka(model, tokenizer, prompts, projections, batch_size=1, **how) == found
    assert guide.complete(model, tokenizer, prompts, delta=0.0, max_new_tokens=STEPS) == plain
    nothing = guide.seka(model, tokenizer, prompts, projections, positive=0.0, max_new_tokens=STEPS)
    assert nothing == plain


def test_prompts_of_one_length_are_told_apart(loaded, projections):
    model, tokenizer = loaded
    prompts = ["The dog sees <!!->the cat<-!!>.", "<!!->The cat<-!!> sees the dog."]
    lengths = {len(guide.encode(model, tokenizer, one)["input_ids"][0]) for one in prompts}
    assert len(lengths) == 1
    how = {"positive": 8.0, "max_new_tokens": 12}
    alone = [guide.seka(model, tokenizer, [one], projections, **how)[0] for one in prompts]
    found = guide.seka(model, tokenizer, prompts, projections, batch_size=1, **how)
    assert found == alone
    swapped = guide.seka(
        model, tokenizer, [prompts[0], "The cat sees <!!->the dog<-!!>."], projections, **how
    )
    assert swapped[1] != alone[1]  # where the mark stands matters here


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text", "gpt_oss", "phi"])
def test_where_keys_come_from(name):
    model = guide.enable(models.make(name))
    places = _key_places(model)
    assert len(places) == models.LAYERS
    ids = models.prompts(rows=1, padding=0)["input_ids"]
    keys = _keys(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, places)
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    held = [layer.keys[0] for layer in output[models.CACHE].layers]
    for own, wanted in zip(keys, held, strict=True):
        norms = own[:, -wanted.shape[1] :].norm(dim=-1)
        wanted = wanted.norm(dim=-1)
        norms = norms * (wanted.sum() / norms.sum())  # gpt_oss scales all keys alike
        torch.testing.assert_close(norms, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "how"),
    [("gpt2", {}), ("gpt_neox", {}), ("bloom", {}), ("phi", {"qk_layernorm": True})],
)
def test_models_whose_keys_cannot_be_edited(name, how):
    model = guide.enable(models.make(name, **how))
    with pytest.raises(ValueError, match=r"seka\(\) must go to a model"):
        _key_places(model)


def test_what_does_not_fit(loaded, projections):
    model, tokenizer = loaded
    call = (model, tokenizer)
    with pytest.raises(ValueError, match="triples must be at least one"):
        guide.fit_seka(*call, [])
    with pytest.raises(ValueError, match="triples must have three prompts, got 2 in 0"):
        guide.fit_seka(*call, [TRIPLES[0][:2]])
    with pytest.raises(ValueError, match="must mark the same tokens in all three prompts"):
        guide.fit_seka(*call, [(TRIPLES[0][0], TRIPLES[0][1], TRIPLES[1][2])])
    with pytest.raises(ValueError, match="must mark the same tokens"):
        guide.fit_seka(*call, [("a", "a", "a")])
    with pytest.raises(ValueError, match="variance must be above 0 and at most 1, got 0"):
        guide.fit_seka(*call, TRIPLES, variance=0)
    with pytest.raises(ValueError, match="must be keys of one shape"):
        fit_projections(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 2), torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match="positive must be a finite number"):
        guide.seka(*call, TEXTS, projections, positive=math.nan)
    other = KeyProjections(*(torch.zeros(1, 2, 32, 32) for _ in range(2)), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"projections must be .* = \[4, 2, 32\] of this model"):
        guide.seka(*call, TEXTS, other)
    bart = guide.enable(zoo.make("bart", vocab_size=1504))
    with pytest.raises(ValueError, match=r"seka\(\) must go to a model with one text"):
        guide.seka(bart, tokenizer, TEXTS, projections)


def test_other_threads_are_not_edited(loaded, projections):
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, TEXTS[0], delta=0.0)
    other = guide.encode(model, tokenizer, "Another text.", delta=0.0)
    marked = guide.encode(model, tokenizer, TEXTS[0], delta=1.0)["guide_bias"] != 0
    plain = models.logits(model, inputs)
    found = []
    with _editing(model, _key_places(model), projections, 3.0, 0.0) as expect:
        expect(inputs["input_ids"], marked)
        thread = threading.Thread(
            target=lambda: found.extend(models.logits(model, one) for one in (inputs, other))
        )
        thread.start()
        thread.join()
        edited = models.logits(model, inputs)
    assert torch.equal(found[0], plain)
    assert torch.equal(found[1], models.logits(model, other))
    assert (edited - plain).abs().max() > 1e-2
    assert torch.equal(models.logits(model, inputs), plain)


def test_a_module_of_several_layers_is_refused():
    model = models.make("llama")
    model.model.layers[1].self_attn.k_proj = model.model.layers[0].self_attn.k_proj
    with pytest.raises(ValueError, match="with one that serves several layers"):
        _key_places(guide.enable(model))


def test_a_prompt_that_was_not_announced_is_an_error(loaded, projections):
    model, tokenizer = loaded
    with (
        _editing(model, _key_places(model), projections, 1.0, 0.0),
        pytest.raises(RuntimeError, match="must see the whole prompt in one call"),
    ):
        answers_of(
            model, tokenizer, ["text"], lambda batch: guide.encode(model, tokenizer, batch),
            max_new_tokens=2, temperature=0.0, seed=0, batch_size=1,
        )  # fmt: skip
