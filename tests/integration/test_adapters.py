# SPDX-License-Identifier: MIT
"""Every kind of adapter of peft, steered, against the same adapted model under eager attention."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any

import models
import pytest
import torch

import guide_ext.integration as guide

peft = pytest.importorskip("peft")

ROWS, TOKENS = 2, 9
_ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
_ONE = {"target_modules": ["q_proj"]}
_RANK = {**_ATTENTION, "r": 4}

# What each kind needs to fit into the tiny model.
KINDS: dict[str, dict[str, Any]] = {
    "LORA": _RANK,
    "IA3": {
        "target_modules": ["k_proj", "v_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
    "OFT": {**_ATTENTION, "oft_block_size": 4, "r": 0},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6]},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
}
# They put other numbers into the same linear modules.
OF_LINEAR_MODULES: dict[str, dict[str, Any]] = {
    "ADALORA": {**_ONE, "total_step": 10},
    "ADAMSS": _ATTENTION,
    "BEFT": _ATTENTION,
    "BOFT": {**_ATTENTION, "boft_block_size": 4},
    "C3A": {**_ONE, "block_size": 8},
    "DEFT": _ATTENTION,
    "DELORA": _ATTENTION,
    "FOURIERFT": {**_ONE, "n_frequency": 10},
    "FROD": _ATTENTION,
    "GLORA": _ATTENTION,
    "GRALORA": _ATTENTION,
    "HIRA": _ATTENTION,
    "HRA": _ATTENTION,
    "LILY": _ATTENTION,
    "LOHA": _RANK,
    "LOKR": _RANK,
    "MISS": _RANK,
    "OSF": _ATTENTION,
    "PEANUT": _ATTENTION,
    "POLY": {**_ONE, "n_tasks": 2, "n_skills": 2, "n_splits": 2},
    "PSOFT": _RANK,
    "PVERA": _ONE,
    "RANDLORA": _ONE,
    "ROAD": {**_ATTENTION, "group_size": 4},
    "SHIRA": _RANK,
    "SUPERTUNING": _ATTENTION,
    "TINYLORA": _ATTENTION,
    "UNILORA": _ATTENTION,
    "VBLORA": {**_ONE, "num_vectors": 8, "vector_length": 8, "topk": 2},
    "VERA": _ONE,
    "WAVEFT": {**_ONE, "n_frequency": 10},
}
# They put virtual tokens before the text.
VIRTUAL: dict[str, dict[str, Any]] = {
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "P_TUNING": {"num_virtual_tokens": 3},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "CPT": {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1] * 3, "cpt_tokens_type_mask": [1] * 3},
}


def adapted(kind, *, enabled="not", **options):
    """A model with a random adapter of this kind, in peft's wrapper."""
    config = configuration(kind, options)
    model = models.make("llama")
    if enabled == "before":
        guide.enable(model)
    torch.manual_seed(7)
    wrapped = peft.get_peft_model(model, config).eval()
    randomise(wrapped)
    if enabled == "after":
        guide.enable(wrapped.get_base_model())
    return wrapped


def configuration(kind, options):
    known = getattr(peft.PeftType, kind, None)
    if known is None:
        pytest.skip(f"this peft has no {kind}")
    settings = {**KINDS, **OF_LINEAR_MODULES, **VIRTUAL}[kind]
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[known](task_type="CAUSAL_LM", **settings, **options)


def randomise(model):
    """Most adapters do nothing at first, and a lost one would not show."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.2 * noise.to(parameter.dtype))


@contextmanager
def eager(model, bias):
    """The reference, in peft's wrapper: only what computes attention to the text gets the bias."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "attention_modules", text_attention)
        with models.steered_eager(base_of(model), bias), torch.no_grad():
            yield model


def text_attention(model):
    return [module for module in model.modules() if type(module).__name__ == "LlamaAttention"]


def base_of(model):
    return model.base_model.model if hasattr(model, "base_model") else model


