# SPDX-License-Identifier: MIT
"""Tokens, Influence, calibration and counts over HTTP equal those of the package."""

import json
import time

import pytest
import torch
from serving import MODEL
from side_by_side_records import assert_same

import guide_ext.integration as guide
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.serve import guide_routes, measuring
from guide_ext.steering.steering import Steering
from guide_ext.support.version import VERSION

CHAT = [{"role": "user", "content": "<!!->Summarize in French<-!!>\nThe cat sleeps."}]
BODY = {"model": MODEL, "messages": CHAT, "guide": {"delta": 2.0}}


def post(http, path, **change):
    return http.post(f"/v1/guide/{path}", json={**BODY, **change})


def test_about(http):
    found = http.get("/v1/guide").json()
    assert (found["version"], found["layers"], found["heads"]) == (VERSION, 4, 4)
    assert found["limits"]["nats"] == 20.0
    assert found["limits"]["prompt_tokens"] == 1024


def test_tokens(http, loaded):
    found = post(http, "tokens").json()
    inputs = guide.encode(*loaded, [CHAT], delta=2.0)
    assert [token["id"] for token in found["tokens"]] == inputs["input_ids"][0].tolist()
    assert [token["nats"] for token in found["tokens"]] == inputs["guide_bias"][0].tolist()
    assert found["guide"]["marked_tokens"] == 3


class TestInfluence:
    def test_of_the_prompt(self, http, loaded):
        found = post(http, "influence", form="exact").json()
        inputs = guide.encode(*loaded, [CHAT], delta=2.0)
        seed = {"guide_seed": (inputs["guide_bias"] != 0).float()[:, None]}
        with torch.no_grad():
            wanted = guide.influence(loaded[0], {**inputs, **seed}, form="exact").values[0, :, 0]
        assert torch.allclose(torch.tensor(found["values"][0]), wanted, atol=1e-6)
        assert len(found["tokens"]) == wanted.shape[1]

    def test_of_an_answer(self, http, loaded):
        found = post(http, "influence", max_tokens=6).json()
        wanted = measure_prompt(
            *loaded, CHAT, delta=2.0,
            max_new_tokens=6, model_name=MODEL,
        )  # fmt: skip
        assert found == json.loads(json.dumps(wanted))

    def test_sampled(self, http, loaded):
        options = {"max_tokens": 6, "temperature": 1.5, "seed": 11}
        found = post(http, "influence", **options).json()
        wanted = measure_prompt(
            *loaded, CHAT, delta=2.0, max_new_tokens=6, temperature=1.5, seed=11, model_name=MODEL
        )
        assert found == json.loads(json.dumps(wanted))
        answered = http.post("/v1/chat/completions", json={**BODY, **options}).json()
        said = answered["choices"][0]["message"]["content"].strip()
        assert said == found["runs"][1]["answer"]

    @pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 11}])
    def test_streamed(self, http, options):
        text = post(http, "influence", max_tokens=6, stream=True, **options).text
        *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert done == "[DONE]"
        *steps, last = map(json.loads, events)
        record = last["record"]
        assert_same(record, post(http, "influence", max_tokens=6, **options).json())
        assert [one["run"] for one in steps[:4]] == ["plain", "guided"] * 2  # side by side
        for run in record["runs"]:
            own = [one for one in steps if one["run"] == run["name"]]
            assert len(own) > 3
            joined = [
                [value for one in own for value in one["values"][0][level]] for level in range(5)
            ]
            assert [[*row, None] for row in joined] == run["values"][0]
            assert [{k: v for k, v in one["token"].items() if k != "logprob"} for one in own] == (
                run["tokens"]
            )
            assert [bool(one["finish_reason"]) for one in own] == [False] * (len(own) - 1) + [True]
            assert all(one["token"]["logprob"] <= 0 for one in own)

    def test_a_client_that_leaves_a_stream(self, http, monkeypatch):
        told = guide_routes.told

        def slowly(step):
            time.sleep(0.1)
            return told(step)

        monkeypatch.setattr(guide_routes, "told", slowly)
        text = [{"role": "user", "content": "<!!->Tell me a story<-!!>"}]
        body = {**BODY, "messages": text, "max_tokens": 900, "temperature": 9.0, "stream": True}
        with http.stream("POST", "/v1/guide/influence", json=body) as answer:
            next(answer.iter_lines())
        # 900 tokens of two answers would take minutes.
        assert post(http, "score", answers=["Le"], deltas=[0.0], guide={}).status_code == 200

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_model_that_fails(self, http, monkeypatch, stream):
        """An error is the last event of a stream, in the words of other routes."""

        def fails(*_):
            raise RuntimeError("out of memory, with a secret")

        for name in ("measured", "streamed"):
            monkeypatch.setattr(guide_routes, name, fails)
        found = post(http, "influence", max_tokens=3, stream=stream)
        assert found.status_code == (200 if stream else 500)
        told = json.loads(found.text.removeprefix("data: "))
        assert told["error"] == {
            "message": "the model could not answer: RuntimeError", "type": "server_error",
            "param": None, "code": None,
        }  # fmt: skip

    def test_groups(self, http):
        messages = [{"role": "user", "content": "<?rule->Be brief<-?rule>. <?who->You<-?who> Hi"}]
        found = post(http, "influence", messages=messages).json()
        assert found["groups"] == ["rule", "who"]
        assert len(found["values"]) == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"messages": [{"role": "user", "content": "Hi"}]}, "must have marks to be measured"),
            ({"stream": True}, "max_tokens must be at least 1 in a stream"),
            ({"temperature": 0.5}, "temperature must come with max_tokens"),
            ({"max_tokens": 0, "seed": 3}, "seed must come with max_tokens"),
            ({"guide": {"min_share": 0.1}}, "guide must have a delta alone to be measured"),
            ({"form": "other"}, "form: Input should be"),
            ({"prompt": "Hi"}, "give either messages or prompt"),
            ({"model": "other"}, "model must be"),
        ],
    )
    def test_errors(self, http, change, message):
        found = post(http, "influence", **change)
        assert found.status_code in (400, 404)
        assert message in found.json()["error"]["message"]


