# SPDX-License-Identifier: MIT
"""Prompt-Highlighter: two readings contrasted, beside plain code with whole matrices."""

import math

import encoder_decoders as zoo
import models
import plain_methods
import pytest
import torch
from plain_methods import scaled
from transformers import LogitsProcessorList

import guide_ext.integration as guide
from guide_ext.integration.highlight import Contrast, both_readings
from guide_ext.steering.steering import Steering

TEXTS = [
    "Once the baker hides the key. <!!->The secret word of Tom is banana.<-!!> The cat sleeps.",
    "<!->Summarize in French<-!>: the dog eats <!!!->the bread<-!!!>.",
]
STEPS = 6
SCALE, MULTIPLIER = 2.0, 4.0


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def prompts(loaded):
    return [guide.as_prompt(loaded[1], text) for text in TEXTS]


def plain_of(loaded, prompt):
    """Return the tokens of a prompt and which of them are marked."""
    inputs = guide.encode(*loaded, prompt, delta=1.0)
    return inputs["input_ids"], inputs["guide_bias"] != 0


def by_plain_code(loaded, prompt, high, low):
    """Write greedily by two whole passes for every token; return the scores of each step."""
    model, _ = loaded
    ids, marked = plain_of(loaded, prompt)
    found = []
    for _step in range(STEPS):
        chances = []
        for edits in (high(marked), low(marked)):
            with plain_methods.edited(model, **edits):
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            chances.append(logits[:, -1].double().log_softmax(-1))
        found.append(chances[1] + SCALE * (chances[0] - chances[1]))
        ids = torch.cat([ids, found[-1].argmax(-1, keepdim=True)], 1)
    return torch.stack(found, 1)[0]


def scores_of(loaded, prompts, multiplier, suppression, scale=SCALE):
    model, tokenizer = loaded
    inputs = both_readings(model, tokenizer, prompts, multiplier, suppression)
    output = model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, eos_token_id=None,
        logits_processor=LogitsProcessorList([Contrast(scale)]),
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    scores = torch.stack(output.scores, 1)
    assert torch.equal(*scores.chunk(2))
    return scores[: len(prompts)]


@pytest.mark.parametrize("suppression", [1 / MULTIPLIER, 1.0])
def test_weights_are_multiplied_as_the_paper_says(loaded, prompts, suppression):
    found = scores_of(loaded, prompts, MULTIPLIER, suppression)
    for own, prompt in zip(found, prompts, strict=True):
        wanted = by_plain_code(
            loaded, prompt,
            lambda marked: {"weights": scaled(marked, MULTIPLIER)},
            lambda marked: {"weights": scaled(marked, suppression)},
        )  # fmt: skip
        models.assert_logits_close(own, wanted.float())
        assert own.argmax(-1).tolist() == wanted.argmax(-1).tolist()
    reversed_ = scores_of(loaded, prompts[::-1], MULTIPLIER, suppression)
    models.assert_logits_close(reversed_[1], found[0])


def test_the_authors_scores(loaded, prompts):
    """Their code adds 1 to all scores, and 1 + log w, or -(1 + log w), to those of marked keys."""

    def added(sign):
        def of(marked):
            def scores(layer, score):
                keys = torch.nn.functional.pad(marked, (0, score.shape[-1] - marked.shape[1]))
                extra = torch.where(keys, sign * (1 + math.log(MULTIPLIER)), 1.0)
                return score + extra[:, None, None].double()

            return {"scores": scores}

        return of

    # Of marked keys, they raise the 1 that all have: 1 + log w beside 1.
    wanted = by_plain_code(loaded, prompts[0], added(1), added(-1))
    found = scores_of(loaded, prompts[:1], MULTIPLIER, math.exp(-2) / MULTIPLIER)[0]
    models.assert_logits_close(found, wanted.float())


def test_hidden_tokens_are_as_if_masked(loaded, prompts):
    """The contrast of Selective Prompt Anchoring: plain logits against those without the text."""

    def hidden(marked):
        def scores(layer, score):
            keys = torch.nn.functional.pad(marked, (0, score.shape[-1] - marked.shape[1]))
            return score.masked_fill(keys[:, None, None], -math.inf)

        return {"scores": scores}

    found = scores_of(loaded, prompts[:1], 1.0, 0.0)[0]
    wanted = by_plain_code(loaded, prompts[0], lambda marked: {}, hidden)
    models.assert_logits_close(found, wanted.float())


def test_one_call(loaded, prompts):
    model, tokenizer = loaded
    found = guide.highlight(model, tokenizer, prompts, multiplier=MULTIPLIER, max_new_tokens=STEPS)
    assert found == guide.highlight(
        model, tokenizer, prompts, multiplier=MULTIPLIER, suppression=1 / MULTIPLIER,
        guidance_scale=1.5, max_new_tokens=STEPS, batch_size=1,
    )  # fmt: skip
    first = scores_of(loaded, prompts[:1], MULTIPLIER, 1 / MULTIPLIER, 1.5)[0].argmax(-1)
    ended = first.tolist()
    if tokenizer.eos_token_id in ended:
        ended = ended[: ended.index(tokenizer.eos_token_id)]
    assert found[0] == tokenizer.decode(ended, skip_special_tokens=True)


