# SPDX-License-Identifier: MIT
"""Going on with a cache: exact under the bias that filled it, and refused under another."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import models
import pytest
import torch
from models import CACHE
from transformers import DynamicCache, StaticCache

import guide_ext.integration as guide
from guide_ext.integration.call import reuse

ROWS, TOKENS, SEEN = 2, 9, 7
OTHER = "guide_bias must leave the tokens in the cache the bias that they were read under"
KINDS = {"dynamic": DynamicCache, "static": StaticCache}


@pytest.fixture
def ids():
    return models.prompts(padding=0)["input_ids"]


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def later(delta=1.5):
    """Marks behind the tokens that `fill` reads."""
    bias = torch.zeros(ROWS, TOKENS)
    bias[0, SEEN:], bias[1, SEEN] = delta, -delta
    return bias


def new_cache(model, kind=DynamicCache):
    options = {"max_cache_len": 20} if kind is StaticCache else {}
    return kind(config=model.config, **options)


def fill(model, ids, bias=None, kind=DynamicCache, **steering):
    """A cache of the first tokens, read under a bias or none."""
    cache = new_cache(model, kind)
    if bias is not None:
        steering["guide_bias"] = bias[:, :SEEN]
    with torch.no_grad():
        model(ids[:, :SEEN], **{CACHE: cache}, **steering)
    return cache


def go_on(model, ids, cache, bias, **steering):
    with torch.no_grad():
        return model(ids[:, SEEN:], **{CACHE: cache}, guide_bias=bias, **steering).logits


def wanted(ids, bias, name="llama", strength=None):
    """Logits of the tokens behind those of `fill`, by the reference without a cache."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = models.reference_logits(models.shared(name), inputs, bias, strength)
    return logits[:, SEEN:]


class TestExact:
    @pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom"])
    @pytest.mark.parametrize("bias", [models.marks(), later()], ids=["same", "later"])
    def test_goes_on(self, ids, name, bias):
        """The same marks on the tokens in the cache, or none there, and new ones behind."""
        model = guide.enable(models.make(name))
        # With `later`, nothing was marked; then an unsteered call fills the cache as well.
        begun = bias if bool(bias[:, :SEEN].any()) else None
        found = go_on(model, ids, fill(model, ids, begun), bias)
        models.assert_logits_close(found, wanted(ids, bias, name))

    def test_tells_a_wrong_bias(self, ids):
        """What is refused would be wrong: the reference of the new bias is another one."""
        scale = wanted(ids, models.marks()).abs().max()
        model = guide.enable(models.make("llama"))
        cache = fill(model, ids, later())
        reuse.note(cache, reuse.Filling(models.marks()[:, :SEEN]))  # a lie
        found = go_on(model, ids, cache, models.marks())
        assert (found - wanted(ids, models.marks())).abs().max() > 0.01 * scale

    def test_conversation(self, kind):
        """Three turns; the spans of earlier turns stay marked, and each turn has new ones."""
        model = guide.enable(models.make("gemma2"))
        options = {"max_new_tokens": 3}
        cache = new_cache(model, kind) if kind is DynamicCache else StaticCache(
            config=model.config, max_cache_len=40
        )  # fmt: skip
        tokens, bias = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0)
        for turn in range(3):
            new = models.prompts(rows=1, tokens=5, padding=0, seed=turn)["input_ids"]
            tokens = torch.cat([tokens, new], 1)
            bias = torch.nn.functional.pad(bias, (0, tokens.shape[1] - bias.shape[1]))
            bias[0, -3:-1] = 1.0 + turn
            inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            reference = models.reference_generation(
                models.shared("gemma2"), inputs, bias, **options
            )
            found = models.generation(
                model, {**inputs, "guide_bias": bias, CACHE: cache}, **options
            )
            models.assert_same_generation(found, reference)
            tokens = found.sequences

    def test_beams_from_a_repeated_cache(self, ids):
        model, bias = guide.enable(models.make("llama")), models.marks()
        cache = fill(model, ids, bias)
        cache.batch_repeat_interleave(3)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        reference = models.reference_generation(models.shared("llama"), inputs, bias, num_beams=3)
        given = {**inputs, "guide_bias": bias, CACHE: cache}
        models.assert_same_generation(models.generation(model, given, num_beams=3), reference)

    def test_static_cache_that_transformers_keeps(self):
        """`generate()` empties and fills it again: nothing of the first marks is left."""
        model, inputs = guide.enable(models.make("llama")), models.prompts()
        for delta in (1.5, -1.0):
            bias = models.marks(delta=delta)
            found = models.generation(
                model, {**inputs, "guide_bias": bias}, cache_implementation="static"
            )
            reference = models.reference_generation(models.shared("llama"), inputs, bias)
            models.assert_same_generation(found, reference)

    def test_emptied(self, ids, kind):
        model, bias = guide.enable(models.make("llama")), models.marks()
        cache = fill(model, ids, later() + 1, kind)
        cache.reset()
        with torch.no_grad():
            model(ids[:, :SEEN], **{CACHE: cache}, guide_bias=bias[:, :SEEN])
        models.assert_logits_close(go_on(model, ids, cache, bias), wanted(ids, bias))

    def test_cut_before_the_difference(self, ids):
        model, bias = guide.enable(models.make("llama")), models.marks()
        longer = torch.nn.functional.pad(bias, (0, 2))
        longer[:, SEEN:] = 2.0
        cache = new_cache(model)
        with torch.no_grad():
            model(torch.cat([ids, ids[:, :2]], 1), **{CACHE: cache}, guide_bias=longer)
        with pytest.raises(ValueError, match=f"{OTHER}, got 0 for token 7 of row 0, .* under 2"):
            cached_again(model, ids, copy.deepcopy(cache), bias)
        for layer in cache.layers:  # the sign of crop()'s argument differs between versions
            layer.keys, layer.values = layer.keys[:, :, :SEEN], layer.values[:, :, :SEEN]
        models.assert_logits_close(go_on(model, ids, cache, bias), wanted(ids, bias))


