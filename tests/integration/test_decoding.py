# SPDX-License-Identifier: MIT
"""One answer a prompt, greedy or plainly sampled, whatever a checkpoint wishes and whoever asks."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from transformers import GenerationConfig

import guide_ext.integration as guide
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.decoding import KEPT, RESET, STATED, PromptSeeds, decoding_options
from guide_ext.integration.rows import answer_rows

PROMPTS = [
    f"<!!->Summarize in French<-!!>: the {animal} sleeps in the {place}."
    for animal, place in (("cat", "barn"), ("dog", "garden"), ("bird", "old tree by the river"))
]
HOW = {"temperature": 3.0, "seed": 7}
# A wish for every field that is put back, of a kind that checkpoints come with.
WISHES = {
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "num_beams": 3,
    "num_beam_groups": 3,
    "diversity_penalty": 0.5,
    "length_penalty": -2.0,
    "early_stopping": True,
    "constraints": ["a"],
    "force_words_ids": [[5]],
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "use_mtp": True,
    "is_assistant": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "speculation_type": "dflash",
    "repetition_penalty": 30.0,
    "encoder_repetition_penalty": 30.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "sequence_bias": [[[10], 50.0]],
    "exponential_decay_length_penalty": (1, 90.0),
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "guidance_scale": 6.0,
    "watermarking_config": {"bias": 50.0},
    "remove_invalid_values": True,
    "token_healing": True,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.01,
    "min_p": 0.999,
    "top_h": 0.01,
    "typical_p": 0.01,
    "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9,
    "renormalize_logits": True,
    "max_length": 3,
    "min_length": 400,
    "min_new_tokens": 12,
    "max_time": 1e-9,
    "cache_implementation": "static",
    "cache_config": {"nbits": 2},
    "max_cache_len": 8,
    "continuous_batching_config": {"block_size": 8},
    "do_sample": True,
    "max_new_tokens": 1,
}


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


@pytest.fixture
def model(loaded):
    """The embedded model, with a generation_config that a test may spoil."""
    model = loaded[0]
    before = model.generation_config
    model.generation_config = GenerationConfig(**before.to_dict())
    yield model
    model.generation_config = before


@pytest.fixture
def tokenizer(loaded):
    return loaded[1]


def chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


def ask(model, tokenizer, prompts=PROMPTS, **options):
    options = {"max_new_tokens": 12, **options}
    return guide.complete(model, tokenizer, chats(prompts), **options)


def every_answer(model, tokenizer):
    """What each function that answers finds, greedily and sampled."""
    found = []
    for temperature in (0.0, 3.0):
        how = {"max_new_tokens": 5, "temperature": temperature}
        found.append(ask(model, tokenizer, PROMPTS[1:], **how))
        prompts = chats(PROMPTS[:1])
        record = measure_prompt(model, tokenizer, prompts[0], **how)
        found.append([run["tokens"] for run in record["runs"]])
        found.append(answer_rows(model, tokenizer, prompts, seeds=[1], **how))
    return found


@pytest.fixture(scope="module")
def without_wishes(loaded):
    return every_answer(*loaded)


class TestGenerationConfig:
    def test_every_field_is_decided_once(self):
        """A field that is new in transformers needs a decision: keep it or put it back."""
        fields = sorted(vars(GenerationConfig()))
        assert fields == sorted([*KEPT, *RESET, *STATED])
        assert all(KEPT.values())
        assert sorted(WISHES) == sorted([*RESET, *STATED])

    def test_what_a_field_is_put_back_to_is_what_it_is_without_a_wish(self):
        defaults = GenerationConfig._get_default_generation_params()
        for name, (value, reason) in RESET.items():
            assert reason
            # In place of the one max_new_tokens counts; the other is for sampling by generate().
            if name not in ("max_length", "top_k"):
                assert defaults.get(name) in (None, value) or not defaults[name], name

    # Wishes that are put back do nothing to each other, so one that is not shows in any company.
    @pytest.mark.parametrize("names", [*(list(WISHES)[n::7] for n in range(7)), list(WISHES)])
    def test_no_wish_of_a_checkpoint_changes_answers(
        self, model, tokenizer, names, without_wishes, caplog
    ):
        for name in names:
            setattr(model.generation_config, name, WISHES[name])
        assert every_answer(model, tokenizer) == without_wishes
        assert not caplog.records

    @pytest.mark.parametrize("kind", ["paged", "quantized", "offloaded", "sliding_window"])
    def test_every_cache_is_put_back(self, model, tokenizer, kind, without_wishes):
        model.generation_config.cache_implementation = kind
        assert every_answer(model, tokenizer) == without_wishes

    def test_what_ends_a_text_is_kept(self, model, tokenizer):
        config = model.generation_config
        prompt = PROMPTS[0]
        inputs = guide.encode(model, tokenizer, chats([prompt]), delta=2.0)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0]
        tokens = tokens[inputs["input_ids"].shape[1] :].tolist()
        whole = ask(model, tokenizer, [prompt])[0]
        end = next(token for token in tokens if token != tokens[0])
        config.eos_token_id = [config.eos_token_id, end]
        cut = tokenizer.decode(tokens[: tokens.index(end) + 1], skip_special_tokens=True)
        assert ask(model, tokenizer, [prompt])[0] == cut
        assert whole.startswith(cut)
        assert whole != cut

    def test_words_that_end_a_text_are_kept(self, model, tokenizer):
        whole = ask(model, tokenizer, PROMPTS)
        word = whole[0].split()[1]
        model.generation_config.stop_strings = [word]
        found = ask(model, tokenizer, PROMPTS)
        assert found[0] == whole[0][: whole[0].index(word) + len(word)]
        prompts = chats([PROMPTS[0], PROMPTS[2]])
        both = answer_rows(model, tokenizer, prompts, seeds=[1, 2], max_new_tokens=16)
        ids = tokenizer(both[0][0], add_special_tokens=False)["input_ids"]
        assert both[0][1] == len(ids)
        model.generation_config.eos_token_id = None
        with pytest.raises(ValueError, match="eos_token_id beside its stop_strings"):
            ask(model, tokenizer, PROMPTS)

    @pytest.mark.parametrize("name", ["suppress_tokens", "bad_words_ids", "begin_suppress_tokens"])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_tokens_that_may_never_come_are_kept(self, model, tokenizer, name, temperature):
        inputs = guide.encode(model, tokenizer, chats(PROMPTS[:1]), delta=2.0)
        first = int(model(**inputs).logits[0, -1].argmax())
        setattr(model.generation_config, name, [[first]] if name == "bad_words_ids" else [first])
        found = ask(model, tokenizer, PROMPTS[:1], temperature=temperature)[0]
        assert not found.startswith(tokenizer.decode([first]))

    def test_a_field_that_nobody_has_decided_about(self, model, monkeypatch):
        monkeypatch.delitem(KEPT, "disable_compile")
        decoding_options(model, 9, 1, 0.0)
        model.generation_config.disable_compile = True
        with pytest.raises(ValueError, match="no field that guide_ext does not know, got disable_"):
            decoding_options(model, 9, 1, 0.0)

    def test_training_mode(self, model, tokenizer):
        model.train()
        try:
            with pytest.raises(ValueError, match=r"evaluation mode.*call model\.eval\(\)"):
                ask(model, tokenizer)
        finally:
            model.eval()


class TestSampling:
    def test_neither_batches_nor_order_nor_company_matter(self, model, tokenizer):
        alone = [ask(model, tokenizer, [prompt], **HOW)[0] for prompt in PROMPTS]
        assert len(set(alone)) == len(PROMPTS)
        assert ask(model, tokenizer, **HOW) == alone
        assert ask(model, tokenizer, batch_size=2, **HOW) == alone
        assert ask(model, tokenizer, PROMPTS[::-1], **HOW) == alone[::-1]
        assert ask(model, tokenizer, **{**HOW, "seed": 8}) != alone

    def test_a_long_neighbour_does_not_cut_an_answer(self, model, tokenizer):
        """Near the last position that the model knows, each prompt is answered for itself."""
        positions = model.config.max_position_embeddings
        short, long = "Summarize in French: the cat", "the cat sleeps " * positions
        encoded = tokenizer(long)["input_ids"][: positions - 12]
        long = tokenizer.decode(encoded, skip_special_tokens=True)
        how = {"temperature": 30.0, "seed": 3, "max_new_tokens": 40}
        (alone,) = guide.complete(model, tokenizer, [short], **how)
        beside, _ = guide.complete(model, tokenizer, [short, long], **how)
        assert beside == alone
        assert len(tokenizer(alone)["input_ids"]) > 20

    def test_a_prompt_that_comes_again_gets_another_answer(self, model, tokenizer):
        many = ask(model, tokenizer, PROMPTS[:1] * 6, batch_size=4, **HOW)
        assert len(set(many)) == 6
        assert many == ask(model, tokenizer, PROMPTS[:1] * 6, batch_size=1, **HOW)
        mixed = ask(model, tokenizer, [PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[0]], **HOW)
        assert [mixed[1], mixed[3]] == many[:2]

    def test_marks_leave_the_noise_as_it_is(self, model, tokenizer):
        texts = ["say <!!->this<-!!> now", "say this now", "say <!5->this<-!> now"]
        inputs = guide.encode(model, tokenizer, texts, delta=2.0)
        assert len(set(PromptSeeds(3).of(inputs))) == 1
        assert PromptSeeds(3).of(inputs) != PromptSeeds(4).of(inputs)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_global_random_state_is_neither_read_nor_changed(self, model, tokenizer, temperature):
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            found.append(ask(model, tokenizer, temperature=temperature, seed=5))
            how = {"temperature": temperature, "seed": 5, "max_new_tokens": 4}
            record = measure_prompt(model, tokenizer, chats(PROMPTS)[0], **how)
            found[-1].append(record["runs"][0]["answer"])
            assert torch.equal(torch.get_rng_state(), before)
        assert found[0] == found[1]

    def test_threads(self, model, tokenizer):
        """Many threads, each with a prompt, a strength and a seed, while another seeds torch."""
        asked = list(itertools.product(PROMPTS, (0.0, 3.0), (1, 2)))

        def answer(prompt, delta, seed):
            return ask(model, tokenizer, [prompt], delta=delta, temperature=3.0, seed=seed)[0]

        wanted = [answer(*one) for one in asked]
        found, running = {}, True

        def work(index):
            found[index] = answer(*asked[index])

        def disturb():
            while running:
                torch.manual_seed(0)
                torch.rand(3)

        other = threading.Thread(target=disturb)
        other.start()
        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        running = False
        other.join()
        assert [found.get(index) for index in range(len(asked))] == wanted

    def test_influence_is_measured_on_the_answer_of_complete(self, model, tokenizer):
        how = {"temperature": 1.3, "seed": 11, "max_new_tokens": 12}
        record = measure_prompt(model, tokenizer, chats(PROMPTS)[0], delta=2.0, **how)
        found = [run["answer"] for run in record["runs"]]
        wanted = [
            ask(model, tokenizer, PROMPTS[:1], delta=delta, **how)[0].strip()
            for delta in (0.0, 2.0)
        ]
        assert found == wanted

    def test_frequencies_are_those_of_the_model(self, model, tokenizer):
        prompt = PROMPTS[0]
        inputs = guide.encode(model, tokenizer, chats([prompt]), delta=2.0)
        with torch.no_grad():
            probabilities = (model(**inputs).logits[0, -1].float() / 2.0).softmax(-1)
        draws = 800
        found = ask(model, tokenizer, [prompt] * draws, temperature=2.0, max_new_tokens=1,
                    batch_size=400)  # fmt: skip
        likeliest = int(probabilities.argmax())
        share = found.count(tokenizer.decode([likeliest])) / draws
        wanted = float(probabilities[likeliest])
        assert abs(share - wanted) < 5 * (wanted * (1 - wanted) / draws) ** 0.5
