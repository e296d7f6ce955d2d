# SPDX-License-Identifier: MIT
"""How likely answers are: beside one plain pass over prompt and answer, and beside generation."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import MistralConfig, MistralForCausalLM

import guide_ext.integration as guide
from guide_ext.integration import likelihood, prefixes
from guide_ext.integration.likelihood import log_likelihoods, targets_of
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


class TestLimits:
    """Of what is held at once."""

    def test_rows_of_a_pass(self, embedded, monkeypatch):
        model, tokenizer = embedded
        longest = max(map(len, targets_of(tokenizer, ANSWERS)))
        wanted = log_likelihoods(model, tokenizer, TEXT, ANSWERS, STEERINGS)
        monkeypatch.setattr(likelihood, "MOST_LOGITS", 2 * longest * len(tokenizer))
        counts = []
        found = log_likelihoods(
            model, tokenizer, TEXT, ANSWERS, STEERINGS, on_rows=counts.append
        )  # fmt: skip
        assert counts == [2, 2, 1]
        assert found == pytest.approx(wanted, abs=1e-4)

    def test_rows_where_all_tokens_get_logits(self, sliding, monkeypatch):
        model, tokenizer = sliding
        inputs = guide.encode(model, tokenizer, [TEXT] * 3, delta=1.0)
        inputs.pop("guide_seed", None)
        length = inputs["input_ids"].shape[1] + 1
        monkeypatch.setattr(likelihood, "MOST_LOGITS", 2 * length * len(tokenizer))
        for keeps, wanted in ((True, [3]), (False, [2, 1])):
            monkeypatch.setattr(likelihood, "_keeps_some", lambda _, keeps=keeps: keeps)
            counts = []
            likelihood.likelihoods_of_rows(model, inputs, [[9]], on_rows=counts.append)
            assert counts == wanted

    @pytest.mark.parametrize("at_once", [1, 2 * 3 * 7])
    def test_a_probability_in_parts(self, monkeypatch, at_once):
        torch.manual_seed(0)
        logits, target = torch.randn(3, 5, 7, dtype=torch.bfloat16), [1, 6, 0, 3, 3]
        wanted = sum(logits.float().log_softmax(-1)[:, place, token]
                     for place, token in enumerate(target))  # fmt: skip
        sizes = []
        monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", at_once)
        with Sizes(sizes):
            found = likelihood._chance(logits, target)
        assert torch.allclose(found, wanted, atol=1e-6)
        assert max(sizes) == max(at_once, 3 * 7)

    def test_the_logits_are_in_no_second_tensor(self, embedded, monkeypatch):
        model, tokenizer = embedded
        monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", 1)
        (target,) = targets_of(tokenizer, ["Le chat dort, et le chien mange."], exact=True)
        inputs = guide.encode(model, tokenizer, [TEXT] * 2, delta=1.0)
        inputs.pop("guide_seed", None)
        sizes = []
        with Sizes(sizes):
            likelihood.likelihoods_of_rows(model, inputs, [target])
        assert sizes
        assert max(sizes) <= 2 * len(tokenizer)


class Sizes(TorchFunctionMode):
    """Notes how many numbers every tensor has that a logarithm or a float32 copy is made of."""

    def __init__(self, found):
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.Tensor.log_softmax, torch.cat) and made.dim() == 3:
            self.found.append(made.numel())
        return made


@pytest.mark.parametrize("name", ["embedded", "sliding"])
def test_work_that_is_ended(request, name):
    """Before every pass."""
    model, tokenizer = request.getfixturevalue(name)
    inputs = guide.encode(model, tokenizer, [TEXT] * 2, delta=1.0)
    inputs.pop("guide_seed", None)
    targets = targets_of(tokenizer, ANSWERS)
    passes, calls = [], []

    def before():
        calls.append(len(passes))

    hook = model.lm_head.register_forward_hook(lambda *_: passes.append(1))
    try:
        likelihood.likelihoods_of_rows(model, inputs, targets, batch_size=1, before_pass=before)
    finally:
        hook.remove()
    assert set(range(len(passes))) <= set(calls)


def test_a_probability_of_0(sliding):
    """It is one; where none is left, there is no number."""
    model, tokenizer = sliding
    first, *_ = targets_of(tokenizer, ["a"], exact=True)[0]

    def masked(module, given, logits):
        logits[..., first] = -torch.inf
        return logits

    hook = model.lm_head.register_forward_hook(masked)
    try:
        inputs = guide.encode(model, tokenizer, [TEXT], delta=1.0)
        inputs.pop("guide_seed", None)
        other = [token for token in range(9, 12) if token != first][:1]
        found = likelihood.likelihoods_of_rows(model, inputs, [[first]])
        assert found == [-math.inf]
        both = likelihood.likelihoods_of_rows(model, inputs, [[first], other])
        assert both == likelihood.likelihoods_of_rows(model, inputs, [other])
    finally:
        hook.remove()
    with pytest.raises(ValueError, match="answers must be possible for the model, got a prob"):
        likelihood.require_possible("answers", [-1.0, -math.inf])
