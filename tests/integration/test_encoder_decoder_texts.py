# SPDX-License-Identifier: MIT
"""Encoder–decoders and encoders from prompts with tags to answers, batches for training, files."""

import encoder_decoders as zoo
import pytest
import torch
from datasets import Dataset
from encoder_decoders import make
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import guide_ext.integration as guide
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.integration.rows import answer_rows
from guide_ext.steering.steering import Steering

ANSWERS = ["Le chat dort.", "Le chien mange du pain ici."]
TEXTS = ["<!!->The cat<-!!> sleeps in the old house.", "The dog eats <!1->bread<-!>."]


@pytest.fixture(scope="module")
def tokenizer():
    return guide.load_embedded()[1]


@pytest.fixture(params=["bart", "t5"])
def model(request, tokenizer):
    settings = {"dropout_rate": 0.0} if request.param == "t5" else {}
    return guide.enable(make(request.param, vocab_size=len(tokenizer), **settings))


class TestEncode:
    def test_the_source_is_padded_on_the_right(self, model, tokenizer):
        inputs = guide.encode(model, tokenizer, TEXTS, delta=2.0)
        mask = inputs["attention_mask"].bool()
        assert mask[:, 0].all()
        assert not mask[1, -1]
        assert inputs["guide_bias"][0].max() == 2.0
        assert inputs["guide_bias"][1].max() == 1.0
        for row, text in enumerate(TEXTS):
            alone = guide.encode(model, tokenizer, text, delta=2.0)
            for name, values in alone.items():
                torch.testing.assert_close(inputs[name][row, : values.shape[1]], values[0])

    def test_a_row_of_a_batch_answers_as_alone(self, model, tokenizer):
        inputs = guide.encode(model, tokenizer, TEXTS, delta=2.0)
        how = {"max_new_tokens": 6, "do_sample": False}
        together = model.generate(**inputs, **how)
        for row, text in enumerate(TEXTS):
            alone = model.generate(**guide.encode(model, tokenizer, text, delta=2.0), **how)
            assert torch.equal(together[row : row + 1], alone)

    def test_what_the_decoder_begins_with(self, model, tokenizer):
        begins = ["The <!!->cat<-!!>", "The <!!->dog<-!!>"]
        inputs = guide.encode(model, tokenizer, TEXTS, delta=2.0, decoder_prompts=begins)
        ids = inputs["decoder_input_ids"]
        assert ids[:, 0].tolist() == [zoo.START] * 2
        said = tokenizer.batch_decode(ids[:, 1:])
        assert [text.strip() for text in said] == ["The cat", "The dog"]
        marked = inputs["guide_decoder_bias"] != 0
        assert marked.sum(1).tolist() == [1, 1]
        assert marked[:, -1].all()
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(output[:, : ids.shape[1]], ids)

    def test_layers_by_kind(self, model, tokenizer):
        assert guide.layers_of(model, "encoder") == (0, 1)
        assert guide.layers_of(model, "cross") == (3, 5)
        assert guide.layers_of(model, "decoder") == (2, 4)
        steering = Steering.guide(2.0, layers=guide.layers_of(model, "cross"))
        inputs = guide.encode(model, tokenizer, TEXTS, steering=steering)
        assert inputs["guide_strength"].sum((0, 2)).tolist() == [0, 0, 0, 8, 0, 8]
        with pytest.raises(ValueError, match="kind must be encoder, cross or decoder, got 'self'"):
            guide.layers_of(model, "self")

    def test_what_does_not_fit(self, model, tokenizer):
        decoder, _ = guide.load_embedded()
        cases = {
            "decoder_prompts must be one, or one per prompt: 2, got 3": (model, ["a"] * 3),
            "as many tokens in every row": (model, ["Le chat", "The dog"]),
            "must go to an encoder–decoder, got": (decoder, "Le"),
        }
        for message, (which, begins) in cases.items():
            with pytest.raises(ValueError, match=message):
                guide.encode(which, tokenizer, TEXTS, decoder_prompts=begins)
        with pytest.raises(ValueError, match="min_share must go to a model with one text"):
            guide.encode(model, tokenizer, TEXTS, min_share=0.1)
        with pytest.raises(ValueError, match="kind must be of an encoder–decoder"):
            guide.layers_of(decoder, "cross")
        model.generation_config.decoder_start_token_id = None
        model.generation_config.bos_token_id = None
        with pytest.raises(ValueError, match="a decoder_start_token_id"):
            guide.encode(model, tokenizer, TEXTS, decoder_prompts="Le")


