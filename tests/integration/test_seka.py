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
from guide_ext.integration.keys import Editor, key_places, last_queries
from guide_ext.steering.seka import KeyProjections, Mixture, fit_projections
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


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def by_plain_code(loaded, prompt, matrices, bias=None):
    """Write greedily; every step reads the whole text under eager attention with edited keys.

    Matrices are [layers, heads, features, features]: keys k of marked tokens become k + matrix · k.
    """
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, prompt, delta=1.0)
    ids, marked = inputs["input_ids"], inputs["guide_bias"] != 0

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        tokens = key.shape[2]
        cos, sin = model.model.rotary_emb(value, torch.arange(tokens)[None])
        bare = rotated(key, cos, -sin)
        edited = rotated(bare + bare @ matrices[module.layer_idx].mT[None], cos, sin)
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

    def edit(layer, keys):
        return projections.edited(keys, layer, positive, negative)

    with Editor(model, key_places(model, "seka()"), "seka()").at_work() as editor:
        inputs = guide.encode(model, tokenizer, prompts, steering=steering)
        marked = guide.encode(model, tokenizer, prompts, delta=1.0)["guide_bias"] != 0
        editor.expect(inputs["input_ids"], marked, edit)
        output = models.generation(model, inputs, max_new_tokens=STEPS)
    return torch.stack(output.logits, 1), output.sequences[:, -STEPS:]


@pytest.mark.parametrize("gains", [(1.5, 0.0), (0.5, -0.7)])
@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_every_step_beside_plain_code(loaded, projections, gains, delta):
    prompts = [guide.as_prompt(loaded[1], text) for text in TEXTS]
    steering = Steering.instaboost(math.exp(delta)) if delta else Steering.guide(0.0)
    found, tokens = logits_of(loaded, prompts, projections, *gains, steering)
    for row, prompt in enumerate(prompts):
        matrices = gains[0] * projections.positive + gains[1] * projections.negative
        wanted, written = by_plain_code(loaded, prompt, matrices, delta or None)
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
        _, written = by_plain_code(loaded, prompt, 6.0 * projections.positive)
        steps = up_to_the_end(tokenizer, written.tolist())
        assert answer == tokenizer.decode(steps, skip_special_tokens=True)
    assert found != plain
    assert guide.seka(model, tokenizer, prompts, projections, batch_size=1, **how) == found
    assert guide.complete(model, tokenizer, prompts, delta=0.0, max_new_tokens=STEPS) == plain
    nothing = guide.seka(model, tokenizer, prompts, projections, positive=0.0, max_new_tokens=STEPS)
    assert nothing == plain


def test_the_same_words_with_other_marks(loaded, projections):
    model, tokenizer = loaded
    prompts = ["The dog sees <!!->the cat<-!!> here.", "<!!->The dog<-!!> sees the cat here."]
    how = {"positive": 8.0, "max_new_tokens": 12}
    first, second = (guide.seka(model, tokenizer, [one], projections, **how)[0] for one in prompts)
    assert first != second
    wanted = [first, second, first]
    found = guide.seka(model, tokenizer, [*prompts, prompts[0]], projections, batch_size=1, **how)
    assert found == wanted


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
    zeros = [torch.zeros(1, 2, 32, 32) for _ in range(3)]
    other = KeyProjections(*zeros[:2], torch.zeros(1, 2), zeros[2], torch.zeros(1, 2, 32))
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
    with Editor(model, key_places(model, "seka()"), "seka()").at_work() as editor:
        editor.expect(inputs["input_ids"], marked, lambda n, k: projections.edited(k, n, 3.0))
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


def test_a_prompt_that_was_not_announced_is_an_error(loaded, projections):
    model, tokenizer = loaded
    with (
        Editor(model, key_places(model, "seka()"), "seka()").at_work(),
        pytest.raises(RuntimeError, match="must see the whole prompt in one call"),
    ):
        answers_of(
            model, tokenizer, ["text"], lambda batch: guide.encode(model, tokenizer, batch),
            max_new_tokens=2, temperature=0.0, seed=0, batch_size=1,
        )  # fmt: skip


def strongest_by_hand(loaded, triples, top):
    """Return directions that point to neutral keys, and their values, by layer and head."""
    model, tokenizer = loaded
    parts = [[], []]
    for triple in triples:
        for found, prompt in zip(parts, triple[:2], strict=True):
            inputs = guide.encode(model, tokenizer, prompt, delta=1.0)
            marked = (inputs["guide_bias"][0] != 0).numpy()
            found.append(plain_keys(model, inputs["input_ids"])[:, :, marked])
    neutral, relevant = (np.concatenate(part, 2) for part in parts)
    found = {}
    for layer, head in np.ndindex(*neutral.shape[:2]):
        h, right = neutral[layer, head], relevant[layer, head]
        u, values, _ = np.linalg.svd(h.T @ right / len(h))
        flip = np.where((h @ u).mean(0) < 0, -1, 1)
        some = min(top, int((values > 1e-9 * values[0]).sum()))  # no more than there are tokens
        found[layer, head] = (u * flip)[:, :some], values[:some]
    return found