def logits(model, inputs, **arguments):
    with torch.no_grad():
        return model(**inputs, **arguments, use_cache=False).logits


def compare(make, padding=3, **call):
    """Compare logits and greedy tokens of a model that `make` makes, enabled or not."""
    inputs, bias = models.prompts(padding=padding), models.marks()
    plain = make("not")
    with eager(plain, bias):
        wanted = logits(plain, inputs, **call)
        tokens = plain.generate(**inputs, **call, **GREEDY, use_cache=False)
    unsteered = logits(plain, inputs, **call)
    mask = inputs["attention_mask"]
    with pytest.raises(AssertionError):  # the reference is steered
        models.assert_logits_close(unsteered, wanted, mask)
    for enabled in ("before", "after"):
        model = make(enabled)
        if model is None:
            continue
        found = logits(model, inputs, guide_bias=bias, **call)
        models.assert_logits_close(found, wanted, mask)
        how = {} if padding else {"use_cache": False}
        found = model.generate(**inputs, guide_bias=bias, **call, **GREEDY, **how)
        assert torch.equal(found, tokens)


GREEDY = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}


def test_every_kind_is_here():
    """A kind that peft adds needs a line in one of the tables, or a test of its own."""
    others = {
        "XLORA",  # below
        "SHADOW",  # a second, smaller model; it fails under plain eager attention, too
    }
    known = {kind.value for kind in peft.PeftType}
    assert known <= others | {*KINDS, *OF_LINEAR_MODULES, *VIRTUAL}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ADAPTION_PROMPT"])
def test_exact(kind):
    compare(lambda enabled: adapted(kind, enabled=enabled))


@pytest.mark.long
@pytest.mark.parametrize("kind", OF_LINEAR_MODULES)
def test_exact_in_linear_modules(kind):
    call = {"task_ids": torch.zeros(ROWS, dtype=torch.long)} if kind == "POLY" else {}

    def make(enabled):
        if kind == "POLY" and enabled == "after":
            return None  # refused: it cannot run on token ids alone
        return adapted(kind, enabled=enabled)

    # LILY chooses by the mean over all tokens of a call, padding included.
    compare(make, padding=0 if kind == "LILY" else 3, **call)


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["dora", "saved"]
)
def test_variants_of_lora(options):
    compare(lambda enabled: adapted("LORA", enabled=enabled, **options))


class TestAdaptionPrompt:
    """It wraps attention, and adds attention to tokens of its own, which no bias belongs to."""

    def test_enabled_before(self):
        compare(
            lambda enabled: (
                None if enabled == "after" else adapted("ADAPTION_PROMPT", enabled=enabled)
            )
        )

    def test_enabled_after(self):
        """peft has kept the forward of the model as it was, so no hook sees the call."""
        model = adapted("ADAPTION_PROMPT", enabled="after")
        with pytest.raises(
            ValueError, match=r"guide_bias must .* enable the model before you wrap it"
        ):
            logits(model, models.prompts(), guide_bias=models.marks())


@pytest.mark.parametrize("kind", VIRTUAL)
class TestVirtualTokens:
    """They would shift all marks."""

    @pytest.fixture
    def model(self, kind):
        if kind == "PREFIX_TUNING" or kind == "CARTRIDGE":
            return adapted(kind, enabled="before")
        return adapted(kind, enabled="after")

    @pytest.fixture
    def call(self, kind):
        tasks = torch.zeros(ROWS, dtype=torch.long)
        return {"task_ids": tasks} if kind == "MULTITASK_PROMPT_TUNING" else {}

    def test_refused(self, model, call):
        with pytest.raises(ValueError, match=r"\[2, 12\], aligned .*, got shape \[2, 9\]"):
            logits(model, models.prompts(), guide_bias=models.marks(), **call)

    def test_generate(self, model, call):
        for tokens in (TOKENS, TOKENS + 3):
            with pytest.raises((ValueError, RuntimeError), match=r"guide_bias|cache"):
                model.generate(
                    **models.prompts(), guide_bias=models.marks(tokens=tokens), **call, **GREEDY
                )


