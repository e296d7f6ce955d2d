# SPDX-License-Identifier: MIT
"""transformers' pipelines with tags: the answers of `generate()`, in batches, chats and streams."""

import doctest
from pathlib import Path

import encoder_decoders as zoo
import pytest
import torch
from transformers import TextStreamer, pipeline

import guide_ext.integration as guide
from guide_ext.marking.tags import TagError
from guide_ext.steering.steering import Steering

GREEDY = {"max_new_tokens": 8, "do_sample": False}
TEXTS = [
    "<!!->Summarize in French<-!!>: The cat sleeps.",
    "<!->Summarize<-!> in French: The dog eats the bread in the garden of the old mill.",
]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def answer(loaded):
    model, tokenizer = loaded
    return pipeline("guide-text-generation", model=model, tokenizer=tokenizer)


def wanted(loaded, prompts, **how):
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, prompts, **how)
    inputs.pop("guide_seed", None)
    ids = model.generate(**inputs, **GREEDY)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    "how",
    [
        {"delta": 2.0},
        {"steering": Steering.guide(2.0, layers=[2, 3])},
        {"min_share": 0.4},
        {"steering": Steering.pasta(0.1, {1: [0, 1]})},
    ],
)
@pytest.mark.parametrize("prompts", [TEXTS, CHATS])
def test_answers_are_those_of_generate(loaded, answer, prompts, how):
    found = answer(prompts, return_full_text=False, **how, **GREEDY)
    texts = [records[0]["generated_text"] for records in found]
    assert texts == [wanted(loaded, [prompt], **how)[0] for prompt in prompts]
    together = answer(prompts, return_full_text=False, batch_size=2, **how, **GREEDY)
    assert together == found


def test_marks_act(answer):
    plain, guided = (
        answer(CHATS[0], delta=delta, return_full_text=False, **GREEDY) for delta in (-9.0, 3.0)
    )
    assert plain != guided


def test_arguments_of_the_pipeline_hold_for_its_calls(loaded, answer):
    model, tokenizer = loaded
    always = pipeline("guide-text-generation", model=model, tokenizer=tokenizer, delta=3.0)
    assert always(CHATS[0], **GREEDY) == answer(CHATS[0], delta=3.0, **GREEDY)
    assert always(CHATS[0], delta=0.0, **GREEDY) == answer(CHATS[0], delta=0.0, **GREEDY)


def test_prompts_come_back_without_tags(answer):
    [text] = answer(TEXTS[0], **GREEDY)
    assert text["generated_text"].startswith("Summarize in French: The cat sleeps.")
    [chat] = answer(CHATS[0], **GREEDY)
    first, second = chat["generated_text"]
    assert first == {"role": "user", "content": "Summarize in French: The cat sleeps."}
    assert second["role"] == "assistant"


def test_generators_and_streams(answer, capsys):
    found = list(answer((text for text in TEXTS), return_full_text=False, **GREEDY))
    assert found == answer(TEXTS, return_full_text=False, **GREEDY)
    streamer = TextStreamer(answer.tokenizer, skip_prompt=True, skip_special_tokens=True)
    capsys.readouterr()
    answer(TEXTS[0], streamer=streamer, **GREEDY)
    assert capsys.readouterr().out.strip() == found[0][0]["generated_text"].strip()


def test_several_answers(answer):
    records = answer(TEXTS[0], num_return_sequences=2, num_beams=2, **GREEDY)
    assert len(records) == 2


def test_an_answer_that_has_begun(loaded, answer):
    chat = [*CHATS[0], {"role": "assistant", "content": "Le chat"}]
    [found] = answer(chat, **GREEDY)
    assert found["generated_text"][-1]["content"].startswith("Le chat")


def test_a_model_by_its_folder(tmp_path, loaded):
    model, tokenizer = loaded
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answer = pipeline("guide-text-generation", model=str(tmp_path), device="cpu")
    assert guide.is_enabled(answer.model)
    found = answer(CHATS[0], delta=2.0, return_full_text=False, **GREEDY)
    assert [found[0]["generated_text"]] == wanted(loaded, CHATS[0], delta=2.0)


@pytest.mark.parametrize(
    "name",
    ["prefix", "truncation", "padding", "max_length", "handle_long_generation",
     "add_special_tokens", "tokenizer_encode_kwargs"],
)  # fmt: skip
def test_what_would_move_marks_is_refused(answer, name):
    with pytest.raises(ValueError, match=f"{name} must be left out of a pipeline"):
        answer(TEXTS[0], **{name: {} if name.endswith("kwargs") else 10})


