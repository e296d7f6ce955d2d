# SPDX-License-Identifier: MIT
"""How likely answers are: beside one plain pass over prompt and answer, and beside generation."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

import guide_ext.integration as guide
from guide_ext.integration import prefixes
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering

TEXT = "Once the baker hides the key. <!!->The secret word of Tom is banana.<-!!> The cat sleeps."
STEERINGS = [
    Steering.guide(0.0),
    Steering.guide(2.0),
    Steering.guide(-1.5),
    Steering.guide(2.0, heads={1: [2]}),
    # It plays down what is not marked, from the first token on: nothing is left to share.
    Steering.pasta(0.1, {0: [1], 3: [0]}),
]
ANSWERS = ["Le chat dort.", "banana", "The secret word"]


@pytest.fixture(scope="module")
def embedded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def sliding(embedded):
    """A model whose cache cannot be shared."""
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=len(embedded[1]), hidden_size=64, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    return guide.enable(MistralForCausalLM(config).eval()), embedded[1]


def by_whole_passes(model, tokenizer, prompt, answers, steering):
    inputs = guide.encode(model, tokenizer, prompt, steering=steering)
    found = []
    for said in [text for answer in answers for text in (answer, f" {answer}")]:
        tokens = torch.tensor([tokenizer.encode(said, add_special_tokens=False)])
        count = tokens.shape[1]
        whole = dict(inputs)
        whole["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        whole["guide_bias"] = torch.cat([inputs["guide_bias"], torch.zeros(1, count)], 1)
        with torch.no_grad():
            chances = model(**whole).logits[0, -count - 1 : -1].log_softmax(-1)
        found.append(chances.gather(1, tokens[0][:, None]).sum())
    return float(torch.stack(found).logsumexp(0))


@pytest.mark.parametrize("name", ["embedded", "sliding"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("steerings", [STEERINGS[:-1], STEERINGS])
@pytest.mark.parametrize("text", [TEXT, TEXT.partition("key. ")[2]])
def test_equal_to_whole_passes(request, name, batch_size, text, steerings):
    model, tokenizer = request.getfixturevalue(name)
    prompt = guide.as_prompt(tokenizer, text)
    assert (prefixes.begun(model, *[torch.ones(1, 2).long()] * 2) is None) == (name == "sliding")
    counts = []
    found = log_likelihoods(
        model, tokenizer, prompt, ANSWERS, steerings, batch_size=batch_size, on_rows=counts.append
    )
    wanted = [by_whole_passes(model, tokenizer, prompt, ANSWERS, one) for one in steerings]
    assert found == pytest.approx(wanted, abs=1e-3)
    assert len({round(value, 3) for value in found}) == len(steerings)  # each steering acts
    assert sum(counts) == len(steerings)
    assert max(counts) <= batch_size


def test_what_the_model_writes_is_likely(embedded):
    model, tokenizer = embedded
    prompt = guide.as_prompt(tokenizer, "Summarize in French\nYesterday, the baker hides the key.")
    [written] = guide.complete(model, tokenizer, [prompt], max_new_tokens=40)
    [likely] = log_likelihoods(model, tokenizer, prompt, [written], STEERINGS[:1])
    [unlikely] = log_likelihoods(model, tokenizer, prompt, ["The cat"], STEERINGS[:1])
    assert unlikely < likely - 3


def test_an_answer_that_continues_another_counts_once(embedded):
    model, tokenizer = embedded
    one = log_likelihoods(model, tokenizer, TEXT, ["The secret"], STEERINGS)
    assert (
        log_likelihoods(model, tokenizer, TEXT, ["The secret word", "The secret"], STEERINGS) == one
    )
    assert log_likelihoods(model, tokenizer, TEXT, ["The secret"] * 2, STEERINGS) == one


@pytest.mark.parametrize(
    ("answers", "steerings", "message"),
    [
        ([], STEERINGS, r"answers must be a list of at least one, got \[\]"),
        ("banana", STEERINGS, "answers must be a list of at least one, got 'banana'"),
        (["a", " "], STEERINGS, r"answers must not be empty, got \['a', ' '\]"),
        (["a"], [], r"steerings must be a list of at least one, got \[\]"),
        (["a " * 9000], STEERINGS, "prompt and answer must fit into the .* positions"),
    ],
)
def test_bad_arguments(embedded, answers, steerings, message):
    with pytest.raises(ValueError, match=message):
        log_likelihoods(*embedded, TEXT, answers, steerings)


def test_logits_that_are_no_numbers(sliding):
    model, tokenizer = sliding
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="got logits that are no numbers"):
            log_likelihoods(model, tokenizer, TEXT, ["a"], STEERINGS)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
