# SPDX-License-Identifier: MIT
"""AtMan: the loss without a part, beside whole matrices of attention that are scaled."""

import encoder_decoders as zoo
import plain_methods
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import guide_ext.integration as guide
from guide_ext.marking.tags import TagError

TEXT = "<?how->Summarize in French<-?how>: The cat <?what->sleeps<-?what> in the old mill."
TARGET = " Le chat dort."


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def loss_by_whole_matrices(model, ids, target, factors):
    """Return the loss of an answer where the weights of each key are multiplied by its factor."""
    whole = torch.tensor([ids + target])
    scale = torch.cat([torch.as_tensor(factors).double(), torch.ones(len(target)).double()])

    def weights(layer, weight):
        weight = weight * scale
        return weight / weight.sum(-1, keepdim=True)

    with plain_methods.edited(model, weights=weights):
        logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
    chances = logits[0, len(ids) - 1 : -1].log_softmax(-1)
    return -float(chances.gather(1, torch.tensor(target)[:, None]).sum())


def tokens(loaded, text=TEXT):
    inputs = guide.encode(*loaded, guide.as_prompt(loaded[1], text))
    return inputs["input_ids"][0].tolist(), inputs["guide_seed"][0].bool()


@pytest.mark.parametrize("factor", [0.1, 3.0])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_every_token_beside_whole_matrices(loaded, batch_size, factor):
    model, tokenizer = loaded
    prompt = guide.as_prompt(tokenizer, TEXT)
    told = []
    found = guide.atman(
        model, tokenizer, prompt, TARGET, factor=factor, batch_size=batch_size,
        on_progress=lambda *counts: told.append(counts),
    )  # fmt: skip
    ids, _ = tokens(loaded)
    target = tokenizer.encode(TARGET, add_special_tokens=False)
    plain = loss_by_whole_matrices(model, ids, target, torch.ones(len(ids)))
    wanted = []
    for index in range(len(ids)):
        factors = torch.ones(len(ids))
        factors[index] = factor
        wanted.append(loss_by_whole_matrices(model, ids, target, factors) - plain)
    assert found.loss == pytest.approx(plain, abs=1e-3)
    assert found.values == pytest.approx(wanted, abs=1e-3)
    assert max(map(abs, wanted[1:])) > 0.1  # something to be wrong about
    assert "".join(found.parts) == tokenizer.decode(ids)
    assert told[-1] == (len(ids), len(ids))
    by_ids = guide.atman(model, tokenizer, prompt, target, factor=factor, batch_size=batch_size)
    assert by_ids == found


def test_groups(loaded):
    model, tokenizer = loaded
    prompt = guide.as_prompt(tokenizer, TEXT)
    found = guide.atman(model, tokenizer, prompt, TARGET, by="group")
    ids, groups = tokens(loaded)
    target = tokenizer.encode(TARGET, add_special_tokens=False)
    plain = loss_by_whole_matrices(model, ids, target, torch.ones(len(ids)))
    wanted = [
        loss_by_whole_matrices(model, ids, target, torch.where(group, 0.1, 1.0)) - plain
        for group in groups
    ]
    assert found.parts == ("how", "what")
    assert found.values == pytest.approx(wanted, abs=1e-3)


def test_similar_tokens_are_played_down_too(loaded):
    model, tokenizer = loaded
    text = "<?a->The cat<-?a> sees the cat, and the dog sees the cats."
    prompt = guide.as_prompt(tokenizer, text)
    least = 0.5
    found = guide.atman(model, tokenizer, prompt, TARGET, by="group", similarity=least)
    ids, [group] = tokens(loaded, text)
    embeddings = model.get_input_embeddings().weight[ids].double().detach()
    factors = []
    for index in range(len(ids)):
        cosine = max(
            float(torch.cosine_similarity(embeddings[index], embeddings[own], dim=0))
            for own in group.nonzero().flatten().tolist()
        )
        factors.append(1 - 0.9 * cosine if cosine >= least else 1.0)
    assert sum(factor < 1 for factor in factors) > int(group.sum())  # the cat comes again
    target = tokenizer.encode(TARGET, add_special_tokens=False)
    plain = loss_by_whole_matrices(model, ids, target, torch.ones(len(ids)))
    wanted = loss_by_whole_matrices(model, ids, target, factors) - plain
    assert found.values == pytest.approx([wanted], abs=1e-3)
    alone = guide.atman(model, tokenizer, prompt, TARGET, by="group")
    assert alone.values[0] != pytest.approx(found.values[0], abs=1e-2)


def test_a_guided_answer_is_explained_under_its_bias(loaded):
    model, tokenizer = loaded
    text = "<!!->Summarize in French<-!!>: The <?->cat<-?> sleeps."
    prompt = guide.as_prompt(tokenizer, text)
    found = guide.atman(model, tokenizer, prompt, TARGET, by="group", delta=1.5)
    ids, [group] = tokens(loaded, text)
    marked = guide.encode(model, tokenizer, prompt, delta=1.0)["guide_bias"][0] > 0
    target = tokenizer.encode(TARGET, add_special_tokens=False)
    guided = torch.where(marked, torch.tensor(1.5).exp(), 1.0)
    plain = loss_by_whole_matrices(model, ids, target, guided)
    without = loss_by_whole_matrices(model, ids, target, torch.where(group, 0.1, guided))
    assert found.loss == pytest.approx(plain, abs=1e-3)
    assert found.values == pytest.approx([without - plain], abs=1e-3)
    unguided = guide.atman(model, tokenizer, prompt, TARGET, by="group")
    assert unguided.loss != pytest.approx(plain, abs=1e-2)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"factor": 0}, "factor must be a finite number above 0, and not 1"),
        ({"factor": 1.0}, "factor must be a finite number above 0, and not 1"),
        ({"factor": "0.1"}, "factor must be a finite number above 0, and not 1"),
        ({"by": "sentence"}, "by must be 'token' or 'group', got 'sentence'"),
        ({"similarity": 0.0}, "similarity must be above 0 and at most 1, got 0.0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"target": ""}, "target must have a token or more, got ''"),
        ({"target": ["a"]}, "target must be text or token ids"),
        ({"prompt": "no group", "by": "group"}, "by must be 'token' for a prompt without groups"),
        ({"target": "a " * 9000}, "prompt and answer must fit into the .* positions"),
    ],
)
def test_what_does_not_fit(loaded, how, message):
    arguments = {"prompt": TEXT, "target": TARGET, **how}
    with pytest.raises(ValueError, match=message):
        guide.atman(*loaded, **arguments)


def test_models_that_cannot_be_explained(loaded):
    with pytest.raises(ValueError, match=r"atman\(\) must go to a model with one text"):
        guide.atman(guide.enable(zoo.make("bart", vocab_size=1504)), loaded[1], "a", "b")
    config = BertConfig(
        vocab_size=len(loaded[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="whose tokens see those behind them"):
        guide.atman(guide.enable(BertForMaskedLM(config).eval()), loaded[1], "a", "b")
    with pytest.raises(ValueError, match="model must be enabled"):
        guide.atman(zoo.make("bart"), loaded[1], "a", "b")
    with pytest.raises(TagError):
        guide.atman(*loaded, "<!!->open", "b")