class TestSeveralAdapters:
    def make(self, enabled):
        model = adapted("LORA", enabled="not" if enabled == "after" else enabled)
        model.add_adapter("other", configuration("LORA", {}))
        torch.manual_seed(9)
        model.eval()
        randomise(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".other." in name:
                    parameter.mul_(-2)
        if enabled == "after":
            guide.enable(model.get_base_model())
        return model

    def test_of_one_batch(self):
        compare(self.make, adapter_names=["default", "other"])
        compare(self.make, adapter_names=["other", "__base__"])

    def test_switched_after_enable(self):
        plain, model = self.make("not"), self.make("before")
        inputs, bias = models.prompts(), models.marks()
        for name in ("other", "default"):
            plain.set_adapter(name)
            model.set_adapter(name)
            with eager(plain, bias):
                wanted = logits(plain, inputs)
            found = logits(model, inputs, guide_bias=bias)
            models.assert_logits_close(found, wanted, inputs["attention_mask"])
        with plain.disable_adapter(), model.disable_adapter():
            with eager(plain, bias):
                wanted = logits(plain, inputs)
            found = logits(model, inputs, guide_bias=bias)
            models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_mixture_of_adapters(self, tmp_path):
        """X-LoRA runs the model twice, the first time to find out how much of each adapter."""
        for name in ("default", "other"):
            self.make("not").save_pretrained(tmp_path, selected_adapters=[name])
        places = {"0": str(tmp_path), "1": str(tmp_path / "other")}  # peft's names for them

        def make(enabled):
            model = models.make("llama")
            model.config.use_cache = False
            if enabled == "before":
                guide.enable(model)
            torch.manual_seed(3)
            config = peft.XLoraConfig(
                task_type="CAUSAL_LM", hidden_size=32, adapters=places, xlora_depth=1
            )
            wrapped = peft.get_peft_model(model, config).eval()
            if enabled == "after":
                guide.enable(wrapped.base_model.lora_model.model)
            return wrapped

        plain, inputs, bias = make("not"), models.prompts(), models.marks()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "attention_modules", text_attention)
            inner = plain.base_model.lora_model.model
            with models.steered_eager(inner, bias), torch.no_grad():
                wanted = plain(**inputs).logits
        for enabled in ("before", "after"):
            with torch.no_grad():
                found = make(enabled)(**inputs, guide_bias=bias).logits
            models.assert_logits_close(found, wanted, inputs["attention_mask"])


class TestMerged:
    @pytest.mark.parametrize("enabled", ["before", "after"])
    def test_merge_and_unload(self, enabled):
        inputs, bias = models.prompts(), models.marks()
        plain = adapted("LORA")
        with eager(plain, bias):
            wanted = logits(plain, inputs)
        model = adapted("LORA", enabled=enabled).merge_and_unload()
        assert guide.is_enabled(model)
        found = logits(model, inputs, guide_bias=bias)
        models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_copied_and_loaded(self, tmp_path):
        inputs, bias = models.prompts(), models.marks()
        model = adapted("LORA", enabled="after")
        wanted = logits(model, inputs, guide_bias=bias)
        copied = copy.deepcopy(model)
        models.assert_logits_close(logits(copied, inputs, guide_bias=bias), wanted)
        model.save_pretrained(tmp_path)
        base = guide.enable(models.make("llama"))
        loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
        models.assert_logits_close(logits(loaded, inputs, guide_bias=bias), wanted)
        # The other way: transformers puts the adapter into the model itself.
        own = guide.enable(models.make("llama"))
        own.load_adapter(str(tmp_path))
        models.assert_logits_close(logits(own, inputs, guide_bias=bias), wanted)
