# SPDX-License-Identifier: MIT
"""Continuous batching: what cannot be steered is refused, and no error stays in the thread."""

import queue

import encoder_decoders
import models
import pytest
import torch
from batching_cases import difference, prompts, settings
from transformers import CompileConfig, GenerationConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import RequestState

import guide_ext.integration as guide
from guide_ext.integration.call import packed
from guide_ext.integration.call.carrier import Structure, pack
from guide_ext.integration.call.frame import Frame, current, using
from guide_ext.integration.call.masks import guide_dense_mask, guide_mask

IDS = prompts((6,))[0]
BIAS = [0.0, 2.0, 0.0, 0.0, 1.0, 0.0]
NAN = [0.0, float("nan"), 0.0, 0.0, 0.0, 0.0]

BAD = [
    ({"guide_bias": [1.0, 2.0]}, "guide_bias must have one number for each of the 6 token"),
    ({"guide_bias": [*BIAS, 0.0]}, "guide_bias must have one number for each of the 6 token"),
    ({"guide_bias": NAN}, "guide_bias must be finite"),
    ({"guide_bias": [float("inf")] * 6}, "guide_bias must be finite"),
    ({"guide_bias": 2.0}, "guide_bias must be the numbers of one prompt"),
    ({"guide_bias": ["a"] * 6}, "guide_bias must be the numbers of one prompt"),
    ({"guide_bias": torch.ones(6).long()}, "guide_bias must be a floating-point tensor"),
    ({"guide_bias": torch.ones(2, 6)}, r"guide_bias must be \[batch, tokens\] with 1 row"),
    ({"guide_bias": torch.ones(6, requires_grad=True)}, "guide_bias must not require a gradient"),
    ({"guide_strength": torch.ones(2, 4)}, "guide_strength must come with guide_bias"),
    ({"guide_bias": BIAS, "guide_strength": torch.ones(4, 2)}, "guide_strength must be"),
    ({"guide_bias": BIAS, "guide_strength": [[1.0] * 4] * 2}, "guide_strength must be a floating"),
    ({"guide_share": [0.0, 1.5, 0.0, 0.0, 0.0, 0.0]}, "guide_share must be one number from 0"),
    ({"guide_share": [0.5, 0.0]}, "guide_bias must have one number for each of the 6|guide_share"),
    ({"guide_share": [0.5] + [0.0] * 5, "guide_bias": [1.0]}, "must"),
    ({"guide_seed": torch.ones(1, 6)}, "continuous batching measures no Influence"),
    ({"guide_Bias": BIAS}, "must get guide_bias, guide_strength, guide_share"),
]


@pytest.fixture(scope="module")
def shared():
    return guide.enable(models.make("llama"))


class TestArguments:
    @pytest.mark.parametrize(("given", "words"), BAD, ids=range(len(BAD)))
    def test_one_request(self, shared, given, words):
        """At once, and in words; nothing reaches the queue."""
        manager = shared.init_continuous_batching(**settings())
        with pytest.raises(ValueError, match=words):
            manager.add_request(IDS, **given)
        lists = {name: [None, value] for name, value in given.items()}
        with pytest.raises(ValueError, match=words):
            manager.add_requests([IDS, IDS], **lists)
        with pytest.raises(ValueError, match=words):
            shared.generate_batch([IDS, IDS], **lists, **settings())
        assert manager.input_queue.empty()

    @pytest.mark.parametrize("values", [[BIAS], [BIAS] * 3, 1.0])
    def test_lists(self, shared, values):
        with pytest.raises(ValueError, match="guide_bias must be a list with one entry"):
            shared.generate_batch([IDS, IDS], guide_bias=values, **settings())

    def test_which_prompt(self, shared):
        with pytest.raises(ValueError, match=r"^prompt 1: guide_bias must have"):
            shared.generate_batch([IDS, IDS], guide_bias=[BIAS, [1.0]], **settings())

    def test_the_manager_goes_on(self, shared):
        with shared.continuous_batching_context_manager(**settings()) as manager:
            with pytest.raises(ValueError, match="guide_bias must be finite"):
                manager.add_request(IDS, guide_bias=NAN)
            manager.add_request(IDS, guide_bias=BIAS)
            assert difference(shared, manager.get_result(), IDS, BIAS) <= 1

    def test_as_requests(self):
        inputs = {**models.prompts(), "guide_bias": models.marks()}
        found = guide.as_requests(inputs)
        assert [len(ids) for ids in found["inputs"]] == [6, 9]
        assert found["guide_bias"][0].tolist() == models.marks()[0, 3:].tolist()
        with pytest.raises(ValueError, match="measures no Influence"):
            guide.as_requests({**inputs, "guide_seed": torch.ones(2, 1, 9)})
        with pytest.raises(ValueError, match="inputs must hold input_ids"):
            guide.as_requests({"guide_bias": models.marks()})


