# SPDX-License-Identifier: MIT
"""Where a token comes from, beside the whole matrices of transformers' own eager attention."""

import importlib

import encoder_decoders
import models
import pytest
import torch
from eager_calls import add_to_mask, changed
from models import DENSE, HEADS, LAYERS, VOCABULARY, ZOO, make, steered_eager
from tolerance import INFLUENCE

import guide_ext.integration as guide
from guide_ext.integration.sources import sources
from guide_ext.marking.spans import Span
from guide_ext.marking.tokens import Encoding
from guide_ext.steering.steering import Steering

TOKENS, NEW, DELTA = 14, 3, 1.5
TEXT = "<!!->Summarize in French<-!!>: The cat sleeps in the old mill."


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def marked(seed=1):
    """A prompt of ids that every tiny model knows, and an answer."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (TOKENS + NEW,), generator=drawn).tolist()
    spans = (Span(3, 6, level=2), Span(8, 9, delta=-1.0))
    return Encoding(ids[:TOKENS], [], "", spans, spans), ids[TOKENS:]


def whole_matrices(model, ids, bias, strength=None):
    """Return ``[layers, heads, tokens, tokens]`` of eager attention."""
    steered = steered_eager(model, bias, strength)
    if model.config.model_type in DENSE:  # it reads its mask before attention gets it
        factors = torch.ones(1, LAYERS, HEADS) if strength is None else strength
        steered = changed(
            lambda given: add_to_mask(
                given,
                bias[:, None, None] * factors[:, given["module"].layer_idx, :, None, None],
            )
        )
    with steered, torch.no_grad():
        found = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
    return torch.stack([one[0] for one in found.attentions])


@pytest.mark.parametrize("name", [*ZOO, *DENSE])
def test_beside_whole_matrices(name, loaded):
    """Grouped heads, windows, soft-caps, sinks, masks that a model reworks, strengths of heads."""
    encoding, answer = marked()
    ids = encoding.input_ids + answer
    bias = torch.tensor([encoding.nats(DELTA) + [0.0] * NEW])
    reference, model = make(name), guide.enable(make(name))
    every = whole_matrices(reference, ids, bias)
    for token in (1, 5, TOKENS - 1, TOKENS, -1):
        place = token % len(ids)
        for of, row in (("written", place - 1), ("read", place)):
            found = sources(model, loaded[1], encoding, answer, token=token, of=of, delta=DELTA)
            assert (found.token, found.row, found.prompt_tokens) == (place, row, TOKENS)
            wanted = every[:, :, row, : row + 1]
            assert found.weights.shape == wanted.shape
            assert (found.weights - wanted).abs().max() < INFLUENCE
            assert len(found.tokens) == row + 1
    strength = torch.ones(1, *guide.table_size(model))
    strength[0, 0], strength[0, 1, [0, 2]] = 0, 0
    some = Steering.guide(DELTA, heads={1: [1, 3]})
    found = sources(model, loaded[1], encoding, answer, steering=some)
    wanted = whole_matrices(reference, ids, bias, strength)[:, :, -2, :-1]
    assert (found.weights - wanted).abs().max() < INFLUENCE
    assert (wanted - every[:, :, -2, :-1]).abs().max() > 100 * INFLUENCE


def test_a_text_and_its_tokens(loaded):
    model, tokenizer = loaded
    prompt = guide.as_prompt(tokenizer, TEXT)
    answer = " Le chat dort."
    found = sources(model, tokenizer, prompt, answer, token=-2, delta=2.0)
    ids = tokenizer.encode(answer, add_special_tokens=False)
    as_ids = sources(model, tokenizer, prompt, ids, token=found.token, delta=2.0)
    assert torch.equal(found.weights, as_ids.weights)
    assert "".join(found.tokens).endswith(" Le chat d")
    assert found.token == found.row + 1 == found.prompt_tokens + len(ids) - 2
    plain = sources(model, tokenizer, prompt, answer, token=-2, delta=0.0)
    assert not torch.allclose(plain.weights, found.weights, atol=0.01)
    of_prompt = sources(model, tokenizer, prompt, token=-1, of="read")
    assert of_prompt.row == of_prompt.prompt_tokens - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(loaded, dtype):
    """The weights are compared with the kernel in each of them; all are float32 then."""
    model, tokenizer = guide.load_embedded()
    model.to(dtype)
    prompt = guide.as_prompt(tokenizer, f"{TEXT} " + "The baker hides the key in the barn. " * 40)
    found = sources(model, tokenizer, prompt, " Le chat", delta=2.0).weights
    assert found.dtype == torch.float32
    assert found.shape[2] > 300
    assert found.sum(-1).tolist() == [[pytest.approx(1.0, abs=INFLUENCE)] * 4] * 4


def test_the_strongest(loaded):
    model, tokenizer = loaded
    found = sources(model, tokenizer, guide.as_prompt(tokenizer, TEXT), " Le chat")
    rows = found.strongest(5, layer=2, head=1)
    own = found.weights[2, 1]
    assert [place for place, _, _ in rows] == own.topk(5).indices.tolist()
    assert all(text == found.tokens[place] for place, text, _ in rows)
    assert [value for _, _, value in rows] == own.topk(5).values.tolist()
    assert found.strongest(10**6)[0][2] == pytest.approx(float(found.mean().mean(0).max()))
    assert len(found.strongest(10**6)) == found.row + 1
    with pytest.raises(ValueError, match="count must be a whole number from 1, got 0"):
        found.strongest(0)
    for wrong in ({"layer": LAYERS + 9}, {"layer": -1}, {"head": 99}, {"head": True}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be from 0 to 3, or None"):
            found.strongest(1, **wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": 10**6}, "token must be from"),
        ({"token": -(10**6)}, "token must be from"),
        ({"token": True}, "token must be from"),
        ({"token": 0}, "token must be at least 1 to have been written"),
        ({"of": "other"}, "of must be 'written' or 'read'"),
        ({"answer": [1, -1]}, "answer must be text or token ids"),
        ({"answer": [1.5]}, "answer must be text or token ids"),
        ({"answer": [5] * 1100}, "must fit into the 1024 positions"),
    ],
)
def test_errors(loaded, change, message):
    arguments = {"answer": " Le chat", **change}
    with pytest.raises(ValueError, match=message):
        sources(*loaded, TEXT, arguments.pop("answer"), **arguments)


def test_refused_models(loaded):
    encoding, answer = marked()
    with pytest.raises(ValueError, match="model must be enabled"):
        sources(make("llama"), loaded[1], encoding, answer)
    own = guide.enable(make("bloom"))
    with pytest.raises(ValueError, match="sources\\(\\) must go to a model that uses transformers"):
        sources(own, loaded[1], encoding, answer)
    pair = guide.enable(encoder_decoders.make("bart"))
    with pytest.raises(ValueError, match="sources\\(\\) must go to a model with one text"):
        sources(pair, loaded[1], encoding, answer)


def test_what_the_kernel_did_is_compared(loaded, monkeypatch):
    """Weights that are not those of the kernel are never returned."""
    measuring = importlib.import_module("guide_ext.integration.sources")
    original = measuring.weights_of_last_row

    def without_bias(query, key, key_bias, *others, **options):
        return original(query, key, None, *others, **options)

    monkeypatch.setattr(measuring, "weights_of_last_row", without_bias)
    with pytest.raises(RuntimeError, match="must be those of the kernel"):
        sources(*loaded, guide.as_prompt(loaded[1], TEXT), " Le chat", delta=2.0)


def test_nothing_stays_behind(loaded):
    """The pass is that of the model: its logits, and those of later calls, are the same."""
    inputs = guide.encode(*loaded, "The cat sleeps.")
    before = models.logits(loaded[0], inputs)
    sources(*loaded, TEXT, " Le")
    assert torch.equal(models.logits(loaded[0], inputs), before)


def test_autocast_is_refused(loaded):
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="autocast"):
        guide.sources(*loaded, "The cat sleeps.")


@pytest.mark.parametrize("answer", [[10**6], [2**70], [-1], b"ab", None, [1.5]])
def test_answers_that_are_none(loaded, answer):
    with pytest.raises(ValueError, match="answer must be text or token ids from 0 to"):
        guide.sources(*loaded, "The cat sleeps.", answer)
