# SPDX-License-Identifier: MIT
"""Training a steered model: Trainer must neither lose the bias nor change the loss."""

from __future__ import annotations

import copy
import doctest
import inspect
import io
import pickle
from pathlib import Path
from types import SimpleNamespace

import models
import pytest
import torch
from datasets import Dataset
from models import logits
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

import guide_ext.integration as guide
from guide_ext.integration.call.arguments import STEERING_ARGUMENTS
from guide_ext.integration.model.forward import _InstanceForward

LEFT = SimpleNamespace(padding_side="left", pad_token_id=0)
RIGHT = SimpleNamespace(padding_side="right", pad_token_id=0)
RATE = 0.5
LENGTHS = (9, 6, 7, 9)


def examples(lengths=LENGTHS, **columns):
    generator = torch.Generator().manual_seed(3)
    found = []
    for row, tokens in enumerate(lengths):
        ids = torch.randint(1, models.VOCABULARY, (tokens,), generator=generator).tolist()
        bias = [0.0] * tokens
        bias[row % 3] = 5.0
        bias[-2] = -1.0
        found.append({"input_ids": ids, "labels": [-100] * 3 + ids[3:], "guide_bias": bias})
    return [{**one, **columns} for one in found]


def trainer_of(model, rows, collator, tmp_path, **options):
    data = Dataset.from_list(rows)
    settings = {
        "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_steps": 1, "learning_rate": RATE, "optim": "sgd",
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": [], "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, **options,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(output_dir=str(tmp_path), **settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
    )


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


def names(model):
    return set(STEERING_ARGUMENTS) <= set(inspect.signature(model.forward).parameters)


class _Doubled:
    """A forward of somebody else's, which travels with its model."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids=None, attention_mask=None, **kwargs):
        return type(self.model).forward(self.model, input_ids, attention_mask, **kwargs)


def _remake(config, weights):
    model = _OwnReduce(config)
    model.load_state_dict(weights)
    return model.eval()


class _OwnReduce(LlamaForCausalLM):
    def __reduce__(self):
        return _remake, (self.config, self.state_dict())


class TestForward:
    """The class that names the steering arguments is the model's own in every other respect."""

    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "doge"])
    def test_signature(self, architecture):
        plain = models.make(architecture)
        model = guide.enable(models.make(architecture))
        own = inspect.signature(plain.forward).parameters
        found = inspect.signature(model.forward).parameters
        assert [name for name in found if name not in STEERING_ARGUMENTS] == list(own)
        assert names(model)
        assert not names(plain)

    def test_class(self):
        plain, model = models.make("llama"), guide.enable(models.make("llama"))
        assert isinstance(model, type(plain))
        assert str(type(model)) == str(type(plain))
        assert type(model) is type(guide.enable(models.make("llama")))
        assert repr(model) == repr(plain)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert model.forward.__name__ == "forward"

    def test_enabled_again(self):
        model = guide.enable(models.make("llama"))
        kind = type(model)
        assert type(guide.enable(guide.disable(model))) is kind
        inputs = models.prompts()
        found = logits(model, inputs, guide_bias=models.marks())
        wanted = models.reference_logits(models.shared("llama"), inputs, models.marks())
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_refused_models_keep_their_class(self):
        model = models.make("bloom")
        kind = type(model)
        with pytest.raises(guide.UnsupportedModelError):
            guide.enable(model)
        assert type(model) is kind

    @pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
    def test_pickle(self, protocol):
        model, inputs = guide.enable(models.make("llama")), models.prompts()
        again = pickle.loads(pickle.dumps(model, protocol))
        assert names(again)
        assert type(again) is type(model)
        wanted = logits(model, inputs, guide_bias=models.marks())
        assert torch.equal(logits(again, inputs, guide_bias=models.marks()), wanted)

    def test_pickle_of_a_disabled_model_needs_nothing_of_ours(self):
        model = guide.disable(guide.enable(models.make("llama")))
        file = io.BytesIO()
        torch.save(model, file)
        assert b"guide" not in pickle.dumps(model)
        again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        assert type(again) is type(models.make("llama"))
        assert torch.equal(logits(again, models.prompts()), logits(model, models.prompts()))

    def test_copy(self):
        model = guide.enable(models.make("llama"))
        double = copy.deepcopy(model)
        with torch.no_grad():
            double.lm_head.weight.mul_(2)
        inputs = models.prompts()
        assert names(double)
        found, wanted = logits(double, inputs), 2 * logits(model, inputs)
        models.assert_logits_close(found, wanted)

    @pytest.mark.parametrize("travel", ["copy", "pickle"])
    def test_copy_of_a_forward_that_stands_on_the_model(self, travel):
        """As accelerate's hooks stand there: the copy runs itself, not the first."""
        accelerate = pytest.importorskip("accelerate")
        model, inputs = models.make("llama"), models.prompts()
        accelerate.hooks.add_hook_to_module(model, accelerate.hooks.ModelHook())
        guide.enable(model)
        if travel == "pickle":
            model.__dict__["forward"] = _InstanceForward(model, _Doubled(model))
            double = pickle.loads(pickle.dumps(model))
        else:
            double = copy.deepcopy(model)
        with torch.no_grad():
            double.lm_head.weight.mul_(2)
        assert names(double)
        for steering in ({}, {"guide_bias": models.marks()}):
            found, wanted = (
                logits(double, inputs, **steering),
                2 * logits(model, inputs, **steering),
            )
            models.assert_logits_close(found, wanted)

    def test_class_that_says_itself_how_it_is_made(self):
        model = models.make("llama")
        model.__class__ = _OwnReduce
        guide.enable(model)
        inputs = models.prompts(padding=0)
        wanted = logits(models.shared("llama"), inputs)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            models.assert_logits_close(logits(again, inputs), wanted)

    def test_unknown_name_on_a_disabled_model(self):
        model = guide.disable(guide.enable(models.make("llama")))
        with pytest.raises(ValueError, match=r"guide_other must go to an enabled model.*is not"):
            model(**models.prompts(), guide_other=torch.zeros(1))

    def test_called_without_hooks(self):
        model, inputs = guide.enable(models.make("llama")), models.prompts()
        wanted = logits(model, inputs, guide_bias=models.marks())
        with torch.no_grad():
            found = model.forward(**inputs, guide_bias=models.marks()).logits
        assert torch.equal(found, wanted)

    def test_replica_runs_itself(self):
        # As DataParallel makes copies, which share all but their parameters.
        model = guide.enable(models.make("llama"))
        replica = model._replicate_for_data_parallel()
        replica.lm_head = copy.deepcopy(model.lm_head)
        with torch.no_grad():
            replica.lm_head.weight.mul_(2)
        inputs = models.prompts()
        found = logits(replica, inputs, guide_bias=models.marks())
        wanted = 2 * logits(model, inputs, guide_bias=models.marks())
        models.assert_logits_close(found, wanted)

    def test_forward_that_stands_on_the_model(self):
        accelerate = pytest.importorskip("accelerate")
        model, inputs = models.make("llama"), models.prompts()
        hook = accelerate.hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True)
        accelerate.hooks.add_hook_to_module(model, hook)
        guide.enable(model)
        assert names(model)
        found = logits(model, inputs, guide_bias=models.marks())
        wanted = models.reference_logits(models.shared("llama"), inputs, models.marks())
        models.assert_logits_close(found, wanted, inputs["attention_mask"])
        guide.disable(model)
        with pytest.raises(ValueError, match="guide_bias must go to an enabled model"):
            model(**inputs, guide_bias=models.marks())
        assert names(guide.enable(model))

    @pytest.mark.parametrize("strict", [False, True])
    def test_export(self, strict):
        model, inputs = guide.enable(models.make("llama")), models.prompts()
        given = {**inputs, "guide_bias": models.marks(), "use_cache": False}
        with torch.no_grad():
            program = torch.export.export(model, (), given, strict=strict)
            found = program.module()(**given).logits
        assert torch.equal(found, logits(model, given))

    def test_positional_arguments_compiled(self):
        torch._dynamo.reset()
        model, inputs = guide.enable(models.make("llama")), models.prompts()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        with torch.no_grad():
            found = compiled(
                inputs["input_ids"], inputs["attention_mask"], guide_bias=models.marks()
            ).logits
        models.assert_logits_close(
            found, logits(model, inputs, guide_bias=models.marks()), inputs["attention_mask"]
        )


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