def mixed_by_hand(loaded, experts, prompt, top, bias=0.0):
    """Return AdaSEKA's matrix of each layer and head for one prompt, of whole matrices."""
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, prompt, delta=bias)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    known = [strongest_by_hand(loaded, triples, top) for triples in experts]
    config = model.config
    kv_heads, size = config.num_key_value_heads, config.head_dim
    matrices = torch.zeros(config.num_hidden_layers, kv_heads, size, size)
    weights = np.zeros((len(experts), *matrices.shape[:2]))
    for layer, (block, state) in enumerate(zip(model.model.layers, states, strict=False)):
        with torch.no_grad():
            query = block.self_attn.q_proj(block.input_layernorm(state[0, -1]))
        query = query.double().numpy().reshape(config.num_attention_heads, size)
        for head in range(kv_heads):
            group = config.num_attention_heads // kv_heads
            q = query[head * group : (head + 1) * group].mean(0)
            fits = [float(np.dot(q @ one[layer, head][0], one[layer, head][1])) for one in known]
            weights[:, layer, head] = np.array(fits) / max(abs(fit) for fit in fits)
            matrices[layer, head] = torch.tensor(
                sum(
                    weight * one[layer, head][0] @ one[layer, head][0].T
                    for weight, one in zip(weights[:, layer, head], known, strict=True)
                )
            )
    return matrices, weights


@pytest.fixture(scope="module")
def experts(loaded):
    return [guide.fit_seka(*loaded, [triple]) for triple in TRIPLES]


@pytest.mark.parametrize("delta", [0.0, 1.5])
@pytest.mark.parametrize("top", [2, 5])
def test_mixed_experts_beside_plain_code(loaded, experts, top, delta):
    model, tokenizer = loaded
    prompts = [guide.as_prompt(tokenizer, text) for text in TEXTS]
    mixture = Mixture(tuple(experts), top)
    places = key_places(model, "ada_seka()")
    steering = Steering.instaboost(math.exp(delta)) if delta else Steering.guide(0.0)
    inputs = guide.encode(model, tokenizer, prompts, steering=steering)
    marked = guide.encode(model, tokenizer, prompts, delta=1.0)["guide_bias"] != 0
    with Editor(model, places, "ada_seka()").at_work() as editor:
        with editor.at_rest():
            weights = mixture.weights(last_queries(model, inputs, places, "ada_seka()"))
        editor.expect(
            inputs["input_ids"], marked, lambda n, k: mixture.edited(k, n, weights[:, n], 0.9)
        )
        output = models.generation(model, inputs, max_new_tokens=STEPS)
    found, tokens = torch.stack(output.logits, 1), output.sequences[:, -STEPS:]
    for row, prompt in enumerate(prompts):
        text = guide.as_prompt(tokenizer, _of_level_two(TEXTS[row]))
        matrices, wanted = mixed_by_hand(loaded, [[one] for one in TRIPLES], text, top, delta)
        np.testing.assert_allclose(weights[:, :, row].numpy(), wanted, atol=1e-3)
        logits, written = by_plain_code(loaded, prompt, 0.9 * matrices, delta or None)
        steps = up_to_the_end(tokenizer, written.tolist())
        models.assert_logits_close(found[row, : len(steps)], logits[: len(steps)])
        assert tokens[row, : len(steps)].tolist() == steps
    assert weights.abs().amax(0).allclose(torch.ones(()))
    assert (weights.abs() < 0.99).any()


def _of_level_two(text):
    for tag in ("!!!", "!"):
        text = text.replace(f"<{tag}->", "<!!->").replace(f"<-{tag}>", "<-!!>")
    return text


def test_one_call_of_mixed_experts_and_no_trace(loaded, experts):
    model, tokenizer = loaded
    prompts = [guide.as_prompt(tokenizer, text) for text in TEXTS]
    how = {"gain": 4.0, "top": 3, "max_new_tokens": STEPS}
    plain = guide.complete(model, tokenizer, prompts, delta=0.0, max_new_tokens=STEPS)
    found = guide.ada_seka(model, tokenizer, prompts, experts, **how)
    for prompt, answer in zip(prompts, found, strict=True):
        matrices, _ = mixed_by_hand(loaded, [[one] for one in TRIPLES], prompt, 3)
        _, written = by_plain_code(loaded, prompt, 4.0 * matrices)
        steps = up_to_the_end(tokenizer, written.tolist())
        assert answer == tokenizer.decode(steps, skip_special_tokens=True)
    assert found != plain
    assert guide.ada_seka(model, tokenizer, prompts, experts, batch_size=1, **how) == found
    assert guide.complete(model, tokenizer, prompts, delta=0.0, max_new_tokens=STEPS) == plain
    nothing = guide.ada_seka(model, tokenizer, prompts, experts, gain=0, max_new_tokens=STEPS)
    assert nothing == plain


def test_experts_that_do_not_go_together(loaded, experts):
    call = (*loaded, TEXTS)
    with pytest.raises(ValueError, match="experts must be two or more, got 1"):
        guide.ada_seka(*call, experts[:1])
    with pytest.raises(ValueError, match="top must be a whole number from 1, got 0"):
        guide.ada_seka(*call, experts, top=0)
    with pytest.raises(ValueError, match="gain must be a finite number"):
        guide.ada_seka(*call, experts, gain=math.inf)
    small = fit_projections(*(torch.randn(1, 2, 5, 4) for _ in range(3)))
    with pytest.raises(ValueError, match="experts must be of one model, got projections of shapes"):
        guide.ada_seka(*call, [experts[0], small])
    with pytest.raises(ValueError, match=r"experts\[0\] must be .* = \[4, 2, 32\] of this model"):
        guide.ada_seka(*call, [small, small])