class TestSources:
    """Beside `guide.sources`, on the text of an answer and on its tokens."""

    ANSWER = " Le chat dort."

    def wanted(self, loaded, **options):
        prompt = guide.as_prompt(loaded[1], CHAT[0]["content"])
        return guide.sources(*loaded, prompt, self.ANSWER, **options)

    def test_the_mean_of_every_layer(self, http, loaded):
        found = post(http, "sources", answer=self.ANSWER).json()
        wanted = self.wanted(loaded, delta=2.0)
        assert (found["token"], found["row"]) == (wanted.token, wanted.row)
        assert found["prompt_tokens"] == wanted.prompt_tokens
        assert found["tokens"] == list(wanted.tokens)
        assert torch.allclose(torch.tensor(found["mean"]), wanted.mean(), atol=1e-6)
        assert found["heads"] == {}

    def test_heads(self, http, loaded):
        ids = loaded[1].encode(self.ANSWER, add_special_tokens=False)
        change = {"answer": ids, "token": 5, "of": "read", "layers": [2, 0, 2]}
        found = post(http, "sources", **change, guide={"delta": -1.0, "layers": [1]}).json()
        steering = Steering.guide(-1.0, layers=(1,))
        wanted = self.wanted(loaded, token=5, of="read", steering=steering)
        assert sorted(found["heads"]) == ["0", "2"]
        for layer in (0, 2):
            own = torch.tensor(found["heads"][str(layer)])
            assert torch.allclose(own, wanted.weights[layer], atol=1e-6)
        assert found["row"] == 5

    def test_without_steering(self, http, loaded):
        off = {"delta": 2.0, "enabled": False}
        found = post(http, "sources", answer=self.ANSWER, guide=off).json()
        wanted = self.wanted(loaded, delta=0.0)
        assert torch.allclose(torch.tensor(found["mean"]), wanted.mean(), atol=1e-6)
        guided = post(http, "sources", answer=self.ANSWER).json()
        assert found["mean"] != guided["mean"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"token": 1000}, "token must be from"),
            ({"token": 0}, "token must be at least 1 to have been written"),
            ({"answer": [-1]}, "greater than or equal to 0"),
            ({"answer": [100000]}, "answer must have tokens that the model knows"),
            ({"answer": [5] * 1020}, "answer must have at most"),
            ({"layers": [4]}, "layers must be below 4, got 4"),
            ({"layers": []}, "layers"),
            ({"of": "other"}, "of: Input should be"),
            ({"guide": {"min_share": 0.1}}, "guide must have a delta"),
            ({"model": "other"}, "model must be"),
            ({"stream": True}, "stream"),
        ],
    )
    def test_errors(self, http, change, message):
        found = post(http, "sources", **change)
        assert found.status_code in (400, 404)
        assert message in found.json()["error"]["message"]

    def test_more_numbers_than_an_answer_may_have(self, http, monkeypatch):
        monkeypatch.setattr(guide_routes, "_MOST_NUMBERS", 50)
        found = post(http, "sources", answer=self.ANSWER)
        assert found.status_code == 400
        assert "at most 50 numbers" in found.json()["error"]["message"]


