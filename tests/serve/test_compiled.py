# SPDX-License-Identifier: MIT
"""A server whose single answers run compiled: the same answers, by one graph.

Graphs are recorded as they always are, and then run by PyTorch: to make code of one takes minutes.
`test_with_machine_code` does.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from serving import MODEL, held, running, until
from torch._dynamo.utils import counters
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

import guide_ext.integration as guide
from guide_ext.integration import compiled
from guide_ext.serve import engine as engine_module
from guide_ext.serve.settings import Settings

SLOTS = 96
TEXTS = ("<!!->Summarize in French<-!!>\nThe cat sleeps.", "Hi <!->you<-!>.", "The dog. " * 9)


def chat(text, **more):
    return {
        "model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0,
        "max_tokens": 16, "logprobs": True, "top_logprobs": 2, **more,
    }  # fmt: skip


BODIES = [
    *(chat(text, guide={"delta": delta}) for text in TEXTS for delta in (0.0, 2.0, -3.0)),
    chat(TEXTS[0], temperature=1.5, seed=3),
    chat(TEXTS[0], stop=["le"], stream=True),
    chat(TEXTS[0], max_tokens=1),
]


@pytest.fixture(scope="module")
def used():
    """The arguments of all calls of `generate`."""
    return []


@pytest.fixture(scope="module")
def server(used):
    torch._dynamo.reset()
    counters.clear()  # of tests before
    model, tokenizer = guide.load_embedded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine_module, "CompiledSteps", partial(compiled.CompiledSteps, backend="eager")
        )
        generate = engine_module.generate

        def noted(model, tokenizer, rows, *rest, **how):
            used.append("steps" in how)
            return generate(model, tokenizer, rows, *rest, **how)

        patch.setattr(engine_module, "generate", noted)
        with running(model, tokenizer, Settings(MODEL, compile=SLOTS)) as found:
            yield found


def graphs():
    return counters["stats"]["unique_graphs"]


def ask(http, body):
    found = http.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    if body.get("stream"):
        return [line for line in found.text.splitlines() if "content" in line and "delta" in line]
    return found.json()["choices"]


def compare(found, wanted):
    """Compare two answers: tokens, ends, probabilities up to rounding."""
    for one, other in zip(found, wanted, strict=True):
        assert one["finish_reason"] == other["finish_reason"]
        assert one["message"]["content"] == other["message"]["content"]
        pairs = zip(one["logprobs"]["content"], other["logprobs"]["content"], strict=True)
        for a, b in pairs:
            assert a["token"] == b["token"]
            assert math.isclose(a["logprob"], b["logprob"], abs_tol=1e-4)


def text_of(lines):

    parts = [json.loads(line.removeprefix("data: ")) for line in lines]
    return "".join(part["choices"][0]["delta"]["content"] for part in parts)


def test_answers_are_the_same_by_one_graph(server, loaded, used):
    assert graphs() == 1  # it was made before the server began to listen
    with running(*loaded, Settings(MODEL)) as other, other.http() as plain, server.http() as http:
        used.clear()
        found = [ask(http, body) for body in BODIES]
        assert used == [True] * len(BODIES)
        for body, answer in zip(BODIES, found, strict=True):
            wanted = ask(plain, body)
            if body.get("stream"):
                assert text_of(answer) == text_of(wanted) != ""
            else:
                compare(answer, wanted)
    assert graphs() == 1


def test_what_runs_as_it_is(server, loaded, used):
    """Long answers, layers, shares, several at once: the graph is not for them."""
    bodies = [
        chat("The dog. " * 40),
        chat(TEXTS[0], guide={"layers": [0]}),
        chat(TEXTS[0], guide={"min_share": 0.3}),
        chat(TEXTS[0], n=2),
    ]
    before = graphs()
    with running(*loaded, Settings(MODEL)) as other, other.http() as plain, server.http() as http:
        used.clear()
        for body in bodies:
            compare(ask(http, body), ask(plain, body))
        with ThreadPoolExecutor(2) as pool, held(server.engine):
            waiting = [pool.submit(ask, http, BODIES[0]) for _ in range(2)]
            until(lambda: server.engine.waiting == 2)
        for one in waiting:
            compare(one.result(), ask(plain, BODIES[0]))
    assert not any(used)
    assert graphs() == before


def test_influence_in_between(server, used):
    """What measures changes the model, and leaves the graph right."""
    with server.http() as http:
        before = ask(http, BODIES[1]), graphs()
        body = {"model": MODEL, "prompt": TEXTS[0], "max_tokens": 4}
        assert http.post("/v1/guide/influence", json=body).status_code == 200
        used.clear()
        assert (ask(http, BODIES[1]), graphs()) == before
    assert used == [True]


def gpt2():
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config)


def sliding():
    return MistralForCausalLM(
        MistralConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, sliding_window=8)
    )  # fmt: skip


def test_what_cannot_be_one_graph():
    with pytest.raises(
        ValueError, match=r"MistralForCausalLM, which has layers whose cache slides"
    ):
        compiled.CompiledSteps(guide.enable(sliding().eval()), 64)
    model = guide.enable(gpt2().eval())
    model.hf_device_map = {"a": 0, "b": "cpu"}
    with pytest.raises(ValueError, match="which lies on several devices; leave --compile out"):
        compiled.CompiledSteps(model, 64)
    for wrong in (1, True, 2.0):
        with pytest.raises(ValueError, match="slots must be a whole number from 2, got"):
            compiled.CompiledSteps(model, wrong)
    with pytest.raises(ValueError, match="compile must be 0 or a whole number from 16, got 3"):
        Settings(MODEL, compile=3)


@pytest.mark.long
def test_with_machine_code(loaded):
    torch._dynamo.reset()
    model, tokenizer = guide.load_embedded()
    settings = Settings(MODEL, compile=SLOTS)
    with (
        running(*loaded, Settings(MODEL)) as other, other.http() as plain,
        running(model, tokenizer, settings, seconds=1200) as server, server.http() as http,
    ):  # fmt: skip
        before = graphs()
        for body in BODIES[:10]:
            compare(ask(http, body), ask(plain, body))
        assert graphs() == before
