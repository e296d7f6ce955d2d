# SPDX-License-Identifier: MIT
"""Batches whose prompts begin alike: what is computed once, and that nothing else changes."""

import models
import pytest
import torch
from models import assert_same_generation, make, random_strength

import guide_ext.integration as guide
from guide_ext.integration import prefixes

ROWS, TOKENS, START = 6, 14, 8
SHARING = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi", "doge")


def batch(start=START, padding=(0, 0, 0, 3, 3, 3)):
    """Two prompts under three conditions each; they differ from `start` on."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(1, models.VOCABULARY, (2, TOKENS), generator=generator)
    ids = ids.repeat_interleave(ROWS // 2, 0)
    ids[:, -1] = torch.arange(1, ROWS + 1)
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
        ids[row, :count] = 0
    bias = torch.zeros(ROWS, TOKENS)
    for row, delta in enumerate((0.0, 2.0, -1.5) * 2):
        bias[row, start : start + 3] = delta
    return {"input_ids": ids, "attention_mask": mask, "guide_bias": bias}


@pytest.fixture
def calls(monkeypatch):
    """Count the tokens of every forward pass of a model."""
    counted = []

    def watch(model):
        model.get_input_embeddings().register_forward_pre_hook(
            lambda module, args: counted.append(args[0].numel())
        )
        return counted

    return watch


def generated(model, inputs, **how):
    settings = {
        "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0,
        "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip
    return model.generate(**inputs, **{**settings, **how})


def shared(monkeypatch, model, inputs, **how):
    """Generate by way of the shared beginnings, and return logits, too."""
    monkeypatch.setattr(prefixes, "_tensor", lambda output: output)
    settings = {
        "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0,
        "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip
    with torch.inference_mode():
        return prefixes.generate(model, inputs, **{**settings, **how})


@pytest.mark.parametrize("name", SHARING)
def test_tokens_and_logits_are_those_of_one_call(name, monkeypatch, calls):
    model = guide.enable(make(name))
    inputs = batch()
    wanted = generated(model, inputs)
    counted = calls(model)
    assert_same_generation(shared(monkeypatch, model, inputs), wanted)
    assert counted[:2] == [2 * START, ROWS * (TOKENS - START)]
    assert wanted.logits[0][0].ne(wanted.logits[0][1]).any()


def test_strengths_shares_and_sampling_go_with_it(monkeypatch):
    model = guide.enable(make("llama"))
    inputs = batch()
    strong = {**inputs, "guide_strength": random_strength(ROWS)}
    assert_same_generation(shared(monkeypatch, model, strong), generated(model, strong))
    share = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    share["guide_share"] = 0.3 * inputs["guide_bias"].ne(0)
    assert prefixes.beginnings_of(share).length == START
    assert_same_generation(shared(monkeypatch, model, share), generated(model, share))
    torch.manual_seed(3)
    wanted = generated(model, inputs, do_sample=True)
    torch.manual_seed(3)
    assert_same_generation(shared(monkeypatch, model, inputs, do_sample=True), wanted)


@pytest.mark.parametrize("name", models.SLIDING)
def test_a_model_that_forgets_begins_each_row_anew(name, monkeypatch, calls):
    model = guide.enable(make(name))
    inputs = batch()
    wanted = generated(model, inputs)
    counted = calls(model)
    assert_same_generation(shared(monkeypatch, model, inputs), wanted)
    assert counted[0] == ROWS * TOKENS


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_are_computed_over_the_whole(kind, monkeypatch):
    """The beginning alone is short enough for other frequencies than the whole prompt."""
    factors = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4} if kind == "longrope" else {}
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **factors}
    rope["original_max_position_embeddings"] = START + 2
    pair = [  # two, because the dynamic kind remembers the longest text
        guide.enable(make("llama", rope_parameters=rope, max_position_embeddings=START + 2))
        for _ in range(2)
    ]
    inputs = batch(padding=(0,) * ROWS)
    assert_same_generation(
        shared(monkeypatch, pair[0], inputs, max_new_tokens=2),
        generated(pair[1], inputs, max_new_tokens=2),
    )


def test_a_row_may_begin_behind_the_cut(monkeypatch):
    model = guide.enable(make("llama"))
    inputs = batch(start=10, padding=(0, 0, 0, 11, 11, 11))
    inputs["guide_bias"] *= inputs["attention_mask"]
    found = prefixes.beginnings_of(inputs)
    assert (found.first, found.further) == ((0,), (0, 0, 0, 10, 10, 10))  # of no tokens
    assert_same_generation(shared(monkeypatch, model, inputs), generated(model, inputs))


def ends(lengths=(4, 6, 4, 9, 4, 5), beginning=12, marked=3):
    """Prompts with one beginning and ends of some lengths, every other one marked; left-padded."""
    generator = torch.Generator().manual_seed(5)
    tokens = beginning + max(lengths)
    ids = torch.randint(1, models.VOCABULARY, (len(lengths), tokens), generator=generator)
    mask, bias = torch.ones_like(ids), torch.zeros(ids.shape)
    for row, length in enumerate(lengths):
        start = tokens - length - beginning
        ids[row, start : start + beginning] = ids[0, -lengths[0] - beginning : -lengths[0]]
        ids[row, :start] = mask[row, :start] = 0
        bias[row, -length : tokens - length + marked] = row % 2 * 2.0
        ids[row, -length] = row + 1  # ends differ from their first token on
    return {"input_ids": ids, "attention_mask": mask, "guide_bias": bias}


@pytest.mark.parametrize("name", SHARING)
def test_ends_of_other_lengths_share_a_beginning(name, monkeypatch, calls):
    """All are cut before the longest end, so what is before the cut is the longest there."""
    model = guide.enable(make(name))
    inputs = ends()
    found = prefixes.beginnings_of(inputs)
    assert (found.length, found.first, found.of_row) == (12, (3,), (0,) * 6)
    assert found.further == (5, 3, 5, 0, 5, 4)
    wanted = generated(model, inputs)
    counted = calls(model)
    assert_same_generation(shared(monkeypatch, model, inputs), wanted)
    assert counted[:2] == [12, 6 * 9]


class TestBeginnings:
    def test_two_of_them_one_the_start_of_the_other(self):
        inputs = ends(lengths=(4, 4, 6, 6), beginning=12, marked=1)
        inputs["input_ids"][3, 2:4] = 90  # row 3 begins otherwise
        found = prefixes.beginnings_of(inputs)
        assert (found.first, found.of_row) == ((2, 3), (0, 0, 0, 1))
        assert found.further == (2, 2, 0, 0)

    def test_a_cut_before_the_mark_where_that_leaves_less_to_compute(self):
        inputs = ends(lengths=(5,) * 6)
        inputs["input_ids"][:, 11] = torch.arange(1, 7)  # so all ends are of 6 tokens
        found = prefixes.beginnings_of(inputs)
        assert (found.length, found.first) == (11, (0,))
        assert found.saved == pytest.approx(5 * 11 / (6 * 17))

    def test_the_fewest_tokens_of_all_cuts(self):
        """Beside counting beginnings out for every slot."""
        generator = torch.Generator().manual_seed(6)
        for _ in range(50):
            ids = torch.randint(1, 3, (5, 9), generator=generator)
            mask = torch.ones_like(ids)
            for row in range(4):
                mask[row, : int(torch.randint(0, 5, (), generator=generator))] = 0
            ids *= mask
            found = prefixes.beginnings_of({"input_ids": ids, "attention_mask": mask})
            texts = [row[own.bool()].tolist() for row, own in zip(ids, mask, strict=True)]

            def computed(cut, texts=texts):
                own = [text[: max(0, cut - 9 + len(text))] for text in texts]
                alone = {
                    tuple(one) for one in own
                    if not any(len(o) > len(one) and o[: len(one)] == one for o in own)
                }  # fmt: skip
                return len(alone) * cut + 5 * (9 - cut)

            assert len(found.first) * found.length + 5 * (9 - found.length) == min(
                map(computed, range(9))
            )
            own = [text[: max(0, found.length - 9 + len(text))] for text in texts]
            for row, number in enumerate(found.of_row):
                whole = own[found.first[number]]
                assert whole[: len(whole) - found.further[row]] == own[row]

    def test_of_equal_rows(self):
        found = prefixes.beginnings_of(batch())
        assert found == prefixes.Beginnings(START, (0, 3), (0, 0, 0, 1, 1, 1), (0,) * 6, TOKENS)
        assert found.saved == pytest.approx(4 * START / (ROWS * TOKENS))

    def test_padding_is_a_part_of_a_beginning(self):
        inputs = batch(padding=(0, 0, 3, 3, 3, 3))
        assert prefixes.beginnings_of(inputs).of_row == (0, 0, 1, 2, 2, 2)

    def test_the_first_mark_of_any_row_ends_it(self):
        inputs = batch()
        inputs["guide_bias"][4, 5] = 0.5
        assert prefixes.beginnings_of(inputs).length == 5

    def test_one_token_is_left_where_nothing_is_marked(self):
        inputs = batch()
        del inputs["guide_bias"]
        inputs["input_ids"][:, -1] = 7
        assert prefixes.beginnings_of(inputs).length == TOKENS - 1

    def test_nothing_to_share_is_one_call(self, calls):
        model = guide.enable(make("llama"))
        inputs = batch(start=0)
        counted = calls(model)
        with torch.inference_mode():
            prefixes.generate(model, inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
        assert counted == [ROWS * TOKENS]
