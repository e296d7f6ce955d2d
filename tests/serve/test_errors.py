# SPDX-License-Identifier: MIT
"""Requests that are wrong: the status, our sentence, and a server that goes on."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from serving import MODEL, held, running, until

from guide_ext.serve.errors import ApiError, of_exception
from guide_ext.serve.settings import Settings, check_host

GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
WRONG = {
    "unknown field": ({"temprature": 1}, "temprature: Extra inputs are not permitted"),
    "unknown option": ({"guide": {"detla": 1}}, "guide.detla: Extra inputs are not permitted"),
    "wrong type": ({"max_tokens": "1"}, "max_tokens: Input should be a valid integer, got '1'"),
    "a bool as a number": ({"n": True}, "n: Input should be a valid integer, got True"),
    "no messages": ({"messages": []}, "messages: List should have at least 1 item"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "content: "),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "must have parts of the type text, got 'image_url'",
    ),
    "an odd part": ({"messages": [{"role": "user", "content": ["text"]}]}, "messages.0.content"),
    "tools": ({"tools": [{"type": "function"}]}, "tools must be left out: tools are not called"),
    "JSON": ({"response_format": {"type": "json_object"}}, "response_format must be left out"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty must be left out: the logits are"),
    "a bool as a penalty": ({"presence_penalty": False}, "presence_penalty must be left out"),
    "two lengths": ({"max_completion_tokens": 2}, "max_tokens and max_completion_tokens mean"),
    "probabilities": ({"top_logprobs": 2}, "top_logprobs must come with logprobs"),
    "stream options": ({"stream_options": {"include_usage": True}}, "must come with stream"),
    "stop": ({"stop": ""}, "stop: must be at most 8 texts of 1 to 256 characters"),
    "temperature": ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
    "a small temperature": ({"temperature": 1e-9}, "temperature must be 0 (greedy) or a finite"),
    "top_p": ({"top_p": 0}, "top_p: Input should be greater than 0"),
    "too long": ({"max_tokens": 5000}, "max_tokens must be at most 4096 on this server, got 5000"),
    "Δ": ({"guide": {"delta": 21}}, "bias from -20 to 20 nats, got 21"),
    "Δ of a tag": (
        {"messages": [{"role": "user", "content": "<!19->a <!3->b<-!><-!>"}]}, "20 nats, got 22",
    ),
    "share and Δ": ({"guide": {"delta": 1, "min_share": 0.1}}, "min_share must come without"),
    "share": ({"guide": {"min_share": 1}}, "guide.min_share: Input should be less than 1"),
    "layer": ({"guide": {"layers": [4]}}, "guide.layers must be below 4, as the model has, got 4"),
    "roles": ({"guide": {"trusted_roles": ["assistant"]}}, "must be among system, user, got assi"),
    "span": ({"guide": {"spans": [{"start": 0, "end": 3}]}}, "end must be at most 2, the length"),
    "empty span": ({"guide": {"spans": [{"start": 1, "end": 1}]}}, "end must be above start, 1"),
    "tools of now": ({"tools": [], "tool_choice": "required"}, "tool_choice must be left out"),
    "span of none": (
        {"guide": {"spans": [{"message": 1, "start": 0, "end": 1}]}}, "message must be below 1",
    ),
    "open tag": ({"messages": [{"role": "user", "content": "<!!->Hi"}]}, "^^^^^"),
    "tag of others": (
        {"messages": [{"role": "assistant", "content": "<!->a<-!>"}, *GOOD["messages"]]},
        "messages[0] (role 'assistant'): tag <!-> in a role that is not trusted",
    ),
    "tag of others, in a part": (
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "<!->a<-!>"}]},
                      *GOOD["messages"]]},
        "messages[0] (role 'assistant'): tag <!-> in a role that is not trusted",
    ),
    "marks": (
        {"messages": [{"role": "user", "content": "<!->a<-!> " * 65}]},
        "a prompt must have at most 64 marks, got 65",
    ),
    "long prompt": (
        {"messages": [{"role": "user", "content": "cat " * 2000}]},
        "a prompt must have fewer tokens than the 1024 positions that the model knows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(http, name):
    change, message = WRONG[name]
    found = http.post("/v1/chat/completions", json={**GOOD, **change})
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in found.text
    assert http.post("/v1/chat/completions", json=GOOD).status_code == 200


def test_fields_that_change_nothing(http):
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [],
        "response_format": {"type": "text"}, "user": "me", "seed": None, "stop": None,
        "functions": None, "store": False,
    }  # fmt: skip
    assert http.post("/v1/chat/completions", json={**GOOD, **neutral}).status_code == 200
    assert http.post("/v1/chat/completions", json={**GOOD, "nothing": None}).status_code == 400


CODES = {
    "unknown field": ("temprature", "unknown_parameter"),
    "unknown option": ("guide", "unknown_parameter"),
    "wrong type": ("max_tokens", "invalid_type"),
    "a bool as a number": ("n", "invalid_type"),
    "no messages": ("messages", "invalid_value"),
    "tools": ("tools", "unsupported_parameter"),
    "JSON": ("response_format", "unsupported_parameter"),
    "top_p": ("top_p", "invalid_value"),
    "too long": ("max_tokens", "invalid_value"),
    "two lengths": (None, None),
    "layer": ("guide", "invalid_value"),
    "open tag": ("messages", "invalid_value"),
    "long prompt": (None, "context_length_exceeded"),
}


@pytest.mark.parametrize("name", CODES)
def test_what_programs_tell_errors_by(client, name):
    """The client of OpenAI hands it on."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**GOOD, extra_body=WRONG[name][0])
    assert (caught.value.param, caught.value.code) == CODES[name]
    assert WRONG[name][1] in caught.value.message


