# SPDX-License-Identifier: MIT
"""Quantised weights and caches: steered, against the same quantised model under eager attention.

torchao, optimum-quanto and hqq are no part of the development environment; what needs them is
skipped without.
"""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import CACHE
from transformers import QuantizedCache

import guide_ext.integration as guide

# Groups of weights must divide the sizes of all modules.
SIZES = {"intermediate_size": 64}


def make(quantise=None, enabled="not"):
    model = models.make("llama", **SIZES)
    if enabled == "before":
        guide.enable(model)
    if quantise is not None:
        quantise(model)
    if enabled == "after":
        guide.enable(model)
    return model


def compare(quantise, *, is_copied=True):
    """Compare logits, and the greedy tokens of cached steps, in both orders of enabling."""
    inputs, bias = models.prompts(), models.marks()
    plain = make(quantise)
    wanted = models.reference_generation(plain, inputs, bias)
    exact = models.reference_generation(make(), inputs, bias)
    with pytest.raises(AssertionError):  # the weights are quantised
        models.assert_logits_close(wanted.logits[0], exact.logits[0])
    for enabled in ("before", "after"):
        model = make(quantise, enabled)
        for one in (model, copy.deepcopy(model)) if is_copied else (model,):
            found = models.generation(one, {**inputs, "guide_bias": bias})
            models.assert_same_generation(found, wanted)


class TestWeights:
    @pytest.mark.parametrize("bits", [8, 4])
    def test_torchao(self, bits):
        quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
        granularity = pytest.importorskip("torchao.quantization.granularity")
        config = (
            quantization.Int8WeightOnlyConfig()
            if bits == 8
            else quantization.IntxWeightOnlyConfig(
                weight_dtype=torch.int4, granularity=granularity.PerGroup(16)
            )
        )
        compare(lambda model: quantization.quantize_(model, config))

    def test_torchao_while_loading(self, tmp_path):
        quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
        from transformers import AutoModelForCausalLM, TorchAoConfig

        make().save_pretrained(tmp_path)
        config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        inputs, bias = models.prompts(), models.marks()
        wanted = models.reference_logits(model, inputs, bias)
        found = models.logits(guide.enable(model), inputs, guide_bias=bias)
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_quanto(self):
        quanto = pytest.importorskip("optimum.quanto", reason="needs optimum-quanto")

        def quantise(model):
            quanto.quantize(model, weights=quanto.qint8)
            quanto.freeze(model)

        compare(quantise, is_copied=False)  # quanto's tensors cannot be copied


def cache_config(backend):
    if backend == "hqq":
        pytest.importorskip("hqq.core.quantize", reason="needs hqq")
        return {"backend": "hqq", "nbits": 4, "q_group_size": 8, "axis_key": 1, "axis_value": 1}
    if backend == "quanto":
        pytest.importorskip("optimum.quanto", reason="needs optimum-quanto")
        return {"backend": "quanto", "nbits": 4, "q_group_size": 8}
    return {"backend": "fp8"}


@pytest.mark.parametrize("backend", ["quanto", "hqq", "fp8"])
class TestCaches:
    def both(self, backend, inputs, bias, **options):
        config = {**cache_config(backend), "residual_length": 4}
        if backend == "fp8":
            config = cache_config(backend)
        options = {"cache_implementation": "quantized", "cache_config": config, **options}
        plain = models.make("llama")
        with models.steered_eager(plain, bias):
            wanted = models.generation(plain, inputs, **options)
        model = guide.enable(models.make("llama"))
        return models.generation(model, {**inputs, "guide_bias": bias}, **options), wanted

    @pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
    def test_equals_the_same_cache_under_eager(self, backend, options):
        # hqq's groups go over several tokens, and padding has other values under eager attention.
        inputs = models.prompts(padding=0 if backend == "hqq" else 3)
        bias = models.marks()
        found, wanted = self.both(backend, inputs, bias, **options)
        models.assert_same_generation(found, wanted)
        exact = models.reference_generation(models.shared("llama"), inputs, bias, **options)
        with pytest.raises(AssertionError):  # the cache is quantised
            models.assert_same_generation(found, exact)

    def test_other_bias_is_refused(self, backend):
        config = cache_config(backend)
        model, inputs = guide.enable(models.make("llama")), models.prompts(padding=0)
        cache = QuantizedCache(config=model.config, **config)
        models.generation(model, {**inputs, "guide_bias": models.marks(), CACHE: cache})
        more = torch.cat([inputs["input_ids"]] * 2, 1)
        longer = torch.nn.functional.pad(models.marks(), (0, 9))
        given = {"input_ids": more, "attention_mask": torch.ones_like(more), CACHE: cache}
        with pytest.raises(ValueError, match="guide_bias must leave the tokens in the cache"):
            models.generation(model, {**given, "guide_bias": longer * 2})
        models.generation(model, {**given, "guide_bias": longer})
