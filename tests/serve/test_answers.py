# SPDX-License-Identifier: MIT
"""The real client of OpenAI against the server: answers are those of `guide.complete`."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from serving import MODEL, held, running, until

import guide_ext.integration as guide
from guide_ext.serve.settings import Settings
from guide_ext.steering.steering import Steering

TEXTS = (
    "The thief paints the hammer in the museum.",
    "The baker hides the key in the barn, and the farmer looks for it.",
    "The cat sleeps.",
)
LONG = (Path(__file__).resolve().parents[2] / "docs" / "example_prompt.txt").read_text("utf-8")
PROMPT = "<!!->Summarize in French<-!!>\n"


def chat(text=TEXTS[0]):
    return [{"role": "user", "content": PROMPT + text}]


def ask(client, messages=None, *, delta=2.0, temperature=0, max_tokens=24, guide=None, **more):
    extra = {"guide": {"delta": delta} if guide is None else guide}
    return client.chat.completions.create(
        model=MODEL, messages=chat() if messages is None else messages, temperature=temperature,
        max_tokens=max_tokens, extra_body=extra, **more,
    )  # fmt: skip


def text_of(answer):
    return answer.choices[0].message.content


def expected(loaded, messages=None, **how):
    (found,) = guide.complete(*loaded, [messages or chat()], **{"max_new_tokens": 24, **how})
    return found


class TestAnswersAreThoseOfComplete:
    @pytest.mark.parametrize("delta", [0.0, 2.0, -3.0])
    def test_greedy(self, client, loaded, delta):
        assert text_of(ask(client, delta=delta)) == expected(loaded, delta=delta)

    def test_the_marks_act(self, client):
        messages = [{"role": "user", "content": LONG}]
        plain, guided = (text_of(ask(client, messages, delta=delta)) for delta in (0.0, 2.0))
        assert (plain.split()[0], guided.split()[0]) == ("The", "Le")

    def test_sampled(self, client, loaded):
        for seed in (1, 2):
            how = {"temperature": 1.5, "seed": seed}
            assert text_of(ask(client, **how)) == expected(loaded, delta=2.0, **how)

    def test_several_answers(self, client, loaded):
        found = ask(client, n=3, temperature=1.5, seed=4)
        wanted = guide.complete(
            *loaded, [chat()] * 3, delta=2.0, max_new_tokens=24, temperature=1.5, seed=4
        )
        assert [choice.message.content for choice in found.choices] == wanted
        assert len(set(wanted)) > 1

    def test_several_prompts(self, client, loaded):
        texts = [PROMPT + text for text in TEXTS]
        found = client.completions.create(
            model=MODEL, prompt=texts, n=2, temperature=1.0, seed=3, max_tokens=12,
            extra_body={"guide": {"delta": 2.0}},
        )  # fmt: skip
        repeated = [text for text in texts for _ in range(2)]
        how = {"delta": 2.0, "max_new_tokens": 12, "temperature": 1.0, "seed": 3}
        assert [choice.text for choice in found.choices] == guide.complete(*loaded, repeated, **how)

    def test_without_a_seed_the_answer_names_one(self, client):
        found = ask(client, temperature=1.5)
        assert text_of(ask(client, temperature=1.5, seed=found.guide["seed"])) == text_of(found)
        assert "seed" not in ask(client).guide


class TestStreams:
    @pytest.mark.parametrize("temperature", [0, 1.5])
    def test_equal_to_whole_answers(self, client, temperature):
        how = {"temperature": temperature, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
        whole = ask(client, **how)
        parts = list(ask(client, stream=True, stream_options={"include_usage": True}, **how))
        for index, choice in enumerate(whole.choices):
            own = [c for part in parts for c in part.choices if c.index == index]
            assert "".join(c.delta.content or "" for c in own) == choice.message.content
            assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason]
            likely = [one for c in own if c.logprobs for one in c.logprobs.content]
            assert likely == choice.logprobs.content
        assert parts[0].guide == whole.guide
        assert [part.usage for part in parts if part.usage] == [whole.usage]

    def test_characters_of_several_tokens(self, client, loaded):
        messages = chat("Le café où naît l'été 😀.")
        how = {"delta": -5.0, "temperature": 3.0, "seed": 1, "max_tokens": 60}
        parts = ask(client, messages, stream=True, **how)
        pieces = [part.choices[0].delta.content or "" for part in parts]
        wanted = expected(loaded, messages, delta=-5.0, temperature=3.0, seed=1, max_new_tokens=60)
        assert "".join(pieces) == wanted
        assert not wanted.isascii()


class TestWhatIsSaid:
    def test_of_the_steering(self, client):
        found = ask(client)
        span = found.guide["spans"][0]
        assert found.guide["delta"] == 2.0
        assert found.guide["marked_tokens"] == span["end"] - span["start"] == 3
        assert span["nats"] == 2.0

    def test_of_the_tokens(self, client, loaded):
        model, tokenizer = loaded
        found = ask(client)
        inputs = guide.encode(model, tokenizer, [chat()])
        ids = tokenizer(text_of(found), add_special_tokens=False)["input_ids"]
        assert found.usage.prompt_tokens == inputs["input_ids"].shape[1]
        assert found.usage.completion_tokens == len(ids) + 1  # the end of the text
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        assert found.choices[0].finish_reason == "stop"
        assert ask(client, max_tokens=3).choices[0].finish_reason == "length"

    def test_probabilities_are_those_of_a_forward_pass(self, client, loaded):
        """Sampled at another temperature: they are of the model's own logits."""
        model, tokenizer = loaded
        found = ask(client, temperature=2.0, seed=1, logprobs=True, top_logprobs=3, max_tokens=8)
        inputs = guide.encode(model, tokenizer, [chat()], delta=2.0)
        begin = inputs["input_ids"].shape[1]
        assert len(found.choices[0].logprobs.content) == found.usage.completion_tokens == 8
        with torch.no_grad():
            for place, one in enumerate(found.choices[0].logprobs.content):
                logits = model(**inputs).logits[0, -1].log_softmax(-1)
                best = logits.topk(3)
                shown = [tokenizer.decode([token]) for token in best.indices]
                assert [other.token for other in one.top_logprobs] == shown
                values = [other.logprob for other in one.top_logprobs]
                assert values == pytest.approx(best.values.tolist(), abs=1e-4)
                chosen = [t for t in range(len(logits)) if tokenizer.decode([t]) == one.token]
                token = min(chosen, key=lambda t: abs(float(logits[t]) - one.logprob))
                assert float(logits[token]) == pytest.approx(one.logprob, abs=1e-4)
                inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.tensor([[token]])), 1)
                width = begin + place + 1
                inputs["attention_mask"] = torch.ones(1, width, dtype=torch.long)
                inputs["guide_bias"] = torch.nn.functional.pad(inputs["guide_bias"], (0, 1))

    def test_texts_that_end_an_answer(self, client):
        whole = text_of(ask(client))
        stop = whole[len(whole) // 2 :][:4]
        found = ask(client, stop=[stop, "nowhere"])
        assert text_of(found) == whole[: whole.index(stop)]
        assert found.choices[0].finish_reason == "stop"
        pieces = [p.choices[0].delta.content or "" for p in ask(client, stop=stop, stream=True)]
        assert "".join(pieces) == text_of(found)


class TestHowMarksAreGiven:
    def test_spans_and_tags_are_the_same(self, client):
        plain = [{"role": "user", "content": "Summarize in French\n" + TEXTS[0]}]
        span = {"message": 0, "start": 0, "end": len("Summarize in French")}
        found = ask(client, plain, guide={"delta": 2.0, "spans": [span]})
        tagged = ask(client)
        assert (text_of(found), found.guide) == (text_of(tagged), tagged.guide)

    def test_tags_are_plain_text_beside_spans(self, client, http):
        guide = {"spans": []}
        body = {"model": MODEL, "messages": chat(), "guide": guide}
        found = http.post("/v1/guide/tokens", json=body).json()
        assert "<!!->" in "".join(token["text"] for token in found["tokens"])
        assert found["guide"]["marked_tokens"] == 0

    def test_parts_of_others(self, http):
        parts = [
            {"type": "text", "text": "<!!->Summarize<-!!>"},
            {"type": "text", "text": "<!!->ignore it<-!!>", "literal": True},
        ]
        body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
        found = http.post("/v1/guide/tokens", json=body).json()["tokens"]
        marked = "".join(token["text"] for token in found if token["marked"])
        assert marked.strip() == "Summarize"
        assert "\n<!!->ignore it<-!!>" in "".join(token["text"] for token in found)

    def test_nothing_is_steered_where_it_is_switched_off(self, client):
        messages = [{"role": "user", "content": "<!9->Summarize in French<-!>\n" + TEXTS[0]}]
        found = ask(client, messages, guide={"enabled": False})
        assert text_of(found) == text_of(ask(client, delta=0.0))
        assert found.guide["marked_tokens"] == 0

    def test_layers(self, client, loaded):
        how = {"temperature": 1.5, "seed": 8, "max_tokens": 12}
        found = ask(client, guide={"delta": 9.0, "layers": [1, 0]}, **how)
        steering = Steering.guide(9.0, layers=[0, 1])
        wanted = expected(loaded, steering=steering, temperature=1.5, seed=8, max_new_tokens=12)
        assert text_of(found) == wanted
        assert found.guide["layers"] == [0, 1]
        assert text_of(ask(client, delta=9.0, **how)) != wanted

    def test_share(self, client, loaded):
        model, tokenizer = loaded
        found = ask(client, guide={"min_share": 0.3}, max_tokens=12)
        inputs = guide.encode(model, tokenizer, [chat()], min_share=0.3)
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert text_of(found) == tokenizer.decode(new, skip_special_tokens=True)
        assert found.guide["min_share"] == 0.3

    def test_roles_can_be_narrowed(self, client):
        messages = [
            {"role": "system", "content": "<!!->Be brief<-!!>."}, {"role": "user", "content": "Hi"}
        ]  # fmt: skip
        inert = {"trusted_roles": ["user"], "untrusted_tags": "literal"}
        assert ask(client, messages).guide["marked_tokens"] > 0
        assert ask(client, messages, guide=inert).guide["marked_tokens"] == 0


def test_many_at_once_equal_one_after_the_other(loaded):
    """Requests of all kinds, 72 at once, held back so that they run in full batches."""
    with running(*loaded, Settings(MODEL, queue=72)) as server:
        compare_many(server, server.client())


def compare_many(server, client):
    kinds = [
        {"delta": delta, "temperature": temperature, "messages": chat(TEXTS[row % 3]),
         "top_p": 1.0 if row % 2 else 0.7}
        for row, (delta, temperature) in enumerate(
            (delta, temperature) for delta in (0.0, 1.0, 2.0, -3.0) for temperature in (0, 0.7, 1.5)
        )
    ]  # fmt: skip

    def one(kind):
        found = ask(client, seed=5, logprobs=True, max_tokens=16, **kind).choices[0]
        return [(one.token, one.logprob) for one in found.logprobs.content]

    alone = [one(kind) for kind in kinds]
    with ThreadPoolExecutor(72) as pool:
        with held(server.engine):
            waiting = [pool.submit(one, kind) for kind in kinds * 6]
            until(lambda: server.engine.waiting == 72)
        together = [one.result() for one in waiting]
    for wanted, found in zip(alone * 6, together, strict=True):
        assert [token for token, _ in found] == [token for token, _ in wanted]
        for (_, a), (_, b) in zip(found, wanted, strict=True):
            assert math.isclose(a, b, abs_tol=1e-4)


def test_top_p_samples_from_the_likeliest_alone(client):
    """A share so small that one token is left: the answers are greedy, whatever the seed."""
    greedy = text_of(ask(client))
    for seed in range(3):
        assert text_of(ask(client, temperature=2.0, top_p=1e-6, seed=seed)) == greedy
    assert text_of(ask(client, temperature=2.0, seed=0)) != greedy


def test_an_answer_of_the_client_goes_back(client):
    """As its users write it: the message that came is a message of the next request."""
    messages = chat()
    answer = ask(client, messages).choices[0].message
    again = [*messages, answer, {"role": "user", "content": "<!!->Again<-!!>."}]
    found = ask(client, again)
    assert found.choices[0].finish_reason in ("stop", "length")
    plain = [*messages, {"role": "assistant", "content": answer.content}, again[-1]]
    assert text_of(found) == text_of(ask(client, plain))


def test_a_seed_that_every_client_can_read(client):
    assert all(ask(client, temperature=1.0, max_tokens=1).guide["seed"] < 2**53 for _ in range(8))


def test_places_of_tokens_in_a_stream_of_text(client):
    body = {"model": MODEL, "prompt": PROMPT + TEXTS[0], "temperature": 0, "max_tokens": 9}
    whole = client.completions.create(**body, logprobs=2).choices[0].logprobs
    parts = [
        p.choices[0].logprobs for p in client.completions.create(**body, logprobs=2, stream=True)
    ]
    joined = [place for part in parts if part for place in part.text_offset]
    assert joined == whole.text_offset
    assert whole.text_offset == sorted(set(whole.text_offset))
    assert all(len(one) == 2 for one in whole.top_logprobs)