def cached_again(model, ids, cache, bias):
    """Read one more token behind a cache that holds more than these marks."""
    padded = torch.nn.functional.pad(bias, (0, 3))
    return model(ids[:, :1], **{CACHE: cache}, guide_bias=padded)


class TestRefused:
    """Each is silently wrong if it runs: later layers keep what the first bias made of them."""

    @pytest.fixture
    def model(self):
        return guide.enable(models.make("llama"))

    @pytest.mark.parametrize("before", [None, later() + 0.5, torch.zeros(ROWS, TOKENS)])
    def test_forward(self, model, ids, kind, before):
        cache = fill(model, ids, before, kind)
        with pytest.raises(ValueError, match=f"{OTHER}, got 1.5 for token 4 of row 0|{OTHER}"):
            go_on(model, ids, cache, models.marks())
        assert int(cache.get_seq_length()) == SEEN

    @pytest.mark.parametrize("before", [None, later() + 0.5])
    def test_generate(self, model, ids, kind, before):
        cache = fill(model, ids, before, kind)
        for options in ({}, {"do_sample": True}, {"prefill_chunk_size": 1}):
            with pytest.raises(ValueError, match=OTHER):
                model.generate(ids, guide_bias=models.marks(), **{CACHE: cache}, **options)
        assert int(cache.get_seq_length()) == SEEN

    def test_without_a_bias(self, model, ids, kind):
        """Whoever forgets guide_bias in the second turn would get an answer half steered."""
        cache = fill(model, ids, models.marks(), kind)
        with pytest.raises(ValueError, match=f"{OTHER}, got 0 for token 4 of row 0"):
            model(ids[:, SEEN:], **{CACHE: cache})
        with pytest.raises(ValueError, match=OTHER):
            model.generate(ids, **{CACHE: cache}, max_new_tokens=2)

    def test_loop_of_ones_own(self, model, ids, kind):
        cache = fill(model, ids, later() + 0.5, kind)
        with pytest.raises(ValueError, match=OTHER):
            model.prepare_inputs_for_generation(
                ids, next_sequence_length=2, **{CACHE: cache}, guide_bias=models.marks()
            )

    def test_message_says_what_to_do(self, model, ids):
        cache, bias = fill(model, ids, models.marks()), models.marks()
        bias[1, 6] = -1
        with pytest.raises(ValueError, match=r"got -1 for token 6 of row 1, .* under") as error:
            go_on(model, ids, cache, bias)
        assert "begin with a new cache" in str(error.value)
        assert "crop()" in str(error.value)

    def test_tensor_that_was_written_into(self, model, ids):
        bias = models.marks()
        cache = new_cache(model)
        first = bias[:, :SEEN].clone()
        with torch.no_grad():
            model(ids[:, :SEEN], **{CACHE: cache}, guide_bias=first)
        first[0, 4] = bias[0, 4] = 0.25
        with pytest.raises(ValueError, match=f"{OTHER}, got 0.25 for token 4"):
            go_on(model, ids, cache, bias)

    @pytest.mark.parametrize("inference", [False, True])
    def test_same_tensor_with_other_numbers(self, model, ids, inference):
        """generate() gets the tensor that it got before; the numbers in it are others."""
        with torch.inference_mode(inference):
            bias = torch.nn.functional.pad(models.marks(), (0, 3))
            longer = torch.cat([ids, ids[:, :3]], 1)
            cache = new_cache(model)
            model.generate(longer, guide_bias=bias, **{CACHE: cache}, max_new_tokens=1)
            bias[0, 4] = 0.25
            more = torch.cat([longer, ids[:, :1]], 1)
            with pytest.raises(ValueError, match=f"{OTHER}, got 0.25"):
                model.prepare_inputs_for_generation(
                    more, next_sequence_length=1, **{CACHE: cache}, guide_bias=bias
                )

    def test_strength(self, model, ids):
        first, second = models.random_strength(), models.random_strength() + 0.5
        marked = fill(model, ids, models.marks(), guide_strength=first)
        for strength in ({"guide_strength": second}, {}):
            with pytest.raises(ValueError, match="guide_strength must be what it was when"):
                go_on(model, ids, copy.deepcopy(marked), models.marks(), **strength)
        found = go_on(model, ids, marked, models.marks(), guide_strength=first)
        models.assert_logits_close(found, wanted(ids, models.marks(), strength=first))
        # A strength of tokens without a bias is none.
        unmarked = fill(model, ids, later(), guide_strength=first)
        found = go_on(model, ids, unmarked, later(), guide_strength=second)
        models.assert_logits_close(found, wanted(ids, later(), strength=second))

    def test_share(self, model, ids):
        share = (models.marks() > 0) * 0.5
        cache = new_cache(model)
        with torch.no_grad():
            model(ids[:, :SEEN], **{CACHE: cache}, guide_share=share[:, :SEEN])
            for other in ({"guide_share": share / 2}, {"guide_bias": torch.zeros(ROWS, TOKENS)}):
                with pytest.raises(ValueError, match="guide_share must be what it was when"):
                    model(ids[:, SEEN:], **{CACHE: copy.deepcopy(cache)}, **other)
            found = model(ids[:, SEEN:], **{CACHE: cache}, guide_share=share).logits
            at_once = model(ids, guide_share=share, use_cache=False).logits[:, SEEN:]
        models.assert_logits_close(found, at_once)

    def test_rows_that_nobody_followed(self, model, ids):
        cache = fill(model, ids, models.marks())
        for layer in cache.layers:
            layer.keys, layer.values = (x.repeat(2, 1, 1, 1) for x in (layer.keys, layer.values))
        with pytest.raises(ValueError, match=r"must have the 2 row\(s\) of the cache, .* got 4"):
            go_on(model, ids.repeat(2, 1), cache, models.marks().repeat(2, 1))

    def test_compiled(self, model, ids):
        """A graph cannot compare; what makes its inputs outside can."""
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        cache = fill(model, ids, models.marks())
        with pytest.raises(Exception, match="a compiled model must get guide_bias without a cac"):
            go_on(compiled, ids, cache, models.marks())
        with pytest.raises(Exception, match="a compiled model must go on under the guide_bias"):
            compiled(ids[:, SEEN:], **{CACHE: cache})


