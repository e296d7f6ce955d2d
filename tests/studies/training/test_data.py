# SPDX-License-Identifier: MIT
"""What fine-tuning learns: packed samples stay apart, answers alone cost, no evaluation is seen."""

import models
import pytest
import torch

from guide_ext import integration as guide
from guide_ext.embedded import evaluate, model_path
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.integration import lora
from guide_ext.studies.training.data import (
    TRAINING_SEED,
    TokenizedExample,
    embedded_examples,
    encode_example,
    packed_batches,
)
from guide_ext.studies.training.train import Example, packed_loss

MODEL = str(model_path())


@pytest.fixture(scope="module")
def tokenizer():
    return guide.load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def examples(tokenizer) -> list[Example]:
    return embedded_examples(24, task=CaseKind.FRENCH, tokenizer=tokenizer)[:12]


def test_every_epoch_has_every_sample(examples, tokenizer):
    samples = [encode_example(tokenizer, example) for example in examples]
    orders = []
    for epoch in range(2):
        batches = list(packed_batches(samples, sequence_length=256, rows=2, seed=0, epoch=epoch))
        rows = [row for batch in batches for row in batch]
        orders.append([sample for row in rows for sample in row])
        assert all(sum(map(len, row)) <= 256 for row in rows)
        assert all(1 <= len(batch) <= 2 for batch in batches)
        assert sorted(s.input_ids for s in orders[-1]) == sorted(s.input_ids for s in samples)
    assert orders[0] != orders[1]


@pytest.fixture(scope="module")
def base():
    return guide.load(MODEL, dtype="float64", device="cpu", steerable=False)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_loss_is_that_of_each_sample(base, tokenizer, examples, attention):
    samples = [encode_example(tokenizer, example) for example in examples[:5]]
    before = base.config._attn_implementation
    base.set_attn_implementation(attention)
    try:
        lora.check_packing(base)
        with torch.no_grad():
            packed = packed_loss(base, tuple(samples))
            alone = sum(packed_loss(base, (sample,)) for sample in samples)
    finally:
        base.set_attn_implementation(before)
    torch.testing.assert_close(packed, alone)


def test_packing_is_checked(base, monkeypatch):
    def without_blocks(model, input_ids, position_ids, columns):
        return base(input_ids=input_ids[None], use_cache=False).logits[0, columns]

    monkeypatch.setattr(lora, "packed_logits", without_blocks)
    with pytest.raises(guide.UnsupportedModelError, match="samples that share a row apart"):
        lora.check_packing(base)


@pytest.mark.parametrize("name", [*models.ZOO, *models.DENSE, *models.OWN, *models.UNSUPPORTED])
def test_the_check_tells_who_packs_rightly(name):
    model = models.make(name)
    row = [
        TokenizedExample(tuple(torch.randint(1, 97, (size,)).tolist()), 2) for size in (12, 7, 9)
    ]
    with torch.no_grad():
        packed = packed_loss(model, tuple(row))
        alone = sum(packed_loss(model, (sample,)) for sample in row)
    if torch.isclose(packed, alone):
        lora.check_packing(model)
    else:
        with pytest.raises(guide.UnsupportedModelError, match="got attention between them"):
            lora.check_packing(model)


def test_only_answers_are_learnt(base, tokenizer, examples):
    sample = encode_example(tokenizer, examples[0])
    ids = torch.tensor([sample.input_ids])
    with torch.no_grad():
        logs = base(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    of_each = -logs.gather(-1, ids[0, 1:, None])[:, 0]
    answer = tokenizer.encode(" " + examples[0].answer + "</s>", add_special_tokens=False)
    assert list(sample.input_ids[sample.answer :]) == answer
    wanted = of_each[-len(answer) :].sum()
    torch.testing.assert_close(packed_loss(base, (sample,)), wanted)


def test_a_prompt_is_tokenized_as_generation_sees_it(tokenizer, examples):
    model, _ = guide.load_embedded()
    for example in (examples[0], Example("Some <!!->text<-!!>.", " Un chat.")):
        prompt = example.prompt if isinstance(example.prompt, str) else list(example.prompt)
        seen = guide.encode(model, tokenizer, prompt)["input_ids"][0].tolist()
        sample = encode_example(tokenizer, example)
        assert list(sample.input_ids[: sample.answer]) == seen
        assert sample.input_ids[-1] == tokenizer.eos_token_id


def test_wrong_examples(tokenizer):
    with pytest.raises(ValueError, match="an example must have a prompt and an answer"):
        encode_example(tokenizer, Example("Some text.", ""))
    other = guide.load_tokenizer(MODEL)
    other.chat_template = "{% for m in messages|reverse %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="must write an answer behind the prompt"):
        encode_example(other, Example([{"role": "user", "content": "Hi"}], "Salut"))
    for seed in (evaluate.DEVELOPMENT_SEED, evaluate.FINAL_SEED):
        with pytest.raises(ValueError, match="training would see its texts"):
            embedded_examples(3, task=CaseKind.FRENCH, tokenizer=tokenizer, seed=seed)


def test_training_sees_no_document_of_an_evaluation(tokenizer):
    training = {
        e.prompt[0]["content"]
        for e in embedded_examples(300, task=CaseKind.FRENCH, tokenizer=tokenizer)
    }
    for seed in (evaluate.DEVELOPMENT_SEED, evaluate.FINAL_SEED, 2026):
        cases = evaluate.make_cases(CaseKind.FRENCH, 120, seed, tokenizer=tokenizer)
        texts = {case.prompt.replace("<!!->", "").replace("<-!!>", "") for case in cases}
        assert not texts & training
        assert seed != TRAINING_SEED