def test_what_is_missing(http, client):
    found = http.post("/v1/chat/completions", json={"model": MODEL}).json()["error"]
    assert (found["param"], found["code"]) == ("messages", "missing_required_parameter")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**GOOD, "model": "other"})
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_of_two_faults_the_first_is_named(http):
    body = {**GOOD, "max_tokens": "1", "temprature": 1}
    found = http.post("/v1/chat/completions", json=body).json()["error"]
    assert (found["param"], found["code"]) == ("max_tokens", "invalid_type")
    assert "temprature" in found["message"]


def test_other_codes(loaded):
    with running(*loaded, Settings(MODEL, api_key="k", queue=1, max_prompt_tokens=20)) as server:
        client = server.client()
        with pytest.raises(openai.AuthenticationError) as caught:
            client.with_options(api_key="other").models.list()
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="cat " * 50)
        assert caught.value.code == "context_length_exceeded"
        with ThreadPoolExecutor(1) as pool, held(server.engine):
            waiting = pool.submit(client.chat.completions.create, **GOOD)
            until(lambda: server.engine.waiting == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(**GOOD)
            assert caught.value.code == "rate_limit_exceeded"
            with server.http(headers={"authorization": "Bearer k"}) as http:
                said = http.get("/metrics").text.splitlines()
        read = waiting.result().usage.prompt_tokens
    assert f"guide_prompt_tokens_total {float(read)}" in said  # no refused ones


BODIES = {
    "not JSON": (b"{", 400, "the body must be JSON"),
    "deep": (b"[" * 100_000, 400, "the body must be JSON"),
    "a list": (b"[]", 400, "the body must be JSON"),
    "nothing": (b"", 400, "the body must be JSON"),
    "not UTF-8": (b'{"model": "\xff"}', 400, "the body must be JSON"),
    "NaN": (
        json.dumps({**GOOD, "temperature": float("nan")}).encode(), 400, "finite number, got nan",
    ),
    "infinite Δ": (
        json.dumps({**GOOD, "guide": {"delta": float("inf")}}).encode(), 400, "finite number",
    ),
    "half a character": (
        json.dumps({**GOOD, "messages": [{"role": "user", "content": "\ud800"}]}).encode(),
        400, "messages",
    ),
    "too large": (b" " * ((1 << 20) + 1), 413, "must have at most 1048576 bytes, got 1048577"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_wrong_bodies(http, name):
    body, status, message = BODIES[name]
    found = http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert (found.status_code, found.json()["error"]["type"]) == (status, "invalid_request_error")
    assert message in found.json()["error"]["message"]


def test_a_body_that_does_not_say_its_size(http):
    found = http.post(
        "/v1/chat/completions", content=(b" " * (1 << 18) for _ in range(5)),
        headers={"content-type": "application/json"},
    )  # fmt: skip
    assert found.status_code == 413


def test_another_content_type(http):
    """A page from elsewhere can send text without being asked whether it may."""
    found = http.post(
        "/v1/chat/completions", content=json.dumps(GOOD), headers={"content-type": "text/plain"}
    )
    assert found.status_code == 400
    assert "application/json" in found.json()["error"]["message"]


def test_other_models_and_routes(http):
    found = http.post("/v1/chat/completions", json={**GOOD, "model": "../secret"})
    assert found.status_code == 404
    assert found.json()["error"]["message"] == f"model must be {MODEL!r}, got '../secret'"
    assert http.get("/v1/models/other").status_code == 404
    assert http.get("/v1/models/embedded").json()["id"] == MODEL
    assert http.get("/v1/embeddings").json()["error"]["message"].startswith("there is no GET /v1/e")
    assert http.get("/v1/chat/completions").status_code == 405


def test_a_model_without_a_chat_template(loaded):
    model, tokenizer = loaded
    before = tokenizer.chat_template
    tokenizer.chat_template = None
    try:
        with running(model, tokenizer, Settings(MODEL)) as server, server.http() as http:
            found = http.post("/v1/chat/completions", json=GOOD)
            assert "a chat template" in found.json()["error"]["message"]
            body = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}
            assert http.post("/v1/completions", json=body).status_code == 200
            assert http.post("/v1/completions", json={**body, "prompt": []}).status_code == 400
    finally:
        tokenizer.chat_template = before


def test_what_a_template_refuses(loaded, http):
    tokenizer = loaded[1]
    before = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate.') }}"
    try:
        found = http.post("/v1/chat/completions", json=GOOD)
    finally:
        tokenizer.chat_template = before
    assert (found.status_code, found.json()["error"]["message"]) == (400, "Roles must alternate.")


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"batch": 0}, {"max_nats": 0}, {"delta": 30}, {"api_key": ""}]
    )
    def test_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=r"must be|API key"):
            Settings(MODEL, **wrong)

    def test_others_need_a_key(self):
        check_host("::1", None)
        check_host("0.0.0.0", "secret")
        for host in ("0.0.0.0", "::", "example.org"):
            with pytest.raises(ValueError, match="--host must be this machine"):
                check_host(host, None)