class TestUnknown:
    """A cache that something else filled: nothing tells under which bias."""

    def test_filled_before_enable(self, ids, kind):
        model = models.make("llama")
        model.set_attn_implementation("guide")
        cache = fill(model, ids, kind=kind)
        guide.enable(model)
        with torch.no_grad():
            model(ids[:, SEEN : SEEN + 1], **{CACHE: cache})  # unsteered, as ever
            with pytest.raises(
                ValueError, match="must have been filled by calls of an enabled mod"
            ):
                model(ids[:, SEEN + 1 :], **{CACHE: cache}, guide_bias=later())

    def test_keys_and_values_moved_by_hand(self, ids):
        model = guide.enable(models.make("llama"))
        filled, cache = fill(model, ids, models.marks()), new_cache(model)
        for index, layer in enumerate(filled.layers):
            cache.update(layer.keys, layer.values, index)
        with pytest.raises(ValueError, match="fill a new cache with this model"):
            go_on(model, ids, cache, models.marks())


def repeated(cache):
    cache.batch_repeat_interleave(2)
    return torch.tensor([0, 0, 1, 1])


def selected(cache):
    cache.batch_select_indices(torch.tensor([1]))
    return torch.tensor([1])


def reordered(cache):
    cache.reorder_cache(beam_idx=torch.tensor([1, 0]))
    return torch.tensor([1, 0])


