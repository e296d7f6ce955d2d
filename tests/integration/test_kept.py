# SPDX-License-Identifier: MIT
"""Texts that go on: what is kept is taken as far as tokens, bias, layers and heads are the same."""

import pytest
import torch

import guide_ext.integration as guide
from guide_ext.integration.kept import KeptTexts
from guide_ext.marking.chat import encode_chat
from guide_ext.steering.steering import Steering

STORY = "The thief paints the blue hammer in the museum. Laura likes the salt. " * 2


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def turn(loaded, kept, messages, steering):
    """Answer a chat with what is kept; return the ids, how many tokens were kept, the logits."""
    model, tokenizer = loaded
    encoding = encode_chat(tokenizer, messages)
    inputs = guide.encode(model, tokenizer, encoding, steering=steering)
    text = kept.begin(encoding, steering) if kept else None
    with torch.inference_mode():
        found = model.generate(
            **inputs, **(text.cache if text else {}), max_new_tokens=12, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    reused = len(text.ids) if text else 0
    if text:
        kept.keep(text, found.sequences[0], steering.bias(encoding).tolist())
    return found.sequences[0], reused, torch.stack(found.logits)


def said(loaded, messages, ids):
    tokenizer = loaded[1]
    begin = len(encode_chat(tokenizer, messages).input_ids)
    answer = tokenizer.decode(ids[begin:], skip_special_tokens=True)
    return [*messages, {"role": "assistant", "content": answer}]


def first(mark="<!!->Summarize in French<-!!>"):
    return [{"role": "user", "content": f"{mark}\n{STORY}"}]


STEERING = Steering.guide(2.0)
SECOND = {"role": "user", "content": "<!!->Say it again<-!!>, and name the hammer."}


class TestAChat:
    def test_the_second_turn_goes_on(self, loaded):
        kept = KeptTexts(loaded[0], 2000)
        ids, reused, _ = turn(loaded, kept, first(), STEERING)
        assert reused == 0
        messages = [*said(loaded, first(), ids), SECOND]
        alone = turn(loaded, None, messages, STEERING)
        again, reused, logits = turn(loaded, kept, messages, STEERING)
        # The template may write an answer in other tokens than the model did.
        assert reused >= len(encode_chat(loaded[1], first()).input_ids)
        assert torch.equal(again, alone[0])
        assert torch.allclose(logits, alone[2], atol=2e-4)

    @pytest.mark.parametrize(
        ("mark", "steering"),
        [
            ("<!!->Summarize in French<-!!>", Steering.guide(1.0)),
            ("<!!->Summarize<-!!> in French", STEERING),
            ("Summarize in French", STEERING),
            ("<!!->Summarize in French<-!!>", Steering.guide(2.0, layers=[0, 1])),
        ],
    )
    def test_nothing_behind_the_first_difference(self, loaded, mark, steering):
        """Other strengths, other marks, none, other layers: the answers are those without it."""
        kept = KeptTexts(loaded[0], 2000)
        turn(loaded, kept, first(), STEERING)
        alone = turn(loaded, None, first(mark), steering)
        again, reused, logits = turn(loaded, kept, first(mark), steering)
        assert reused == 0
        assert torch.equal(again, alone[0])
        assert torch.allclose(logits, alone[2], atol=2e-4)

    def test_two_that_part(self, loaded):
        """A first chat goes on after a second one has taken its beginning."""
        kept = KeptTexts(loaded[0], 2000)
        ids, _, _ = turn(loaded, kept, first(), STEERING)
        other = [{"role": "user", "content": first()[0]["content"] + "The end."}]
        _, shared, logits = turn(loaded, kept, other, STEERING)
        assert 16 < shared < len(ids) - 12
        assert torch.allclose(logits, turn(loaded, None, other, STEERING)[2], atol=2e-4)
        messages = [*said(loaded, first(), ids), SECOND]
        _, reused, logits = turn(loaded, kept, messages, STEERING)
        assert reused > shared
        assert torch.allclose(logits, turn(loaded, None, messages, STEERING)[2], atol=2e-4)

    def test_the_same_again(self, loaded):
        kept = KeptTexts(loaded[0], 2000)
        ids, _, before = turn(loaded, kept, first(), STEERING)
        again, reused, logits = turn(loaded, kept, first(), STEERING)
        assert reused == len(encode_chat(loaded[1], first()).input_ids) - 1
        assert torch.equal(ids, again)
        assert torch.allclose(logits, before, atol=2e-4)


def bytes_of(layers):
    """Bytes of the keys of one token, in all layers of one text."""
    (number,) = {layer.keys[0, :, 0].numel() for layer in layers}
    return number * layers[0].keys.element_size() * 4


def test_what_another_goes_on_from_is_not_kept_twice(loaded):
    kept = KeptTexts(loaded[0], 5000)
    ids, _, _ = turn(loaded, kept, first(), STEERING)
    for _ in range(3):
        turn(loaded, kept, first(), STEERING)
        assert [text.ids for text in kept._texts] == [ids.tolist()[:-1]]
    turn(loaded, kept, [*said(loaded, first(), ids), SECOND], STEERING)
    before = [text.ids for text in kept._texts]
    turn(loaded, kept, first(), STEERING)  # is a beginning of the longer one
    assert sorted(before) == sorted(text.ids for text in kept._texts)
    turn(loaded, kept, first(), Steering.guide(1.0))
    assert len(kept._texts) == len(before) + 1  # under another bias, it is another text


def test_short_texts_are_not_kept(loaded):
    kept = KeptTexts(loaded[0], 5000)
    turn(loaded, kept, [{"role": "user", "content": "Hi"}], Steering.guide(0.0))
    assert all(len(text.ids) >= 16 for text in kept._texts)


def test_no_more_than_fits(loaded):
    kept = KeptTexts(loaded[0], 300)
    for word in ("one", "two", "three", "four"):
        turn(loaded, kept, [{"role": "user", "content": f"{word} {STORY}"}], STEERING)
        tensors = [
            layer for text in kept._texts for cache in text.cache.values() for layer in cache.layers
        ]
        slots = sum(layer.keys.untyped_storage().nbytes() for layer in tensors) / bytes_of(tensors)
        assert 0 < slots == kept.tokens <= 300
    assert KeptTexts(loaded[0], 0).begin(encode_chat(loaded[1], first()), STEERING) is None


def test_a_model_that_forgets():
    """A sliding window keeps only a part, and can go back to no earlier token."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    model = guide.enable(MistralForCausalLM(config).eval())
    encoding = encode_chat(guide.load_embedded()[1], first())
    assert KeptTexts(model, 100).begin(encoding, STEERING) is None


def test_another_table_of_strengths_begins_anew(loaded):
    kept = KeptTexts(loaded[0], 2000)
    one, other = (Steering.by_head([[value] * 4] * 4) for value in (0.5, 2.0))
    ids, _, _ = turn(loaded, kept, first(), one)
    messages = [*said(loaded, first(), ids), SECOND]
    _, reused, logits = turn(loaded, kept, messages, other)
    assert reused == 0
    torch.testing.assert_close(logits, turn(loaded, None, messages, other)[2], atol=1e-4, rtol=0)
    assert turn(loaded, kept, messages, one)[1] > 0
