# SPDX-License-Identifier: MIT
"""Whatever keeps the keys of SmolLM2, steered answers are those of eager attention without."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from marked_prose import ENDLESS, assert_greedy, by_hand, draw, eager_logits, whole
from models import CACHE, assert_same_generation, generation, reference_generation
from transformers import DynamicCache, StaticCache

from guide_ext.integration import prefixes
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering

pytest.importorskip("pydoc_data.topics")

STEPS = 6
WAYS = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "in chunks": {"prefill_chunk_size": 50},
    "none": {"use_cache": False},
}
DELTAS = (0.0, 2.5, -1.5)


@pytest.fixture(scope="module")
def inputs(smollm2, seed):
    """Two prompts of different lengths, the shorter one padded."""
    rows = ((110, (2.0, -1.0)), (70, (3.0,)))
    proses = [
        draw(smollm2[1], tokens, [{"delta": delta} for delta in deltas], seed)
        for tokens, deltas in rows
    ]
    return by_hand(smollm2[1], proses)


def run(model, inputs, **how):
    return generation(model, inputs, **{"max_new_tokens": STEPS, **ENDLESS, **how})


@pytest.fixture(scope="module")
def wanted(smollm2, eager, inputs):
    sequences = run(smollm2[0], inputs).sequences
    return sequences, eager_logits(eager, whole(inputs, sequences))


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_keep_keys(smollm2, inputs, wanted, way):
    found = run(smollm2[0], inputs, **WAYS[way])
    assert found.sequences.tolist() == wanted[0].tolist()
    assert_greedy(found, wanted[1])


def test_a_row_alone_is_the_row_of_a_batch(smollm2, inputs, wanted):
    padding = int((inputs["attention_mask"][1] == 0).sum())
    assert padding > 20
    alone = {name: tensor[1:, padding:] for name, tensor in inputs.items()}
    assert_greedy(run(smollm2[0], alone), wanted[1][1:, padding:])


def test_beams(smollm2, eager, seed):
    rows = [draw(smollm2[1], tokens, [{"delta": 2.5}], seed) for tokens in (90, 70)]
    inputs = by_hand(smollm2[1], rows)
    how = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 3, **ENDLESS}
    plain = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    wanted = reference_generation(eager, plain, inputs["guide_bias"], **how)
    assert_same_generation(generation(smollm2[0], inputs, **how), wanted)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_second_turn_goes_on_from_the_cache_of_the_first(smollm2, eager, inputs, kind):
    """It marks more, in the new text; what the first turn marked stays marked."""
    model, tokenizer = smollm2
    room = {"max_cache_len": 300} if kind is StaticCache else {}
    cache = kind(config=model.config, **room)
    first = run(model, {**inputs, CACHE: cache}, max_new_tokens=3)
    assert first[CACHE] is cache
    assert int(cache.get_seq_length()) == first.sequences.shape[1] - 1
    asked = "<|im_end|>\n<|im_start|>user\nNow say it in French.<|im_end|>\n<|im_start|>assistant\n"
    new = torch.tensor([tokenizer(asked)["input_ids"]] * 2)
    longer = whole(inputs, torch.cat([first.sequences, new], 1))
    longer["guide_bias"][:, -9:-6] = torch.tensor([[1.5], [-2.0]])
    assert tokenizer.decode(new[0, -9:-6]) == " in French."
    found = run(model, {**longer, CACHE: cache}, max_new_tokens=3)
    assert_greedy(found, eager_logits(eager, whole(longer, found.sequences)))


class TestSharedBeginnings:
    @pytest.fixture
    def inputs(self, smollm2, seed):
        """Two texts, each under several Δ, marked near the end alone."""
        rows, bias = [], []
        for tokens in (100, 65):
            prose = draw(smollm2[1], tokens, [{}, {"delta": 1.0}], seed)
            for delta in DELTAS:
                rows.append(prose)
                bias.append(delta)
        inputs = by_hand(smollm2[1], rows)
        inputs["guide_bias"] *= torch.tensor(bias)[:, None]
        return inputs

    def test_tokens_and_logits(self, monkeypatch, smollm2, eager, inputs):
        model = smollm2[0]
        monkeypatch.setattr(prefixes, "_tensor", lambda output: output)
        beginnings = prefixes.beginnings_of(inputs)
        assert len(beginnings.first) == 2
        assert beginnings.length > 50
        sharing = SimpleNamespace(generate=partial(prefixes.generate, model, inputs))
        with torch.inference_mode():
            found = run(sharing, {}, max_new_tokens=4)
        assert_greedy(found, eager_logits(eager, whole(inputs, found.sequences)))
        assert found.sequences.tolist() == run(model, inputs, max_new_tokens=4).sequences.tolist()

    def test_likelihoods(self, smollm2, eager, seed):
        model, tokenizer = smollm2
        answer = " in the documentation of Python"
        prose = draw(tokenizer, 90, [{}, {"delta": 1.0}], seed)
        chat = [{"role": "user", "content": prose.tagged.replace("<!1.0->", "<!!->")
                 .replace("<-!>", "<-!!>")}]  # fmt: skip
        steerings = [Steering.guide(delta) for delta in DELTAS]
        found = log_likelihoods(model, tokenizer, chat, [answer], steerings)
        ways = [tokenizer(text)["input_ids"] for text in (answer, answer.strip())]
        prompt = by_hand(tokenizer, [prose])
        for delta, value in zip(DELTAS, found, strict=True):
            steered = {**prompt, "guide_bias": delta * prompt["guide_bias"]}
            chances = []
            for ids in ways:
                text = whole(steered, torch.cat([prompt["input_ids"], torch.tensor([ids])], 1))
                logits = eager_logits(eager, text)[0, -len(ids) - 1 : -1].log_softmax(-1)
                chances.append(logits[range(len(ids)), ids].sum())
            assert value == pytest.approx(torch.stack(chances).logsumexp(0).item(), rel=1e-4)