def pickled(cache):
    return pickle.loads(pickle.dumps(cache))


def saved(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class TestCopies:
    """What is known of a cache goes with it, into copies and through every change of its rows."""

    @pytest.mark.parametrize("travel", [copy.deepcopy, pickled, saved])
    @pytest.mark.parametrize("change", [repeated, selected, reordered])
    def test_rows(self, ids, travel, change):
        model, bias = guide.enable(models.make("llama")), models.marks()
        original = fill(model, ids, bias)
        cache = travel(original)
        rows = change(cache)
        with pytest.raises(ValueError, match="guide_bias must"):
            go_on(model, ids[rows], copy.deepcopy(cache), bias[rows] * 2)
        found = go_on(model, ids[rows], cache, bias[rows])
        models.assert_logits_close(found, wanted(ids[rows], bias[rows]))
        # The original has moved nothing.
        models.assert_logits_close(go_on(model, ids, original, bias), wanted(ids, bias))

    def test_order_of_rows_is_checked(self, ids):
        model, bias = guide.enable(models.make("llama")), models.marks()
        cache = fill(model, ids, bias)
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(ValueError, match=OTHER):
            go_on(model, ids, cache, bias)

    def test_same_tensor_for_rows_that_moved(self, ids):
        model, bias = guide.enable(models.make("llama")), models.marks()
        cache, tokens = new_cache(model), ids[:, :SEEN]
        step = {CACHE: cache, "guide_bias": bias}
        with torch.no_grad():
            model(**model.prepare_inputs_for_generation(tokens, is_first_iteration=True, **step))
        model.prepare_inputs_for_generation(ids, next_sequence_length=2, **step)
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(ValueError, match=OTHER):
            model.prepare_inputs_for_generation(ids, next_sequence_length=2, **step)

    def test_one_prefix_for_several_answers(self, ids):
        """The way of transformers' documentation: fill once, copy for each prompt."""
        model = guide.enable(models.make("llama"))
        prefix = fill(model, ids)
        for delta in (1.0, -2.0):
            found = go_on(model, ids, copy.deepcopy(prefix), later(delta))
            models.assert_logits_close(found, wanted(ids, later(delta)))

    def test_shallow_copy(self, ids):
        """It shares all layers with its original; only the original can move them."""
        original = fill(guide.enable(models.make("llama")), ids, models.marks())
        shallow = copy.copy(original)
        with pytest.raises(RuntimeError, match=r"copy the original with copy.deepcopy\(\)"):
            copy.deepcopy(shallow)
        del original
        gc.collect()
        with pytest.raises(RuntimeError, match=r"copy the original with copy.deepcopy\(\)"):
            shallow.reorder_cache(torch.tensor([1, 0]))


class TestCosts:
    def test_steps_compare_nothing(self, monkeypatch):
        """A comparison waits for the device."""
        compared = []
        model = guide.enable(models.make("llama"))
        real = reuse._check
        monkeypatch.setattr(reuse, "_check", lambda *a: (compared.append(1), real(*a)))
        given = {**models.prompts(), "guide_bias": models.marks()}
        for options in ({}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}):
            models.generation(model, given, **options)
        with torch.inference_mode():
            models.generation(model, given, num_beams=2)
        models.generation(model, {**models.prompts()})
        assert compared == []

    def test_a_cache_is_freed_at_once(self, ids):
        gc.collect()
        gc.disable()
        try:
            cache = fill(guide.enable(models.make("llama")), ids, models.marks())
            gone = weakref.ref(cache)
            del cache
            assert gone() is None
        finally:
            gc.enable()


