# SPDX-License-Identifier: MIT
"""The page about the server: its examples run, its tables name what there is."""

import doctest
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import MODEL

from guide_ext.serve.errors import _CODES, _CODES_OF_FIELDS
from guide_ext.serve.schemas import NEUTRAL, ChatRequest, CompletionRequest, GuideOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
HERE = "http://127.0.0.1:8000"


def test_python(server, monkeypatch):
    monkeypatch.chdir(ROOT)
    test = doctest.DocTestParser().get_doctest(
        PAGE.replace(HERE, server.address), {}, "docs/serve.md", "docs/serve.md", 0
    )
    found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert found.failed == 0
    assert found.attempted > 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_shell(server):
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        ["sh", "-c", command.replace(HERE, server.address)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["guide"]["marked_tokens"] == 3


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def test_the_fields_of_guide():
    named = re.findall(r"^\| `(\w+)` \|", section("The field `guide`"), re.MULTILINE)
    assert set(named) == set(GuideOptions.model_fields)


def test_the_fields_of_requests():
    text = section("What a request may hold").partition("Everything else")[0]
    named = set(re.findall(r"`(\w+)`", text))
    assert named == {*ChatRequest.model_fields, *CompletionRequest.model_fields} - {"guide"}
    assert not set(NEUTRAL) & named


def test_the_routes(server):
    named = set(re.findall(r"`(?:GET|POST) (/[\w/]+)`", section("Routes of its own")))
    routes = {
        route.path for route in server.guard.app.routes
        if not route.path.startswith(("/openapi", "/v1/chat", "/v1/completions", "/v1/models"))
        and route.path != "/" and not route.path.startswith("/assets")
    }  # fmt: skip
    assert named == routes


def test_langchain(server):
    openai = pytest.importorskip("langchain_openai")
    model = openai.ChatOpenAI(
        base_url=f"{server.address}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=24,
        extra_body={"guide": {"delta": 2}},
    )  # fmt: skip
    prompt = (ROOT / "docs" / "example_prompt.txt").read_text(encoding="utf-8")
    assert model.invoke(prompt).content.strip().startswith("Le voleur")
    assert "".join(part.content for part in model.stream(prompt)).strip().startswith("Le voleur")


def test_litellm(server):
    litellm = pytest.importorskip("litellm")
    prompt = (ROOT / "docs" / "example_prompt.txt").read_text(encoding="utf-8")
    found = litellm.completion(
        f"openai/{MODEL}", api_base=f"{server.address}/v1", api_key="none", temperature=0,
        max_tokens=24, messages=[{"role": "user", "content": prompt}],
        extra_body={"guide": {"delta": 2}},
    )  # fmt: skip
    assert found.choices[0].message.content.strip().startswith("Le voleur")


def test_codes_of_errors():
    named = set(re.findall(r"`(\w+)`", section("Errors").partition("|---|")[2]))
    known = {*_CODES.values(), *_CODES_OF_FIELDS.values()}
    assert named == known | {
        "context_length_exceeded", "invalid_type", "invalid_value", "model_not_found",
    }  # fmt: skip


def test_open_webui(server):
    """What it sends: its own list of models, a stream with usage, a title by another request."""
    with server.http(headers={"authorization": "Bearer sk-any"}) as http:
        (model,) = http.get("/v1/models").json()["data"]
        chat = [
            {"role": "user", "content": "<!!->Summarize in French<-!!> The cat sleeps."},
            {"role": "assistant", "content": "Le chat dort."},
            {"role": "user", "content": "Again."},
        ]
        stream = {
            "stream": True, "model": model["id"], "messages": chat, "temperature": 0.8,
            "max_tokens": 8, "stream_options": {"include_usage": True}, "frequency_penalty": 0.0,
            "stop": ["\n"], "seed": 1,
        }  # fmt: skip
        found = http.post("/v1/chat/completions", json=stream)
        events = [line.removeprefix("data: ") for line in found.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        parts = [json.loads(event) for event in events[:-1]]
        assert parts[-1]["usage"]["total_tokens"] > 0
        assert parts[-1]["choices"] == []
        title = {
            "model": model["id"], "stream": False, "max_completion_tokens": 20,
            "messages": [{"role": "user", "content": f"Write a title.\n{chat[0]['content']}"}],
        }  # fmt: skip
        assert http.post("/v1/chat/completions", json=title).status_code == 200
        for refused in ({"tools": [{"type": "function"}]}, {"reasoning_effort": "low"}):
            assert http.post("/v1/chat/completions", json={**stream, **refused}).status_code == 400