def test_tags_that_cannot_be_read(answer):
    with pytest.raises(TagError):
        answer("<!!->Summarize", **GREEDY)
    untrusted = [{"role": "assistant", "content": "<!->Hm<-!>"}, *CHATS[0]]
    with pytest.raises(TagError, match="assistant"):
        answer(untrusted, **GREEDY)
    assert answer(untrusted, trusted_roles=("assistant", "user"), **GREEDY)


def test_prompts_of_which_some_are_to_be_measured(answer):
    texts = [TEXTS[0], "<?->Summarize<-?>: The cat."]
    assert answer(texts, batch_size=2, **GREEDY) == answer(texts, **GREEDY)


def test_a_call_says_otherwise_what_marks_mean(loaded, answer):
    model, tokenizer = loaded
    always = pipeline("guide-text-generation", model=model, tokenizer=tokenizer, delta=3.0)
    for how in ({"min_share": 0.4}, {"steering": Steering.guide(1.0, layers=[0])}):
        assert always(CHATS[0], **how, **GREEDY) == answer(CHATS[0], **how, **GREEDY)


def test_encoder_decoders_are_refused(loaded):
    with pytest.raises(ValueError, match="must go to a model with one text"):
        pipeline(
            "guide-text-generation",
            model=zoo.make("bart", vocab_size=1504),
            tokenizer=loaded[1],
        )


class TestPayAttention:
    @pytest.fixture(scope="class")
    def pipe(self, loaded):
        model, tokenizer = loaded
        return pipeline("pay-attention", model=model, tokenizer=tokenizer, delta_mid=2.0)

    def test_a_text_with_tags_is_a_message(self, loaded, pipe):
        text = "<!->Summarize<-!> <!!->in\nFrench<-!!>: The <!!!->cat<-!!!> sleeps."
        [found] = pipe(text, return_full_text=False, **GREEDY)
        chat = [{"role": "user", "content": text}]
        assert [found["generated_text"]] == wanted(loaded, chat, delta=2.0)
        assert "influence" not in found
        [plain] = pipe("Summarize in French: the cat", return_full_text=False, **GREEDY)
        assert [plain["generated_text"]] == wanted(loaded, ["Summarize in French: the cat"])

    def test_every_call_is_the_first(self, pipe):
        """The authors' hooks pile up: their third call has three times the Δ."""
        calls = [pipe(TEXTS[0], **GREEDY) for _ in range(3)]
        assert calls[0] == calls[1] == calls[2]

    @pytest.mark.parametrize(
        ("metric", "form"),
        [("influence", "paper"), ("attention_rollout", "rollout"), ("authors", "authors")],
    )
    def test_influence_comes_back(self, loaded, pipe, metric, form):
        model, tokenizer = loaded
        text = "<?->Summarize in French<-?>: The cat sleeps."
        [found] = pipe(text, metric=metric, **GREEDY)
        inputs = guide.encode(model, tokenizer, [{"role": "user", "content": text}], delta=2.0)
        measured = guide.influence(model, inputs, form=form).values[0]
        torch.testing.assert_close(found["influence"], measured)
        assert measured.shape[-1] == inputs["input_ids"].shape[1]

    def test_influence_of_a_batch_has_no_padding(self, pipe):
        texts = ["<?->Summarize<-?>: The cat.", "<?->Summarize in French<-?>: The cat sleeps."]
        texts.append("<!->Summarize<-!> in French: nothing is to be measured here.")
        together = pipe(texts, batch_size=3, **GREEDY)
        for text, [record] in zip(texts, together, strict=True):
            [alone] = pipe(text, **GREEDY)
            assert record["generated_text"] == alone["generated_text"]
            assert record.keys() == alone.keys()
            if "influence" in record:
                torch.testing.assert_close(record["influence"], alone["influence"])
        assert ["influence" in record for [record] in together] == [True, True, False]
        with pytest.raises(ValueError, match="one group of <"):
            pipe("<?a->Summarize<-?a> the <?b->cat<-?b>.", **GREEDY)

    def test_what_does_not_fit(self, loaded):
        model, tokenizer = loaded
        with pytest.raises(ValueError, match="num_layers must be the model's 4, got 32"):
            pipeline("pay-attention", model=model, tokenizer=tokenizer, num_layers=32)
        with pytest.raises(ValueError, match="metric must be one of influence"):
            pipeline("pay-attention", model=model, tokenizer=tokenizer, metric="attention")


def test_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "pipelines.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(
        str(page), module_relative=False, optionflags=flags, encoding="utf-8"
    )
    assert failed == 0
    assert attempted > 5