class TestAnswers:
    def test_answers_are_what_generate_writes(self, model, tokenizer):
        answers = guide.complete(model, tokenizer, TEXTS, delta=2.0, max_new_tokens=6)
        inputs = guide.encode(model, tokenizer, TEXTS, delta=2.0)
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert answers == tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
        first = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        guided, plain = (
            model.generate(**{**inputs, "guide_bias": bias}, **first).logits[0]
            for bias in (inputs["guide_bias"], None)
        )
        assert not torch.allclose(guided, plain, atol=1e-3)
        rows = answer_rows(
            model, tokenizer, TEXTS, seeds=[1, 2], steering=[Steering.guide(2.0)] * 2,
            max_new_tokens=6,
        )  # fmt: skip
        assert [text for text, _ in rows] == answers

    def test_the_first_token_that_a_checkpoint_asks_for_is_kept(self, tokenizer):
        model = guide.enable(make("mbart", vocab_size=len(tokenizer)))
        word = tokenizer("chat", add_special_tokens=False)["input_ids"][0]
        model.generation_config.forced_bos_token_id = word
        [answer] = guide.complete(model, tokenizer, TEXTS[:1], max_new_tokens=3)
        assert answer.strip().startswith(tokenizer.decode([word]).strip())

    def test_sampled_answers_do_not_depend_on_their_batch(self, model, tokenizer):
        how = {"temperature": 1.0, "seed": 7, "max_new_tokens": 6}
        first, second = guide.complete(model, tokenizer, TEXTS, **how)
        assert [second, first] == guide.complete(model, tokenizer, TEXTS[::-1], batch_size=1, **how)

    def test_likelihoods_are_refused(self, model, tokenizer):
        with pytest.raises(ValueError, match=r"log_likelihoods\(\) must go to a model with one"):
            log_likelihoods(model, tokenizer, TEXTS[0], ["chat"], [Steering.guide(1.0)])


def test_load_reads_a_folder(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, own = guide.load(str(tmp_path), device="cpu")
    assert type(loaded).__name__ == type(model).__name__
    assert guide.is_enabled(loaded)
    how = {"delta": 2.0, "max_new_tokens": 6}
    assert guide.complete(loaded, own, TEXTS, **how) == guide.complete(
        model, tokenizer, TEXTS, **how
    )


class TestTraining:
    @staticmethod
    def examples(model, tokenizer, **more):
        found = []
        for text, answer in zip(TEXTS, ANSWERS, strict=True):
            inputs = guide.encode(model, tokenizer, text, delta=2.0)
            found.append({
                "input_ids": inputs["input_ids"][0].tolist(),
                "guide_bias": inputs["guide_bias"][0].tolist(),
                "labels": tokenizer(answer, add_special_tokens=False)["input_ids"],
                **more,
            })  # fmt: skip
        return found

    def test_both_texts_are_padded_each_to_its_own_length(self, model, tokenizer):
        rows = self.examples(model, tokenizer)
        for row in rows:
            row["guide_decoder_bias"] = [1.0] + [0.0] * (len(row["labels"]) - 1)
        batch = guide.SteeringCollator(model, tokenizer)(rows)
        sizes = {name: tuple(values.shape) for name, values in batch.items()}
        source = (2, max(len(row["input_ids"]) for row in rows))
        target = (2, max(len(row["labels"]) for row in rows))
        assert sizes == {
            "input_ids": source, "attention_mask": source, "guide_bias": source,
            "labels": target, "guide_decoder_bias": target,
        }  # fmt: skip
        assert source != target
        assert batch["attention_mask"][:, 0].all()
        assert (batch["labels"][0] == -100).sum() == target[1] - len(rows[0]["labels"])
        model(**batch).loss.backward()

    def test_a_label_keeps_its_number(self, model, tokenizer):
        """The model reads a label one token later, and the bias goes with it."""
        rows = self.examples(model, tokenizer)[:1]
        labels = rows[0]["labels"]
        rows[0]["guide_decoder_bias"] = [0.0, 3.0] + [0.0] * (len(labels) - 2)
        batch = guide.SteeringCollator(model, tokenizer)(rows)
        ids = torch.tensor([[zoo.START, *labels[:-1]]])
        moved = torch.tensor([[0.0, 0.0, 3.0] + [0.0] * (len(labels) - 3)])
        by_ids = {"decoder_input_ids": ids, "guide_decoder_bias": moved}
        kept = {name: v for name, v in batch.items() if name not in ("labels", *by_ids)}
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, model(**kept, **by_ids).logits)

    def test_a_column_of_another_length(self, model, tokenizer):
        collate = guide.SteeringCollator(model, tokenizer)
        rows = self.examples(model, tokenizer, guide_decoder_bias=[0.0])
        with pytest.raises(ValueError, match=r"guide_decoder_bias must have .* tokens of labels"):
            collate(rows)
        for row in rows:
            row.pop("guide_decoder_bias")
            row.pop("guide_bias")
        with pytest.raises(ValueError, match="labels and guide_bias or guide_decoder_bias, got"):
            collate(rows)

    def test_trainer_keeps_the_bias(self, model, tokenizer, tmp_path):
        seen = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["guide_bias"].abs().sum().item()),
            with_kwargs=True,
            prepend=True,
        )
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=Dataset.from_list(self.examples(model, tokenizer)),
            data_collator=guide.SteeringCollator(model, tokenizer),
        )  # fmt: skip
        assert 0 < trainer.train().training_loss < 20
        assert seen
        assert min(seen) > 0


def test_an_encoder_classifies_a_row_of_a_batch_as_alone(tokenizer):
    """Padding on the left would move the positions of the shorter text."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, initializer_range=0.3, num_labels=3, max_position_embeddings=64,
    )  # fmt: skip
    model = guide.enable(BertForSequenceClassification(config).eval())
    inputs = guide.encode(model, tokenizer, TEXTS, delta=2.0)
    assert inputs["attention_mask"][:, 0].all()
    with torch.no_grad():
        together = model(**inputs).logits
        plain = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for row, text in enumerate(TEXTS):
            alone = model(**guide.encode(model, tokenizer, text, delta=2.0)).logits
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, plain, atol=1e-2)
