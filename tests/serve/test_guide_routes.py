# SPDX-License-Identifier: MIT
"""Tokens, Influence, calibration and counts over HTTP equal those of the package."""

import json

import pytest
import torch
from serving import MODEL

import guide_ext.integration as guide
from guide_ext.integration.compare import measure_prompt
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

    def test_streamed(self, http):
        text = post(http, "influence", max_tokens=6, stream=True).text
        *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert done == "[DONE]"
        *values, last = map(json.loads, events)
        assert last["record"] == post(http, "influence", max_tokens=6).json()
        for run in last["record"]["runs"]:
            own = [one["values"] for one in values if one["run"] == run["name"]]
            assert len(own) > 3
            joined = [[value for part in own for value in part[0][level]] for level in range(5)]
            assert [row[: len(joined[0])] for row in run["values"][0]] == joined
            assert len(joined[0]) >= len(run["values"][0][0]) - 1

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