class TestScore:
    """Beside `log_likelihoods`, and beside the probabilities that an answer reports."""

    def prompt(self, loaded):
        return guide.as_prompt(loaded[1], CHAT[0]["content"])

    def test_several_deltas(self, http, loaded):
        deltas = [-1.0, 0.0, 0.5, 3.0]
        found = post(http, "score", answers=["Le chat", "The"], deltas=deltas, guide={}).json()
        steerings = [Steering.guide(delta) for delta in deltas]
        wanted = log_likelihoods(*loaded, self.prompt(loaded), ["Le chat", "The"], steerings)
        assert found["deltas"] == deltas
        assert found["logprobs"] == pytest.approx(wanted, abs=1e-4)
        assert len({round(one, 3) for one in found["logprobs"]}) == 4

    def test_factors(self, http):
        """Marks keep their proportions: at 2 nats the factor 1.5 is a Δ of 3."""
        one = post(http, "score", answers=["Le chat"], factors=[0.0, 1.0, 1.5]).json()
        other = post(http, "score", answers=["Le chat"], deltas=[0.0, 2.0, 3.0], guide={}).json()
        assert one["factors"] == [0.0, 1.0, 1.5]
        assert one["logprobs"] == other["logprobs"]
        spans = {"spans": [{"start": 0, "end": 3, "delta": 2}, {"start": 5, "end": 6, "delta": -1}]}
        plain = [{"role": "user", "content": "Say it."}]
        both = post(http, "score", answers=["It"], factors=[1.0, 0.5], messages=plain, guide=spans)
        spans["spans"][0]["delta"], spans["spans"][1]["delta"] = 1.0, -0.5
        half = post(http, "score", answers=["It"], factors=[1.0], messages=plain, guide=spans)
        assert both.json()["logprobs"][1] == pytest.approx(half.json()["logprobs"][0], abs=1e-5)

    def test_layers(self, http, loaded):
        guided = {"layers": [0]}
        found = post(http, "score", answers=["Le chat"], deltas=[2.0], guide=guided).json()
        wanted = log_likelihoods(
            *loaded, self.prompt(loaded), ["Le chat"], [Steering.guide(2.0, layers=(0,))]
        )
        assert found["logprobs"] == pytest.approx(wanted, abs=1e-4)

    def test_exact_text_of_one_token(self, http):
        body = {**BODY, "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
        found = http.post("/v1/chat/completions", json=body).json()["choices"][0]
        tops = found["logprobs"]["content"][0]["top_logprobs"]
        assert len(tops) == 20
        for one in tops[:5]:
            said = post(http, "score", answers=[one["token"]], exact=True, factors=[1.0]).json()
            assert said["logprobs"][0] == pytest.approx(one["logprob"], abs=1e-3)
        # Words begin with a space here: without one, as it stands, the same word is unlikely.
        bare = tops[0]["token"].strip()
        asked = {"answers": [bare], "factors": [1.0]}
        (exact,) = post(http, "score", exact=True, **asked).json()["logprobs"]
        (either,) = post(http, "score", **asked).json()["logprobs"]
        assert exact < tops[0]["logprob"] - 1 < either

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"answers": []}, "answers"),
            ({"answers": [" "]}, "answers must not be empty"),
            ({"answers": ["word " * 1100]}, "answers must have at most"),
            ({"deltas": None}, "give either deltas or factors"),
            ({"factors": [1.0]}, "give either deltas or factors"),
            ({"deltas": [0.0, 21.0]}, "must have a bias from -20 to 20 nats, got 21"),
            ({"deltas": None, "factors": [-11.0]}, "must have a bias from -20 to 20 nats, got 22"),
            ({"deltas": [1e400]}, "finite"),
            ({"deltas": [0.0] * 257}, "deltas"),
            ({"guide": {"min_share": 0.1}}, "guide must steer by nats"),
            ({"guide": {"enabled": False}}, "guide must steer by nats"),
            ({"guide": {"delta": 5.0}}, "guide.delta must be left out beside deltas"),
        ],
    )
    def test_errors(self, http, change, message):
        guided = {} if "deltas" not in change or change["deltas"] else BODY["guide"]
        body = {**BODY, "guide": guided, "answers": ["Le"], "deltas": [0.0], **change}
        content = json.dumps(body)  # Infinity, as clients may write it
        headers = {"content-type": "application/json"}
        found = http.post("/v1/guide/score", content=content, headers=headers)
        assert found.status_code == 400
        assert message in found.json()["error"]["message"]

    def test_more_logits_than_fit(self, http, monkeypatch):
        monkeypatch.setattr(measuring, "MOST_LOGITS", 1504 * 2)
        change = {"guide": {}, "deltas": [0.0], "exact": True}
        found = post(http, "score", answers=["the " * 9], **change)
        assert found.status_code == 400
        message = found.json()["error"]["message"]
        assert message.startswith("answers must be at most 4 tokens for a vocabulary of 1504, got ")
        assert post(http, "score", answers=["the"], **change).status_code == 200

    def test_impossible(self, http, loaded, monkeypatch):
        """As OpenAI's API tells a probability of 0."""
        (token,) = loaded[1].encode("the", add_special_tokens=False)

        def masked(module, given, logits):
            logits[..., token] = -torch.inf
            return logits

        hook = loaded[0].lm_head.register_forward_hook(masked)
        try:
            change = {"guide": {}, "deltas": [0.0], "exact": True}
            assert post(http, "score", answers=["the"], **change).json()["logprobs"] == [-9999.0]
        finally:
            hook.remove()


