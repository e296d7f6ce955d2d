# SPDX-License-Identifier: MIT
"""Continuous batching with a steering for every request.

Every answer is compared with an eager forward pass of its text alone, whose mask has the bias
added, by the log-probabilities of its tokens: a wrong cache often changes no word.
"""

import models
import pytest
import torch
from batching_cases import NEW, biases, difference, prompts, settings
from tolerance import MODEL_LOGITS
from torch.nn.functional import pad
from transformers import GenerationConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import RequestState

import guide_ext.integration as guide
from guide_ext.integration.batching.manager import GuidedManager
from guide_ext.integration.batching.requests import request_steering

ARCHITECTURES = ("llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "qwen3", "gpt2", "phi")


def assert_steered(model, results, texts, nats, new=NEW, **how):
    assert len(results) == len(texts)
    for result, ids, bias in zip(results, texts, nats, strict=True):
        assert len(result.generated_tokens) == new
        assert difference(model, result, ids, bias, **how) <= 1
    # A comparison that would pass without steering shows nothing.
    steered = [i for i, bias in enumerate(nats) if bias is not None and len(texts[i]) > 1]
    for i in steered:
        assert difference(model, results[i], texts[i], None, **how) > 10


@pytest.fixture
def restarts(monkeypatch):
    """The requests that began again, because the cache was full."""
    seen = []
    again = RequestState.create_equivalent_initial_request

    def watched(self):
        seen.append((self.request_id, len(self.generated_tokens)))
        return again(self)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", watched)
    return seen


class TestExact:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_architectures(self, name):
        """Prompts of many lengths in chunks, some next to the answers of others."""
        model, texts = guide.enable(models.make(name)), prompts()
        nats = biases(texts)
        results = model.generate_batch(texts, guide_bias=nats, **settings())
        assert_steered(model, list(results.values()), texts, nats)
        assert model.config._attn_implementation == "guide"

    @pytest.mark.parametrize("name", ["llama", "gemma3_text"])
    def test_full_cache(self, name, restarts):
        """Requests that are thrown out and begin again, their answer behind their prompt."""
        model, texts = guide.enable(models.make(name)), prompts((9, 12, 7, 10))
        nats = biases(texts)
        small = settings({"max_new_tokens": 12}, num_blocks=13, safety_margin=0.0)
        results = model.generate_batch(texts, guide_bias=nats, **small)
        assert any(written > 1 for _, written in restarts)
        assert_steered(model, list(results.values()), texts, nats, new=12)

    def test_waiting(self, model):
        texts = prompts((5, 9, 4, 8, 6, 7, 3, 10))
        results = model.generate_batch(
            texts, guide_bias=biases(texts), **settings(max_requests_per_batch=2)
        )
        assert_steered(model, list(results.values()), texts, biases(texts))

    def test_return_sequences(self, model):
        """Copies of a request: they share what its cache holds, and its bias."""
        texts = prompts((9, 6))
        nats = biases(texts)
        answer = {"num_return_sequences": 3, "do_sample": True, "top_k": 0}
        results = model.generate_batch(texts, guide_bias=nats, **settings(answer))
        assert len(results) == 6
        assert len({tuple(result.generated_tokens) for result in results.values()}) > 2
        for name, result in results.items():
            own = int(name.split("__")[0].removeprefix("req_"))
            assert difference(model, result, texts[own], nats[own]) <= 1

    def test_strength(self, model):
        texts, tables = prompts((9, 8)), models.random_strength()
        nats = [torch.full((len(ids),), 1.0) * torch.arange(len(ids)) / 4 for ids in texts]
        results = model.generate_batch(
            texts, guide_bias=nats, guide_strength=list(tables), **settings()
        )
        given = zip(results.values(), texts, nats, tables, tables.flip(0), strict=True)
        for result, ids, bias, table, other in given:
            assert difference(model, result, ids, bias, strength=table) <= 1
            assert difference(model, result, ids, bias, strength=other) > 10

    def test_share(self, model):
        texts = prompts((9, 8))
        shares = [torch.zeros(len(ids)) for ids in texts]
        shares[0][2:4], shares[1][5] = 0.4, 0.7
        results = model.generate_batch(texts, guide_share=shares, **settings())
        for result, ids, share in zip(results.values(), texts, shares, strict=True):
            text = torch.tensor([ids + result.generated_tokens])
            row = pad(share, (0, NEW))[None]
            logits = models.logits(model, {"input_ids": text}, guide_share=row, use_cache=False)
            behind = logits[0, len(ids) - 1 : -1].log_softmax(-1)
            wanted = behind.gather(1, text[0, len(ids) :, None])[:, 0]
            allowed = MODEL_LOGITS * logits.abs().max().item()
            torch.testing.assert_close(torch.tensor(result.logprobs), wanted, rtol=0, atol=allowed)

    def test_hidden_tokens(self, model):
        texts = prompts((9,))
        bias = torch.zeros(9)
        bias[2:5] = float("-inf")
        results = model.generate_batch(texts, guide_bias=[bias], **settings())
        assert_steered(model, list(results.values()), texts, [bias])

    def test_sampling_of_each_request(self, model):
        texts, nats = prompts((9, 8)), [torch.linspace(-2, 2, 9), torch.linspace(2, -2, 8)]
        answer = {"do_sample": True, "temperature": 0.7, "top_k": 0}
        how = settings(answer, per_request_processors=True)
        with model.continuous_batching_context_manager(**how) as manager:
            names = [
                manager.add_request(ids, guide_bias=bias, temperature=temperature)
                for ids, bias, temperature in zip(texts, nats, (0.5, 2.0), strict=True)
            ]
            results = {
                result.request_id: result for result in (manager.get_result(), manager.get_result())
            }
        for name, ids, bias, temperature in zip(names, texts, nats, (0.5, 2.0), strict=True):
            how = {"bias": bias, "temperature": temperature}
            assert difference(model, results[name], ids, **how) <= 1

    def test_the_batch_of_encode(self):
        """The same answers as generate() gives to the padded batch."""
        model, tokenizer = guide.load_embedded()
        texts = ["<!!->Summarize in French<-!!>: The cat sleeps.", "Summarize: <!->A dog<-!> runs."]
        inputs = guide.encode(model, tokenizer, texts, delta=2.0)
        how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        wanted = model.generate(**inputs, generation_config=GenerationConfig(**how))
        results = model.generate_batch(**guide.as_requests(inputs), **settings(how))
        new = [result.generated_tokens for result in results.values()]
        assert new == wanted[:, inputs["input_ids"].shape[1] :].tolist()
        assert_steered(model, list(results.values()), *guide.as_requests(inputs).values(), new=6)


class TestSharing:
    """The cache of transformers finds blocks by their tokens; other marks, other contents."""

    def answers(self, model):
        """One prompt under several Δ, one after another, so that its blocks could be found."""
        [ids] = prompts((13,))
        found = []
        with model.continuous_batching_context_manager(**settings()) as manager:
            for delta in (0.0, 2.0, -3.0, 0.0):
                bias = [0.0] * 4 + [delta] * 4 + [0.0] * 5
                name = manager.add_request(ids, guide_bias=bias)
                result = manager.get_result()
                assert result.request_id == name
                found.append(difference(model, result, ids, bias))
        return found

    def test_off(self, model):
        assert max(self.answers(model)) <= 1

    def test_the_comparison_would_see_it(self, model, monkeypatch):
        init = ContinuousBatchingManager.__init__

        def shared(self, model, generation_config, config, hints):
            config.allow_block_sharing = True
            init(self, model, generation_config, config, hints)

        monkeypatch.setattr(ContinuousBatchingManager, "__init__", shared)
        found = self.answers(model)
        assert found[0] <= 1
        assert min(found[1:3]) > 10


class TestManager:
    def test_requests_that_come_later(self, model):
        """Steered ones join unsteered ones that are already answered, and all stay themselves."""
        texts = prompts((9, 12, 6))
        nats = [None, torch.linspace(-2, 2, 12), torch.linspace(1, 3, 6)]
        with model.continuous_batching_context_manager(
            **settings({"max_new_tokens": 20})
        ) as manager:
            names = [manager.add_request(texts[0], streaming=True)]
            assert not manager.get_result().is_finished()
            names += manager.add_requests(texts[1:], guide_bias=nats[1:], max_new_tokens=5)
            results = {}
            while len(results) < 3:
                result = manager.get_result()
                if result.is_finished():
                    results[result.request_id] = result
        for name, ids, bias in zip(names, texts, nats, strict=True):
            assert difference(model, results[name], ids, bias) <= 1

    def test_nothing_is_left_behind(self, model):
        """A manager that is kept, and the model outside of it."""
        texts, inputs = prompts((9, 6)), models.prompts()
        before = models.logits(model, inputs, guide_bias=models.marks())
        for nats in ([torch.linspace(-2, 2, 9), None], None, [None, torch.linspace(3, 0, 6)]):
            results = model.generate_batch(
                texts, guide_bias=nats, persistent_manager=True, **settings()
            )
            assert_steered(model, list(results.values()), texts, nats or [None, None])
            after = models.logits(model, inputs, guide_bias=models.marks())
            assert torch.equal(before, after)
        model.destroy_cached_continuous_batching_manager()
        guide.disable(model)
        assert "generate_batch" not in model.__dict__

    def test_cancelled(self, model):
        texts = prompts((9, 8))
        bias = torch.linspace(-2, 2, 8)
        with model.continuous_batching_context_manager(**settings(num_blocks=4096)) as manager:
            manager.add_request(texts[0], "first", 10_000, guide_bias=[1.0] * 9, streaming=True)
            manager.get_result()
            manager.cancel_request("first")
            manager.add_request(texts[1], "second", guide_bias=bias)
            results = iter(manager.get_result, None)
            found = next(result for result in results if result.request_id == "second")
        assert difference(model, found, texts[1], bias) <= 1

    def test_forms_of_a_bias(self, model):
        forms = (
            [0.0, 2.0, 0.0, -1.0],
            (0, 2, 0, -1),
            torch.tensor([0, 2, 0, -1], dtype=torch.float64),
            torch.tensor([[0.0, 2.0, 0.0, -1.0]]),
        )
        for form in forms:
            found = request_steering(model, 4, form).bias
            assert found.dtype == torch.float32
            assert found.tolist() == [[0.0, 2.0, 0.0, -1.0]]
        ids, bias = torch.tensor(prompts((4,))), torch.tensor([[0.0, 2.0, 0.0, -1.0]])
        results = model.generate_batch(ids, guide_bias=bias, **settings())
        assert_steered(model, list(results.values()), ids.tolist(), list(bias))


class TestUnsteered:
    def test_under_our_attention(self, model):
        """Nothing is switched, and the answers are those of eager attention."""
        texts = prompts()
        results = model.generate_batch(texts, **settings())
        assert_steered(model, list(results.values()), texts, [None] * len(texts))

    @pytest.mark.parametrize("implementation", ["sdpa", "paged|eager"])
    def test_as_ever_after_a_switch(self, implementation):
        plain, model = models.make("llama"), guide.enable(models.make("llama"))
        wanted, found = [], []
        for one, results in ((plain, wanted), (model, found)):
            one.set_attn_implementation(implementation)
            with one.continuous_batching_context_manager(**settings()) as manager:
                assert type(manager) is ContinuousBatchingManager
            results += one.generate_batch(prompts(), **settings()).values()
            assert one.config._attn_implementation == implementation
        for one, other in zip(wanted, found, strict=True):
            assert (one.generated_tokens, one.logprobs) == (other.generated_tokens, other.logprobs)

    def test_flash_attention_is_not_switched_to(self, model, monkeypatch):
        from transformers.generation.continuous_batching import continuous_api

        for version in (2, 3):
            monkeypatch.setattr(
                continuous_api, f"is_flash_attn_{version}_available", lambda **_: True
            )
        monkeypatch.setattr(type(model), "_supports_flash_attn", True)
        with model.continuous_batching_context_manager(**settings()) as manager:
            assert type(manager) is GuidedManager
            assert model.config._attn_implementation == "guide"
        assert model.config._attn_implementation == "guide"