def test_influence_moves_its_rows_as_well(ids):
    """Two things are kept on one cache; both must move."""
    model = guide.enable(models.make("llama"))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seed = torch.zeros(ROWS, 1, TOKENS)
    seed[0, 0, 4:6] = seed[1, 0, 1:3] = 1
    given = {**inputs, "guide_bias": models.marks(), "guide_seed": seed}
    cache = new_cache(model)
    guide.generate_with_influence(model, {**given, CACHE: cache}, max_new_tokens=2)
    cache.reorder_cache(torch.tensor([1, 0]))
    state = cache._guide_influence
    assert torch.equal(state.levels[0][:, 0, :TOKENS], seed[[1, 0], 0])
    filled = reuse.filling_of(cache)
    assert torch.equal(filled.bias[:, :TOKENS], models.marks()[[1, 0]])


class TestEncoderDecoder:
    @pytest.fixture
    def model(self):
        from transformers import BartConfig, BartForConditionalGeneration

        torch.manual_seed(0)
        config = BartConfig(
            vocab_size=models.VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=4, init_std=0.3,
            decoder_attention_heads=4, forced_eos_token_id=None,
        )  # fmt: skip
        return guide.enable(BartForConditionalGeneration(config).eval())

    def call(self, model, ids, cache=None, begin=0, end=TOKENS, **steering):
        with torch.no_grad():
            return model(
                input_ids=ids, decoder_input_ids=ids[:, begin:end], **{CACHE: cache}, **steering
            )

    def test_target(self, model, ids):
        bias = models.marks()
        whole = self.call(model, ids, guide_decoder_bias=bias).logits[:, SEEN:]
        cache = self.call(model, ids, None, 0, SEEN, guide_decoder_bias=bias[:, :SEEN])[CACHE]
        for other in ({"guide_decoder_bias": bias * 2}, {}):
            with pytest.raises(ValueError, match="must leave the tokens in the cache the bias"):
                self.call(model, ids, copy.deepcopy(cache), SEEN, **other)
        found = self.call(model, ids, cache, SEEN, guide_decoder_bias=bias).logits
        models.assert_logits_close(found, whole)

    def test_source(self, model, ids):
        cache = self.call(model, ids, None, 0, SEEN, guide_bias=models.marks())[CACHE]
        for steering in ({}, {"guide_decoder_bias": torch.zeros(ROWS, TOKENS)}):
            with pytest.raises(
                ValueError, match="a cache whose source was read under one, got non"
            ):
                self.call(model, ids, cache, SEEN, **steering)