class TestCalibration:
    def test_equal_to_that_of_the_package(self, http, loaded):
        found = post(http, "calibrate", target=1.5, guide={}).json()
        wanted = guide.calibrate(*loaded, CHAT, target=1.5)
        assert found["delta"] == pytest.approx(wanted.delta, abs=1e-6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"messages": [{"role": "user", "content": "Hi"}]}, "must have text inside <!->"),
            ({"max_delta": 21.0}, "max_delta must be at most 20"),
            ({"guide": {"spans": []}}, "guide must have tags in the prompt alone"),
            ({"guide": {"delta": 5.0}}, "guide must have tags in the prompt alone"),
            ({"guide": {"enabled": False}}, "guide must have tags in the prompt alone"),
            ({"guide": {"untrusted_tags": "literal"}}, "guide must have tags in the prompt alone"),
            ({"target": 1e9}, ""),
        ],
    )
    def test_errors(self, http, change, message):
        found = post(http, "calibrate", **{"guide": {}, **change})
        assert found.status_code == 400
        assert message in found.json()["error"]["message"]


def test_metrics(http):
    def count(name):
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = ("guide_steered_requests_total", "guide_prompt_tokens_total",
             "guide_answer_tokens_total", "guide_first_token_seconds_count",
             'guide_requests_total{route="/v1/chat/completions",status="200"}')  # fmt: skip
    before = [count(name) for name in names]
    found = http.post(
        "/v1/chat/completions", json={**BODY, "max_tokens": 2, "temperature": 0}
    ).json()["usage"]
    after = [count(name) for name in names]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    assert changes == [1, found["prompt_tokens"], found["completion_tokens"], 1, 1]
    assert "cat sleeps" not in http.get("/metrics").text