SENT = {
    "a key that UTF-8 cannot hold": (
        '"stream": true, "stream_options": {"\\ud800": true}', "alone, got '\\ud800'",
    ),
    "a field that it cannot hold": ('"\\ud800": 1', "the body must be JSON"),
    "many digits": (f'"max_tokens": {"9" * 4200}', "max_tokens must be at most 4096"),
    "a long field": (f'"{"x" * 5000}": 1', "xxx..."),
    "long keys": (
        f'"stream": true, "stream_options": {{"{"a word " * 5000}": true}}', "include_usage alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_what_was_sent_is_told_short_and_in_utf_8(http, name):
    more, message = SENT[name]
    body = json.dumps(GOOD)[:-1].replace(', "max_tokens": 1', "") + f", {more}}}"
    headers = {"content-type": "application/json"}
    found = http.post("/v1/chat/completions", content=body, headers=headers)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert message in error["message"]
    assert len(found.content) < 2500
    assert max(map(len, error["message"].split())) <= 103
    assert len(error["param"] or "") <= 103


def test_messages_and_fields_that_utf_8_cannot_hold():
    error = ApiError(400, "got \ud800", "\udfff").body()["error"]
    assert (error["message"], error["param"]) == ("got \\ud800", "\\udfff")


def test_the_log_has_what_the_client_does_not(caplog):
    assert "secret" not in of_exception(RuntimeError("a secret")).message
    assert "a secret" in caplog.text
    caplog.clear()
    of_exception(ValueError("delta must be finite"))
    assert not caplog.text
