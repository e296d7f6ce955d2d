# SPDX-License-Identifier: MIT
"""`generate()` of an enabled model against eager recomputation without any cache."""

from __future__ import annotations

import threading

import models
import pytest
import torch
from models import Decoder, random_strength
from transformers import TextIteratorStreamer

import guide_ext.integration as guide

CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}}
MODES = {
    "beams": {"num_beams": 3},
    "beams returned": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
}


@pytest.fixture(params=models.ZOO)
def name(request):
    return request.param


@pytest.fixture(params=CACHES.values(), ids=CACHES.keys())
def cache(request):
    return request.param


def steered(name, inputs, bias, strength=None, **options):
    model = guide.enable(models.make(name))
    steering = {"guide_bias": bias}
    if strength is not None:
        steering["guide_strength"] = strength
    return models.generation(model, {**inputs, **steering}, **options)


class TestEqualsEager:
    @pytest.mark.parametrize("padding", [0, 3], ids=["unpadded", "left"])
    def test_greedy(self, name, cache, padding):
        inputs = models.prompts(padding=padding)
        wanted = models.reference_generation(models.shared(name), inputs, models.marks())
        models.assert_same_generation(steered(name, inputs, models.marks(), **cache), wanted)

    def test_strength(self, name, cache):
        inputs, strength = models.prompts(), random_strength()
        wanted = models.reference_generation(models.shared(name), inputs, models.marks(), strength)
        found = steered(name, inputs, models.marks(), strength, **cache)
        models.assert_same_generation(found, wanted)

    def test_one_prompt(self, cache):
        inputs, bias = models.prompts(rows=1), models.marks(rows=1)
        wanted = models.reference_generation(models.shared("llama"), inputs, bias)
        models.assert_same_generation(steered("llama", inputs, bias, **cache), wanted)

    @pytest.mark.parametrize("sliding", models.SLIDING)
    def test_marks_leave_the_window(self, sliding, cache):
        # 14 new tokens behind a window of 5: the marked tokens leave it, and the ring of a static
        # sliding cache turns twice.
        inputs, bias = models.prompts(padding=2), models.marks()
        options = {"max_new_tokens": 14}
        wanted = models.reference_generation(models.shared(sliding), inputs, bias, **options)
        models.assert_same_generation(steered(sliding, inputs, bias, **options, **cache), wanted)

    @pytest.mark.parametrize("tokens", [3, 4, 5, 6], ids=lambda tokens: f"prompt{tokens}")
    def test_prompts_around_the_window(self, tokens, cache):
        inputs = models.prompts(tokens=tokens, padding=1)
        bias = torch.linspace(-1, 2, 2 * tokens).view(2, tokens)
        wanted = models.reference_generation(models.shared("mistral"), inputs, bias)
        models.assert_same_generation(steered("mistral", inputs, bias, **cache), wanted)

    def test_without_a_cache(self, name):
        inputs = models.prompts()
        wanted = models.reference_generation(models.shared(name), inputs, models.marks())
        found = steered(name, inputs, models.marks(), use_cache=False)
        models.assert_same_generation(found, wanted)


class TestModesOfEveryModel:
    @pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
    def test_rows_are_repeated(self, name, options):
        inputs, bias = models.prompts(), models.marks()
        wanted = models.reference_generation(models.shared(name), inputs, bias, **options)
        models.assert_same_generation(steered(name, inputs, bias, **options), wanted)

    def test_prompt_in_chunks(self, name):
        inputs, bias = models.prompts(), models.marks()
        wanted = models.reference_generation(models.shared(name), inputs, bias)
        found = steered(name, inputs, bias, prefill_chunk_size=4)
        models.assert_same_generation(found, wanted)


