# SPDX-License-Identifier: MIT
"""The queue, the batches, clients that leave, models that fail, the end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import SimpleNamespace

import httpx
import openai
import pytest
from serving import MODEL, held, running, until
from transformers import GPT2Config, GPT2LMHeadModel

import guide_ext.integration as guide
from guide_ext.integration.answer_rows import padding_is_free
from guide_ext.serve import engine as engine_module
from guide_ext.serve import guide_routes
from guide_ext.serve.engine import Engine
from guide_ext.serve.errors import ApiError
from guide_ext.serve.settings import Settings

BODY = {"model": MODEL, "prompt": "The cat", "temperature": 0, "max_tokens": 3}
LONG = {**BODY, "max_tokens": 900, "temperature": 5.0}


def tiny_gpt2():
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    return guide.enable(GPT2LMHeadModel(config).eval())


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that were generated."""
    found = []

    def counted(model, tokenizer, rows, *rest):
        found.append(len(rows))
        return generate(model, tokenizer, rows, *rest)

    generate = engine_module.generate
    monkeypatch.setattr(engine_module, "generate", counted)
    return found


def all_of(server, bodies):
    """Send requests that wait together, and return their answers."""
    with ThreadPoolExecutor(len(bodies)) as pool, server.http() as http:
        with held(server.engine):
            waiting = []
            for number, body in enumerate(bodies, 1):
                waiting.append(pool.submit(http.post, "/v1/completions", json=body))
                until(lambda number=number: server.engine.waiting == number)
        return [one.result() for one in waiting]


class TestBatches:
    def test_what_waits_together_runs_together(self, server, batches):
        bodies = [{**BODY, "prompt": text} for text in ("The cat", "The dog", "A")]
        answers = all_of(server, bodies)
        assert all(answer.status_code == 200 for answer in answers)
        assert batches == [3]

    def test_no_batch_is_larger_than_allowed(self, loaded, batches):
        with running(*loaded, Settings(MODEL, batch=2)) as server:
            batches.clear()
            all_of(server, [BODY] * 3)
            assert batches == [2, 1]
            with server.http() as http:
                found = http.post("/v1/completions", json={**BODY, "n": 5}).json()
        assert len(found["choices"]) == 5
        assert batches[2:] == [2, 2, 1]

    def test_shares_run_with_their_like(self, server, batches):
        shared = {**BODY, "prompt": "<!!->The<-!!> cat", "guide": {"min_share": 0.2}}
        all_of(server, [BODY, shared, BODY, shared])
        assert batches == [2, 2]

    def test_padding_takes_no_positions(self, server, batches):
        """Each answer may use all positions of the model, whatever stands beside it."""
        hot = {"model": MODEL, "temperature": 5.0, "seed": 7, "guide": {"delta": 2.0}}
        bodies = [
            {**hot, "prompt": "cat " * 900, "max_tokens": 1000},
            {**hot, "prompt": "<!!->Summarize<-!!> The cat sleeps.", "max_tokens": 200},
        ]
        together = all_of(server, bodies)
        assert batches == [2]
        with server.http() as http:
            alone = [http.post("/v1/completions", json=body) for body in bodies]
        for one, other in zip(together, alone, strict=True):
            assert one.json()["choices"] == other.json()["choices"]
            assert one.json()["usage"] == other.json()["usage"]
        used = [one.json()["usage"] for one in together]
        positions = server.engine.positions
        slots = [max(one[name] for one in used) for name in ("prompt_tokens", "completion_tokens")]
        assert sum(slots) > positions
        assert max(one["total_tokens"] for one in used) == positions

    def test_it_does_where_positions_are_looked_up(self, loaded, monkeypatch):
        """A row that has ended counts on, beyond the table of positions."""
        table = tiny_gpt2()
        prompts = SimpleNamespace(model=table, tokenizer=loaded[1])
        engine = Engine(prompts, Settings(MODEL))
        row = SimpleNamespace(tokens=100, most=28, min_share=None)
        short = SimpleNamespace(tokens=1, most=127, min_share=None)
        assert not engine._fit([row, short])
        assert engine._fit([row, SimpleNamespace(tokens=1, most=28, min_share=None)])
        assert not padding_is_free(table)
        for kind in ("dynamic", "longrope"):  # one row changes the frequencies of others
            with monkeypatch.context() as patch:
                patch.setitem(loaded[0].config.rope_parameters, "rope_type", kind)
                assert not padding_is_free(loaded[0])
        assert Engine(SimpleNamespace(model=loaded[0]), Settings(MODEL))._fit([row, short])


