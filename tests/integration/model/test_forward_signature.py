# SPDX-License-Identifier: MIT
"""The class of an enabled model, whose forward names the steering arguments."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import models
import pytest
import torch
from models import logits
from trainer_cases import names
from transformers import LlamaForCausalLM

import guide_ext.integration as guide
from guide_ext.integration.call.arguments import STEERING_ARGUMENTS
from guide_ext.integration.model.forward import _InstanceForward


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
        model = models.make("openai-gpt")
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
