# SPDX-License-Identifier: MIT
"""The collator of steered batches: what it makes, and what it and Trainer refuse."""

from __future__ import annotations

import pickle

import models
import pytest
import torch
from trainer_cases import LEFT, LENGTHS, RIGHT, examples, trainer_of
from transformers import default_data_collator

import guide_ext.integration as guide
from guide_ext.integration.call.arguments import STEERING_ARGUMENTS


class TestRefusal:
    def test_disabled(self, tmp_path):
        model = guide.disable(guide.enable(models.make("llama")))
        trainer = trainer_of(model, examples((7, 7, 7, 7)), default_data_collator, tmp_path)
        with pytest.raises(ValueError, match=r"guide_bias must go to an enabled .*no longer"):
            trainer.train()

    def test_disabled_under_the_collator(self, tmp_path):
        model = guide.enable(models.make("llama"))
        trainer = trainer_of(model, examples(), guide.SteeringCollator(model, LEFT), tmp_path)
        guide.disable(model)
        with pytest.raises(ValueError, match="model must be enabled, got a LlamaForCausalLM"):
            trainer.train()

    @pytest.mark.parametrize("name", STEERING_ARGUMENTS)
    def test_disabled_forward(self, name):
        model = guide.disable(guide.enable(models.make("llama")))
        with pytest.raises(ValueError, match=f"{name} must go to an enabled model"):
            model(**models.prompts(), **{name: models.marks()})

    def test_never_enabled(self):
        with pytest.raises(ValueError, match="model must be enabled, got a LlamaForCausalLM"):
            guide.SteeringCollator(models.make("llama"), LEFT)

    def test_columns_that_were_dropped(self, tmp_path):
        collate = guide.SteeringCollator(guide.enable(models.make("llama")), LEFT)
        trainer = trainer_of(models.make("llama"), examples(), collate, tmp_path)
        with pytest.raises(ValueError, match=r"must have input_ids and guide_bias.*got.*drops"):
            trainer.train()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"guide_bias": [0.0]}, "guide_bias must have one number for each of the 6 tokens"),
            ({"labels": None}, "features must all have the same columns"),
            ({"guide_seed": [[1.0]]}, "features must all have the same columns"),
            ({"guide_bias": None}, "features must have input_ids and guide_bias"),
            ({"input_ids": None}, "features must have input_ids and guide_bias"),
            (
                {"input_ids": torch.ones(1, 6, dtype=torch.long)},
                "input_ids must be the tokens of one example, without a batch dimension",
            ),
        ],
    )
    def test_features(self, change, message):
        collate = guide.SteeringCollator(guide.enable(models.make("llama")), LEFT)
        first, second = examples((9, 6))
        with pytest.raises(ValueError, match=f"{message}.* in row 1 of the batch"):
            collate([first, {**second, **change}])

    def test_features_that_are_none(self):
        collate = guide.SteeringCollator(guide.enable(models.make("llama")), LEFT)
        with pytest.raises(ValueError, match=r"features must be examples.* got str in row 0"):
            collate(["a"])

    def test_no_features(self):
        collate = guide.SteeringCollator(guide.enable(models.make("llama")), LEFT)
        with pytest.raises(ValueError, match="features must be at least one, got none"):
            collate([])

    def test_prompt_tuning(self):
        # Its virtual tokens stand before the text, and move every slot.
        peft = pytest.importorskip("peft")
        model = guide.enable(models.make("llama"))
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        adapted = peft.get_peft_model(model, config)
        with pytest.raises(ValueError, match=r"guide_bias must be \[batch, tokens\]"):
            adapted(**models.prompts(), guide_bias=models.marks())


class TestCollator:
    def test_wrapped_models(self):
        peft = pytest.importorskip("peft")
        model = guide.enable(models.make("llama"))
        config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, config)
        for wrapper in (adapted, torch.compile(adapted), torch.nn.DataParallel(adapted)):
            assert guide.SteeringCollator(wrapper, LEFT)(examples())["guide_bias"].shape == (4, 9)

    def test_travels_without_the_model(self):
        model = guide.enable(models.make("llama"))
        collate = guide.SteeringCollator(model, LEFT)
        data = pickle.dumps(collate)
        assert len(data) < 1000
        wanted, found = collate(examples()), pickle.loads(data)(examples())
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    def test_tensors(self):
        model = guide.enable(models.make("llama"))
        collate = guide.SteeringCollator(model, RIGHT)
        rows = examples(LENGTHS)
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        tensors = [{name: torch.tensor(value) for name, value in row.items()} for row in rows]
        found, wanted = collate(tensors), collate(rows)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