class TestQueue:
    def test_it_is_bounded(self, loaded):
        with running(*loaded, Settings(MODEL, queue=2)) as server, server.http() as http:
            with ThreadPoolExecutor(2) as pool, held(server.engine):
                waiting = [pool.submit(http.post, "/v1/completions", json=BODY) for _ in range(2)]
                until(lambda: server.engine.waiting == 2)
                with pytest.raises(openai.RateLimitError, match="2 requests wait already"):
                    server.client().completions.create(**BODY)
                assert http.get("/health").json()["waiting"] == 2
                streamed = http.post("/v1/completions", json={**BODY, "stream": True})
                assert streamed.status_code == 429
            assert [one.result().status_code for one in waiting] == [200, 200]

    def test_the_model_is_used_by_one_thread(self, server):
        """Influence, too, waits for its turn."""
        seen = []
        done = server.engine.alone(lambda: seen.append(threading.current_thread().name))
        done.result(60)
        assert seen == ["guide-engine"]


class TestClientsThatLeave:
    def test_while_it_waits(self, server, batches):
        with server.http() as http, held(server.engine):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json=LONG, timeout=0.5)
            until(lambda: server.engine.waiting == 1)
            row = server.engine._jobs[0].rows[0]
            until(row.gone.is_set)
        with server.http() as http:
            assert http.post("/v1/completions", json=BODY).status_code == 200
        assert batches == [1]

    @pytest.mark.parametrize("stream", [False, True])
    def test_while_it_is_answered(self, server, monkeypatch, stream):
        ended = threading.Event()
        generate = engine_module.generate

        def watched(model, tokenizer, rows, *rest):
            push = rows[0].push
            # Slow enough that a busy machine sees the client leave before the end.
            rows[0].push = lambda *piece: (time.sleep(0.01), push(*piece))
            ids = generate(model, tokenizer, rows, *rest)
            watched.tokens = ids.shape[1]
            ended.set()
            return ids

        monkeypatch.setattr(engine_module, "generate", watched)
        body = {**LONG, "stream": stream, "seed": 1}
        with server.http() as http:
            if stream:
                with http.stream("POST", "/v1/completions", json=body) as response:
                    next(response.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    http.post("/v1/completions", json=body, timeout=0.3)
        assert ended.wait(60)
        assert watched.tokens < 800

    def test_one_of_a_batch(self, server):
        """The others get what they would have got alone."""
        with server.http() as http:
            alone = http.post("/v1/completions", json=BODY).json()["choices"]
            with ThreadPoolExecutor(2) as pool:
                with held(server.engine):
                    leaves = pool.submit(http.post, "/v1/completions", json=LONG, timeout=0.5)
                    stays = pool.submit(http.post, "/v1/completions", json=BODY)
                    until(lambda: server.engine.waiting == 2)
                    assert isinstance(leaves.exception(60), httpx.ReadTimeout)
                assert stays.result().json()["choices"] == alone

    def test_they_keep_no_place_in_the_queue(self, loaded):
        with running(*loaded, Settings(MODEL, queue=1)) as server, server.http() as http:
            with ThreadPoolExecutor(1) as pool, held(server.engine):
                with pytest.raises(httpx.ReadTimeout):
                    http.post("/v1/completions", json=BODY, timeout=0.3)
                until(server.engine._jobs[0].is_gone)
                waits = pool.submit(http.post, "/v1/completions", json=BODY)
                until(lambda: not server.engine._jobs[0].is_gone())
            assert waits.result().status_code == 200

    def test_while_influence_waits_or_is_measured(self, server, monkeypatch):
        body = {"model": MODEL, "prompt": "<!!->Summarize<-!!> this.", "max_tokens": 9}

        def endless(prompts, prompt, asked, most, on_values):
            while True:
                time.sleep(0.01)
                on_values("plain", None)

        monkeypatch.setattr(guide_routes, "measured", endless)
        with server.http() as http:
            with held(server.engine):
                with pytest.raises(httpx.ReadTimeout):
                    http.post("/v1/guide/influence", json=body, timeout=0.3)
                until(lambda: server.engine._jobs[0].is_gone())
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/guide/influence", json=body, timeout=0.3)
            assert http.post("/v1/completions", json=BODY, timeout=3).status_code == 200

    @pytest.mark.parametrize(
        ("route", "body", "passes"),
        [
            ("score", {"answers": ["a b", "a c"], "deltas": [0.0] * 9}, "likelihood._chance"),
            ("calibrate", {"target": 1.5}, "calibrate.influence"),
        ],
    )
    def test_while_several_passes_are_computed(self, server, monkeypatch, route, body, passes):
        """No pass begins after the client has left, be it of the same rows."""
        prompt = "<!!->Summarize<-!!> this."
        name, function = passes.split(".")
        module = import_module(f"guide_ext.integration.{name}")
        compute, begun = getattr(module, function), []

        def slow(*given, **options):
            begun.append(time.monotonic())
            time.sleep(0.7)
            return compute(*given, **options)

        monkeypatch.setattr(module, function, slow)
        with server.http() as http:
            with pytest.raises(httpx.ReadTimeout):
                http.post(
                    f"/v1/guide/{route}", json={"model": MODEL, "prompt": prompt, **body},
                    timeout=0.3,
                )  # fmt: skip
            server.engine.alone(lambda: None).result(60)
        assert len(begun) == 1


class TestFailures:
    def test_what_ends_the_thread_reaches_work_that_runs(self, loaded, monkeypatch):
        """And what waits behind it, whatever an error of one of them does."""
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        model, tokenizer = loaded
        engine = Engine(SimpleNamespace(model=model, tokenizer=tokenizer), Settings(MODEL))
        engine.start()
        free = threading.Event()

        def stops():
            free.wait(60)
            raise SystemExit

        def breaks(_):
            raise RuntimeError

        first = engine.alone(stops)
        until(lambda: not engine.waiting)
        row = SimpleNamespace(
            tokens=1, most=1, min_share=None, end=breaks, gone=threading.Event()
        )  # fmt: skip
        engine.submit([row])
        cancelled, last = engine.alone(lambda: 1), engine.alone(lambda: 2)
        cancelled.cancel()
        free.set()
        for one in (first, last):
            with pytest.raises(ApiError, match="the server stops"):
                one.result(60)

    def test_what_ends_the_thread_ends_no_wait(self, loaded, monkeypatch):
        def stops(*_):
            raise SystemExit

        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        with running(*loaded, Settings(MODEL)) as server, server.http() as http:
            monkeypatch.setattr(engine_module, "generate", stops)
            found = http.post("/v1/completions", json=BODY)
            assert found.status_code == 503
            assert http.post("/v1/completions", json=BODY).status_code == 503
            assert http.get("/health").status_code == 503

    def test_one_of_a_batch(self, server, monkeypatch):
        """The others are answered, and its words are for its own client."""
        generate = engine_module.generate

        def fails(model, tokenizer, rows, *rest):
            if any(row.most == 2 for row in rows):
                raise ValueError("about a prompt")
            return generate(model, tokenizer, rows, *rest)

        monkeypatch.setattr(engine_module, "generate", fails)
        good, bad, other = all_of(server, [BODY, {**BODY, "max_tokens": 2}, BODY])
        assert [one.status_code for one in (good, bad, other)] == [200, 400, 200]
        assert good.json()["choices"] == other.json()["choices"]
        assert "about a prompt" in bad.text

    def test_the_thread_goes_on(self, server, monkeypatch):
        def fails(*_):
            raise RuntimeError("out of memory, with a secret")

        with server.http() as http:
            with monkeypatch.context() as patch:
                patch.setattr(engine_module, "generate", fails)
                found = http.post("/v1/completions", json=BODY)
                streamed = http.post("/v1/completions", json={**BODY, "stream": True})
            assert found.status_code == 500
            assert found.json()["error"] == {
                "message": "the model could not answer: RuntimeError", "type": "server_error",
                "param": None, "code": None,
            }  # fmt: skip
            assert '"error":{"message":"the model could not answer' in streamed.text
            assert "[DONE]" not in streamed.text
            assert http.post("/v1/completions", json=BODY).status_code == 200

    def test_halfway(self, server, monkeypatch):
        """An error after an answer of the batch has ended reaches the other alone."""
        generate = engine_module.generate

        def fails(model, tokenizer, rows, *rest):
            generate(model, tokenizer, [row for row in rows if row.most == 1], *rest)
            raise RuntimeError

        monkeypatch.setattr(engine_module, "generate", fails)
        first, second = all_of(server, [{**BODY, "max_tokens": 1}, BODY])
        assert (first.status_code, second.status_code) == (200, 500)


class TestTheEnd:
    def test_what_has_begun_is_finished_and_what_waits_is_refused(self, loaded):
        model, tokenizer = loaded
        prompts = SimpleNamespace(model=model, tokenizer=tokenizer)
        engine = Engine(prompts, Settings(MODEL))
        engine.start()
        ends = []
        with held(engine):
            row = SimpleNamespace(
                tokens=1, most=1, min_share=None, end=ends.append, gone=threading.Event()
            )
            engine.submit([row])
            other = engine.alone(lambda: None)
            closing = threading.Thread(target=engine.close)
            closing.start()
            until(lambda: not engine.is_alive())
            assert isinstance(ends[0], ApiError)
            assert ends[0].status == 503
            with pytest.raises(ApiError, match="the server stops"):
                other.result(60)
            with pytest.raises(ApiError, match="the server stops"):
                engine.submit([row])
            assert closing.is_alive()  # what has begun goes on
        closing.join(60)
        assert not closing.is_alive()


class TestNextTurns:
    def test_they_begin_where_the_last_ended(self, server):
        """The count says so, and the answers are those of a server that keeps nothing."""
        chat = [{"role": "user", "content": "<!!->Summarize in French<-!!>\n" + "A cat. " * 20}]
        body = {"model": MODEL, "temperature": 0, "max_tokens": 12, "guide": {"delta": 2.0}}

        def reused(http):
            lines = http.get("/metrics").text.splitlines()
            return next(
                float(line.split()[1]) for line in lines if line.startswith("guide_reused_tokens_t")
            )

        def talk(http):
            found, messages = [], list(chat)
            for _ in range(3):
                answer = http.post("/v1/chat/completions", json={**body, "messages": messages})
                text = answer.json()["choices"][0]["message"]["content"]
                found.append(text)
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": "<!!->Again<-!!>, please."},
                ]
            return found

        with server.http() as http:
            before = reused(http)
            found = talk(http)
            assert reused(http) - before > 100
        model = server.engine._prompts.model
        tokenizer = server.engine._prompts.tokenizer
        with (
            running(model, tokenizer, Settings(MODEL, cached_tokens=0)) as other,
            other.http() as http,
        ):
            assert talk(http) == found
            assert reused(http) == 0