def change_packed_calls(layer, **arguments):
    """Give a layer other arguments, in calls of continuous batching alone."""

    def change(module, args, kwargs):
        return args, kwargs | (arguments if current().packed is not None else {})

    layer.register_forward_pre_hook(change, with_kwargs=True)


class TestModels:
    @pytest.mark.parametrize("name", ["doge", "bloom"])
    def test_other_masks(self, name):
        model = guide.enable(models.make(name))
        with pytest.raises(ValueError, match="which needs masks that continuous batching does not"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_an_encoder(self):
        model = guide.enable(encoder_decoders.make("bart"))
        with pytest.raises(ValueError, match="got the encoder–decoder"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_what_transformers_cannot_run(self):
        model = guide.enable(models.make("bart"))
        with pytest.raises(
            guide.UnsupportedModelError, match="must be able to run BartForCausalLM"
        ):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_a_model_that_reads_the_whole_row(self, model):
        """What it adds to every token depends on all tokens of the call."""
        model.model.embed_tokens.register_forward_hook(
            lambda module, args, out: out + out.mean(1, keepdim=True)
        )
        with pytest.raises(
            guide.UnsupportedModelError,
            match="must compute for LlamaForCausalLM what the model",
        ):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_a_layer_of_another_kind(self):
        """Its mask has no window, and its place in the cache has one."""
        model = guide.enable(models.make("gemma3_text"))
        whole = pack(Structure(is_causal=True), 0, 1, "cpu")
        change_packed_calls(model.model.layers[0].self_attn, attention_mask=whole)
        with pytest.raises(
            guide.UnsupportedModelError, match="give every layer a mask of its kind"
        ):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    @pytest.mark.parametrize("function", [guide_mask, guide_dense_mask])
    def test_a_mask_of_the_model(self, function):
        """It would have neither the bias nor the ends of the requests."""
        frame = Frame(packed=packed.PackedBatch(None, {}, ()))
        with (
            using(frame),
            pytest.raises(ValueError, match="must use the masks of continuous batch"),
        ):
            function(1, 4, 4)

    @pytest.mark.parametrize("given", ["position_bias", "indices", "block_indices"])
    def test_a_layer_that_adds_or_chooses(self, model, given):
        change_packed_calls(model.model.layers[1].self_attn, **{given: torch.zeros(1, 1, 1, 1)})
        with pytest.raises(guide.UnsupportedModelError, match=f"got a LlamaAttention with {given}"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_positions_of_the_longest(self):
        rope = {
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        }  # fmt: skip
        model = guide.enable(models.make("llama", rope_parameters=rope))
        ids = prompts((9,))[0]
        bias = [0.0] * 4 + [2.0] * 5
        found = model.generate_batch([ids], guide_bias=[bias], **settings())["req_0"]
        assert difference(model, found, ids, bias) <= 1
        manager = model.init_continuous_batching(**settings())
        with pytest.raises(ValueError, match="a request must have at most 16 tokens"):
            manager.add_request(ids, max_new_tokens=8)
        with pytest.raises(ValueError, match="a request must have at most 16 tokens"):
            manager.add_request(prompts((12,))[0])

    def test_never_enabled(self):
        model = models.make("llama")
        model.set_attn_implementation("sdpa")
        manager = model.init_continuous_batching(**settings())
        with pytest.raises(ValueError, match=r"^add_request\(\) must be called without guide_bias"):
            manager.add_request(IDS, guide_bias=BIAS)
        with pytest.raises(ValueError, match=r"^add_requests\(\) must be called without guide_"):
            manager.add_requests([IDS], guide_bias=[BIAS])


class TestSettings:
    @pytest.mark.parametrize(
        ("batching", "words"),
        [
            ({"use_cuda_graph": True}, "use_cuda_graph"),
            ({"use_cuda_graph": (False, True)}, "use_cuda_graph"),
            ({"use_async_batching": True}, "use_async_batching"),
            ({"default_compile_level": 1}, "default_compile_level"),
            ({"varlen_compile_config": CompileConfig()}, "a compile config"),
        ],
    )
    def test_recorded_calls(self, model, batching, words):
        with pytest.raises(ValueError, match=f"must run its calls one by one.*{words}"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings(**batching))

    def test_switched_attention(self, model):
        model.set_attn_implementation("sdpa")
        with pytest.raises(ValueError, match="whose attention was switched to 'sdpa'"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())
        manager = model.init_continuous_batching(**settings())
        assert type(manager) is ContinuousBatchingManager
        model.set_attn_implementation("guide")
        ours = model.init_continuous_batching(**settings())
        model.set_attn_implementation("sdpa")
        with pytest.raises(ValueError, match="attn_implementation must still be 'guide'"):
            ours.start()
        with pytest.raises(ValueError, match=r"^add_request\(\) must be called without guide_bias"):
            manager.add_request(IDS, guide_bias=BIAS)

    def test_a_manager_from_before(self, model):
        model.set_attn_implementation("sdpa")
        model.generate_batch([IDS], persistent_manager=True, **settings())
        model.set_attn_implementation("guide")
        for entry in (
            lambda: model.generate_batch([IDS], guide_bias=[BIAS], **settings()),
            lambda: model.init_continuous_batching(**settings()),
        ):
            with pytest.raises(ValueError, match="must keep no manager from before"):
                entry()
        model.destroy_cached_continuous_batching_manager()
        assert model.generate_batch([IDS], guide_bias=[BIAS], **settings())["req_0"].error is None

    def test_a_manager_from_then(self, model):
        """Kept by an enabled model that is not enabled any more."""
        model.generate_batch([IDS], guide_bias=[BIAS], persistent_manager=True, **settings())
        guide.disable(model)
        with pytest.raises(ValueError, match="model must still be enabled"):
            model.generate_batch([IDS], **settings())

    def test_config_is_left_alone(self, model):
        how = settings()
        how["generation_config"] = GenerationConfig(max_new_tokens=2, do_sample=False)
        manager = model.init_continuous_batching(**how)
        assert not manager.continuous_batching_config.allow_block_sharing
        assert how["continuous_batching_config"].allow_block_sharing
        assert how["generation_config"].eos_token_id is None


class TestThread:
    """The thread that generates is another one; its errors must not stay there."""

    @pytest.fixture
    def broken(self, model):
        """A model that fails in the third call of every run."""
        model.init_continuous_batching(**settings())  # the trial is over
        calls = []

        def fail(module, args):
            calls.append(1)
            if len(calls) == 3:
                raise FloatingPointError("third call")

        model.model.layers[0].register_forward_pre_hook(fail)
        return model

    def test_generate_batch(self, broken):
        with pytest.raises(RuntimeError, match=r"stopped before all.*third call") as found:
            broken.generate_batch([IDS], guide_bias=[BIAS], **settings())
        assert isinstance(found.value.__cause__, FloatingPointError)

    def test_manager(self, broken):
        manager = broken.init_continuous_batching(**settings())
        manager.start()
        manager.add_request(IDS, guide_bias=BIAS)
        assert manager.get_result().error == "third call"
        manager._generation_thread.join()
        with pytest.raises(RuntimeError, match="must go to a manager that takes requests"):
            manager.add_request(IDS, guide_bias=BIAS)
        for method in (manager.get_result, manager.stop):
            with pytest.raises(RuntimeError, match="stopped before all requests") as found:
                method()
            assert isinstance(found.value.__cause__, FloatingPointError)

    def test_iteration(self, broken):
        """It ends with the thread, before anything is seen."""

        def ask():
            with broken.continuous_batching_context_manager(**settings()) as manager:
                manager.add_request(IDS, guide_bias=BIAS)
                list(manager)

        with pytest.raises(RuntimeError, match="stopped before all requests"):
            ask()

    def test_a_switch_on_the_way(self, model):
        def ask():
            how = settings({"max_new_tokens": 10_000}, num_blocks=4096)
            with model.continuous_batching_context_manager(**how) as manager:
                manager.add_request(IDS, guide_bias=BIAS)
                with manager.pause():
                    model.set_attn_implementation("sdpa")
                manager._generation_thread.join()

        with pytest.raises(RuntimeError, match="attn_implementation must still be 'guide'"):
            ask()

    def test_disable_on_the_way(self, model):
        with model.continuous_batching_context_manager(**settings()) as manager:
            with pytest.raises(ValueError, match="must get a model that answers no requests"):
                guide.disable(model)
            manager.add_request(IDS, guide_bias=BIAS)
            assert difference(model, manager.get_result(), IDS, BIAS) <= 1
        assert not guide.is_enabled(guide.disable(model))

    def test_a_request_that_failed_alone(self, model, monkeypatch):
        model.init_continuous_batching(**settings())
        check = ContinuousBatchingLogitsProcessorList.check_kwargs
        seen = []

        def second_fails(self, kwargs):
            seen.append(kwargs)
            if len(seen) == 2:
                raise ArithmeticError("no more")
            check(self, kwargs)

        monkeypatch.setattr(ContinuousBatchingLogitsProcessorList, "check_kwargs", second_fails)
        with pytest.raises(
            RuntimeError, match="all requests must be answered, got an error of 're"
        ):
            model.generate_batch([IDS, IDS], guide_bias=[BIAS, BIAS], **settings())

    def test_a_queue_that_is_full(self, model, monkeypatch):
        """transformers logs what goes wrong while requests are added, and returns."""

        def full(*args, **kwargs):
            raise queue.Full

        monkeypatch.setattr(ContinuousBatchingManager, "add_request", full)
        with pytest.raises(RuntimeError, match=r"must get all 1 answer\(s\), got 0"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())

    def test_too_long_for_the_cache(self, model):
        with pytest.raises(RuntimeError, match="No requests can be scheduled"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings(num_blocks=1))

    def test_an_unknown_argument_of_a_request(self, model):
        with model.continuous_batching_context_manager(**settings()) as manager:
            manager.add_request(IDS, guide_bias=BIAS, temperature=0.5)
            assert "Unknown logit_processor_kwargs" in manager.get_result().error

    def test_steering_that_is_lost(self, model, monkeypatch):
        """Should transformers make a request without what it was added with."""
        kept = RequestState.get_request_config
        monkeypatch.setattr(
            RequestState,
            "get_request_config",
            lambda self: kept(self) | {"logit_processor_kwargs": {}},
        )
        texts = prompts((9, 12, 7, 10))
        small = settings({"max_new_tokens": 12}, num_blocks=13, safety_margin=0.0)
        nats = [[1.0] * len(ids) for ids in texts]
        with pytest.raises(RuntimeError, match="must still have the steering that it was added"):
            model.generate_batch(texts, guide_bias=nats, **small)

    def test_other_lengths(self, model, monkeypatch):
        """Should transformers lay out requests in another way."""
        model.init_continuous_batching(**settings())
        whole = packed.PackedBatch.keys_and_values

        def short(*args):
            return tuple(operand[:, :, 1:] for operand in whole(*args))

        monkeypatch.setattr(packed.PackedBatch, "keys_and_values", short)
        with pytest.raises(RuntimeError, match=r"must give its layers \(queries, keys\)"):
            model.generate_batch([IDS], guide_bias=[BIAS], **settings())
