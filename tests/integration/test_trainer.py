# SPDX-License-Identifier: MIT
"""Training a steered model: Trainer must neither lose the bias nor change the loss."""

from __future__ import annotations

import doctest
from pathlib import Path

import models
import pytest
import torch
from torch.nn import functional as F
from trainer_cases import LEFT, LENGTHS, RATE, RIGHT, examples, names, trainer_of
from transformers import default_data_collator

import guide_ext.integration as guide


def loss_by_hand(model, rows, *, steered=True, smoothing=0.0, strength=None):
    """One row at a time, without padding; eager attention with the bias added to its mask."""
    total, count = torch.zeros(()), 0
    for row in rows:
        bias = torch.tensor([row["guide_bias"]]) * steered
        table = None if strength is None else torch.tensor([strength])
        with models.steered_eager(model, bias, table):
            scores = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits
        labels = torch.tensor(row["labels"])[1:]
        total = total + F.cross_entropy(
            scores[0, :-1], labels, reduction="sum", label_smoothing=smoothing
        )
        count += int((labels != -100).sum())
    return total / count


def assert_close(found, wanted):
    models.assert_logits_close(torch.as_tensor(found), torch.as_tensor(wanted))


def moved(before, model):
    """How far a step of training has moved each weight, in units of the gradient."""
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    return [(old - new).detach() / RATE for old, new in pairs]


class TestTrainer:
    @pytest.mark.parametrize("tokenizer", [LEFT, RIGHT], ids=["left", "right"])
    def test_step_is_that_of_the_steered_loss(self, tmp_path, tokenizer):
        model, rows = models.make("llama"), examples()
        wanted = loss_by_hand(model, rows)
        wanted.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        unsteered = loss_by_hand(model, rows, steered=False).item()
        trained = guide.enable(models.make("llama"))
        collate = guide.SteeringCollator(trained, tokenizer)
        trainer = trainer_of(trained, rows, collate, tmp_path)
        with torch.no_grad():  # evaluation takes the mean over batches
            batches = loss_by_hand(model, rows[:2]), loss_by_hand(model, rows[2:])
        assert_close(trainer.evaluate()["eval_loss"], sum(batches) / 2)
        assert_close(trainer.train().training_loss, wanted.item())
        assert abs(unsteered - wanted.item()) > 0.1
        for found, gradient in zip(moved(model, trained), gradients, strict=True):
            assert_close(found, gradient)

    def test_prediction(self, tmp_path):
        model, rows = guide.enable(models.make("llama")), examples()
        trainer = trainer_of(model, rows, guide.SteeringCollator(model, LEFT), tmp_path)
        scores = torch.tensor(trainer.predict(trainer.eval_dataset).predictions)
        for row, found in zip(rows, scores, strict=True):
            inputs = {"input_ids": torch.tensor([row["input_ids"]])}
            wanted = models.reference_logits(
                models.shared("llama"), inputs, torch.tensor([row["guide_bias"]])
            )
            assert_close(found[max(LENGTHS) - len(row["input_ids"]) :], wanted[0])

    def test_label_smoothing(self, tmp_path):
        model, rows = guide.enable(models.make("llama")), examples()
        collate = guide.SteeringCollator(model, LEFT)
        trainer = trainer_of(model, rows, collate, tmp_path, label_smoothing_factor=0.1)
        wanted = loss_by_hand(models.shared("llama"), rows, smoothing=0.1).item()
        assert_close(trainer.train().training_loss, wanted)

    def test_heads(self, tmp_path):
        strength = models.random_strength()[0].tolist()
        rows = examples(guide_strength=strength)
        model = guide.enable(models.make("llama"))
        trainer = trainer_of(model, rows, guide.SteeringCollator(model, LEFT), tmp_path)
        wanted = loss_by_hand(models.shared("llama"), rows, strength=strength).item()
        assert_close(trainer.train().training_loss, wanted)

    def test_share(self, tmp_path):
        rows = examples()
        for row in rows:
            row["guide_share"] = [0.4 * (nats > 0) for nats in row.pop("guide_bias")]
        model = guide.enable(models.make("llama"))
        batch = guide.SteeringCollator(model, LEFT)(rows)
        with torch.no_grad():
            labels = batch["labels"]
            wanted = F.cross_entropy(
                model(**{**batch, "labels": None}).logits[:, :-1].flatten(0, 1),
                labels[:, 1:].flatten(),
            )
        trainer = trainer_of(model, rows, guide.SteeringCollator(model, LEFT), tmp_path)
        assert_close(trainer.train().training_loss, wanted)

    def test_other_collators(self, tmp_path):
        model, rows = guide.enable(models.make("llama")), examples((7, 7, 7, 7))
        trainer = trainer_of(model, rows, default_data_collator, tmp_path)
        wanted = loss_by_hand(models.shared("llama"), rows).item()
        assert_close(trainer.train().training_loss, wanted)

    def test_adapters(self, tmp_path):
        peft = pytest.importorskip("peft")
        model, rows = guide.enable(models.make("llama")), examples()
        config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, config)
        trainer = trainer_of(adapted, rows, guide.SteeringCollator(adapted, LEFT), tmp_path)
        wanted = loss_by_hand(models.shared("llama"), rows).item()
        assert_close(trainer.train().training_loss, wanted)
        assert any(p.abs().max() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)

    def test_compiled(self, tmp_path):
        torch._dynamo.reset()
        model, rows = guide.enable(models.make("llama")), examples()
        options = {"torch_compile": True, "torch_compile_backend": "eager"}
        collate = guide.SteeringCollator(model, LEFT)
        trainer = trainer_of(model, rows, collate, tmp_path, **options)
        wanted = loss_by_hand(models.shared("llama"), rows).item()
        assert_close(trainer.train().training_loss, wanted)

    def test_twice_in_mixed_precision(self, tmp_path):
        # accelerate puts a forward of its own on the model, and the second Trainer reads that.
        model, rows = guide.enable(models.make("llama")), examples()
        collate = guide.SteeringCollator(model, LEFT)
        for _ in range(2):
            trainer = trainer_of(model, rows, collate, tmp_path, bf16=True, learning_rate=0.0)
            loss = trainer.train().training_loss
            assert "forward" in model.__dict__
            unwrapped = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            assert unwrapped is model
        wanted = loss_by_hand(models.shared("llama"), rows).item()
        unsteered = loss_by_hand(models.shared("llama"), rows, steered=False).item()
        assert abs(loss - wanted) < abs(loss - unsteered) / 4
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        assert names(model)


def test_the_page_trains(tmp_path):
    failed, attempted = doctest.testfile(
        str(Path(__file__).parents[2] / "docs" / "transformers.md"),
        module_relative=False,
        globs={"folder": tmp_path},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 5