class TestModes:
    @pytest.mark.parametrize("strength", [None, random_strength()], ids=["all", "strength"])
    @pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
    def test_rows_are_repeated(self, options, strength, cache):
        inputs = models.prompts()
        wanted = models.reference_generation(
            models.shared("mistral"), inputs, models.marks(), strength, **options
        )
        found = steered("mistral", inputs, models.marks(), strength, **options, **cache)
        models.assert_same_generation(found, wanted)

    @pytest.mark.parametrize("chunk", [1, 2, 4, 100])
    def test_chunked_prefill(self, chunk, cache):
        inputs = models.prompts()
        wanted = models.reference_generation(models.shared("gemma2"), inputs, models.marks())
        found = steered("gemma2", inputs, models.marks(), prefill_chunk_size=chunk, **cache)
        models.assert_same_generation(found, wanted)

    def test_prompt_lookup(self):
        inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 5, 6, 7, 9, 5, 6]])}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        bias = models.marks(rows=1, tokens=10)
        wanted = models.reference_generation(models.shared("llama"), inputs, bias)
        found = steered("llama", inputs, bias, prompt_lookup_num_tokens=2)
        assert found.sequences.tolist() == wanted.sequences.tolist()

    def test_assistant(self):
        inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
        wanted = models.reference_generation(models.shared("llama"), inputs, bias)
        assistant = guide.enable(models.make("llama", seed=9))
        found = steered("llama", inputs, bias, assistant_model=assistant)
        assert found.sequences.tolist() == wanted.sequences.tolist()

    def test_second_turn_with_the_cache_of_the_first(self):
        model = guide.enable(models.make("llama"))
        inputs, bias = models.prompts(padding=0), models.marks()
        first = models.generation(model, {**inputs, "guide_bias": bias}, max_new_tokens=2)
        more = models.prompts(tokens=4, padding=0, seed=2)["input_ids"]
        tokens = torch.cat([first.sequences, more], 1)
        whole = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        longer = torch.cat([bias, torch.zeros(2, 1), torch.full((2, 5), 0.5)], 1)
        # The token that was written last is not in the cache yet, so it may be marked, too.
        found = models.generation(
            model,
            {**whole, "guide_bias": longer, models.CACHE: first[models.CACHE]},
            max_new_tokens=2,
        )
        wanted = models.reference_generation(
            models.shared("llama"), whole, longer, max_new_tokens=2
        )
        models.assert_same_generation(found, wanted)

    def test_streamer_in_another_thread(self):
        model = guide.enable(models.make("llama"))
        inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
        wanted = models.generation(model, {**inputs, "guide_bias": bias}).sequences[0].tolist()
        streamer = TextIteratorStreamer(Numbers(), timeout=60)
        thread = threading.Thread(
            target=model.generate,
            kwargs={
                **inputs, "guide_bias": bias, "streamer": streamer, "max_new_tokens": 6,
                "do_sample": False,
            },
        )  # fmt: skip
        thread.start()
        text = "".join(streamer)
        thread.join()
        assert [int(word) for word in text.split()] == wanted

    def test_unconditional_pass_of_guidance_is_not_steered(self):
        inputs, bias = models.prompts(rows=1, padding=0), models.marks(rows=1)
        negative = models.prompts(rows=1, tokens=5, padding=0, seed=4)["input_ids"]
        model = guide.enable(models.make("llama"))
        with torch.no_grad():
            conditional = model(**inputs, guide_bias=bias).logits[:, -1].log_softmax(-1)
            unconditional = model(input_ids=negative).logits[:, -1].log_softmax(-1)
        wanted = 1.5 * (conditional - unconditional) + unconditional
        found = model.generate(
            **inputs, guide_bias=bias, guidance_scale=1.5, negative_prompt_ids=negative,
            max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        models.assert_logits_close(found.scores[0], wanted)


class TestUnsteered:
    def test_same_bits_as_without_enable(self, name, cache):
        plain = models.make(name)
        plain.set_attn_implementation("guide")
        inputs = models.prompts()
        wanted = models.generation(plain, inputs, **cache)
        found = models.generation(guide.enable(models.make(name)), inputs, **cache)
        assert_same_bits(found, wanted)

    def test_steered_generation_leaves_no_trace(self, cache):
        model = guide.enable(models.make("gemma2"))
        inputs = models.prompts()
        before = models.generation(model, inputs, **cache)
        models.generation(model, {**inputs, "guide_bias": models.marks()}, **cache)
        assert_same_bits(models.generation(model, inputs, **cache), before)

    def test_zero_bias_has_the_same_bits(self, cache):
        model = guide.enable(models.make("mistral"))
        inputs = models.prompts()
        found = models.generation(model, {**inputs, "guide_bias": torch.zeros(2, 9)}, **cache)
        assert_same_bits(found, models.generation(model, inputs, **cache))


class TestDenseModel:
    def test_greedy_with_a_cache_equals_without(self):
        inputs = models.prompts()
        wanted = steered("doge", inputs, models.marks(), use_cache=False)
        models.assert_same_generation(steered("doge", inputs, models.marks()), wanted)


class TestCompile:
    # A static sliding cache counts tokens in Python: transformers itself compiles it twice.
    @pytest.mark.parametrize(("architecture", "most"), [("llama", 1), ("gemma2", 2)])
    def test_one_graph_for_all_steps_and_marks(self, architecture, most):
        torch._dynamo.reset()
        model = guide.enable(models.make(architecture))
        inputs, graphs = models.prompts(), []

        def backend(graph, _inputs):
            graphs.append(graph)
            return graph.forward

        decoder = Decoder(model, torch.compile(model, fullgraph=True, backend=backend))
        for delta in (1.5, -0.5):
            bias, strength = models.marks(delta=delta), random_strength() * delta
            wanted = models.reference_generation(
                models.shared(architecture), inputs, bias, strength
            )
            found = decoder.generate(inputs, bias, strength, steps=6)
            for one, other in zip(found, wanted.logits, strict=True):
                models.assert_logits_close(one, other)
        assert len(graphs) == most

    @pytest.mark.parametrize("architecture", ["llama", "mistral"])
    def test_masks_made_in_the_graph(self, architecture):
        torch._dynamo.reset()
        model = guide.enable(models.make(architecture))
        inputs = models.prompts()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for bias in (models.marks(), torch.zeros(2, 9)):
            wanted = models.reference_logits(models.shared(architecture), inputs, bias)
            with torch.no_grad():
                found = compiled(**inputs, guide_bias=bias, use_cache=False).logits
            models.assert_logits_close(found, wanted, inputs["attention_mask"])

    def test_forward_compiled_on_its_own_raises_rather_than_lose_the_bias(self):
        torch._dynamo.reset()
        model = guide.enable(models.make("llama"))
        model.forward = torch.compile(model.forward, backend="eager")
        with torch.no_grad(), pytest.raises(RuntimeError, match="ran without 2 of them"):
            model(**models.prompts(), guide_bias=models.marks(), use_cache=False)


class Numbers:
    """A tokenizer for the streamer: token ids as decimal numbers."""

    def decode(self, token_ids, **_options):
        return "".join(f"{token} " for token in token_ids)


def assert_same_bits(found, wanted):
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(found.logits, wanted.logits, strict=True))