def test_the_contrast_reaches_the_answer(loaded, prompts):
    """By default, the second reading is played down by as much as the first is raised."""
    model, tokenizer = loaded
    how = {"multiplier": 9.0, "guidance_scale": 40.0, "max_new_tokens": 12}
    found = guide.highlight(model, tokenizer, prompts, **how)
    for prompt, answer in zip(prompts, found, strict=True):
        scores = scores_of(loaded, [prompt], 9.0, 1 / 9.0, 40.0)[0]
        first = scores.argmax(-1).tolist()
        assert (
            tokenizer.decode(first[:2], skip_special_tokens=True)
            == answer[: len(tokenizer.decode(first[:2], skip_special_tokens=True))]
        )
    steering = Steering.instaboost(9.0)
    assert found != guide.complete(model, tokenizer, prompts, steering=steering, max_new_tokens=12)
    assert found != guide.highlight(model, tokenizer, prompts, suppression=1.0, **how)


def test_a_scale_of_1_is_the_first_reading(loaded, prompts):
    model, tokenizer = loaded
    steering = Steering.instaboost(MULTIPLIER)
    wanted = guide.complete(model, tokenizer, prompts, steering=steering, max_new_tokens=STEPS)
    how = {"multiplier": MULTIPLIER, "guidance_scale": 1.0, "max_new_tokens": STEPS}
    assert guide.highlight(model, tokenizer, prompts, **how) == wanted


def test_prompts_without_marks_are_answered_plainly(loaded):
    model, tokenizer = loaded
    prompt = guide.as_prompt(tokenizer, "Summarize in French: the dog eats.")
    plain = guide.complete(model, tokenizer, [prompt], max_new_tokens=STEPS)
    assert guide.highlight(model, tokenizer, [prompt], max_new_tokens=STEPS) == plain


def test_sampled_answers_depend_on_their_seed_alone(loaded, prompts):
    model, tokenizer = loaded
    how = {"temperature": 4.0, "seed": 5, "max_new_tokens": 12}
    together = guide.highlight(model, tokenizer, prompts, **how)
    assert guide.highlight(model, tokenizer, prompts[::-1], batch_size=1, **how) == together[::-1]
    assert guide.highlight(model, tokenizer, prompts, **{**how, "seed": 6}) != together
    assert guide.highlight(model, tokenizer, prompts, **{**how, "temperature": 0.0}) != together


def test_sampled_answers_to_prompts_without_marks(loaded):
    """Both halves of such a row are equal, and must draw equally."""
    model, tokenizer = loaded
    prompt = guide.as_prompt(tokenizer, "Summarize in French: the dog eats.")
    how = {"temperature": 4.0, "seed": 5, "max_new_tokens": 12}
    plain = guide.complete(model, tokenizer, [prompt], **how)
    assert guide.highlight(model, tokenizer, [prompt], **how) == plain


def test_halves_that_part_company_are_an_error(loaded, prompts):
    model, tokenizer = loaded
    inputs = both_readings(model, tokenizer, prompts, 4.0, 0.25)
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="both halves of the batch must write the same tokens"):
        model.generate(
            **inputs, max_new_tokens=8, do_sample=True, temperature=5.0, top_k=0,
            logits_processor=LogitsProcessorList([Contrast(1.5)]),
        )  # fmt: skip


def test_tokens_that_may_not_come_stay_out():
    logits = torch.tensor([[1.0, -math.inf, 0.0], [2.0, -math.inf, 0.0]])
    found = Contrast(1.5)(torch.zeros(2, 1), logits)
    assert found[:, 1].tolist() == [-math.inf] * 2
    assert found[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"guidance_scale": 0.5}, "guidance_scale must be a number from 1 to 10000, got 0.5"),
        ({"guidance_scale": math.nan}, "guidance_scale must be a number from 1 to 10000"),
        ({"multiplier": 0}, "multiplier must be a finite number above 0, got 0"),
        ({"suppression": -1}, "suppression must be a finite number from 0, got -1"),
        ({"multiplier": 2.0, "suppression": 2.0}, "suppression must differ from multiplier"),
        ({"multiplier": 1.0}, "suppression must differ from multiplier"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
    ],
)
def test_what_does_not_fit(loaded, prompts, how, message):
    with pytest.raises(ValueError, match=message):
        guide.highlight(*loaded, prompts, **how)


def test_a_single_prompt_and_an_encoder_decoder(loaded):
    with pytest.raises(ValueError, match=r"got a single one; write \[prompt\]"):
        guide.highlight(*loaded, "text")
    bart = guide.enable(zoo.make("bart", vocab_size=1504))
    with pytest.raises(ValueError, match=r"highlight\(\) must go to a model with one text"):
        guide.highlight(bart, loaded[1], ["text"])
