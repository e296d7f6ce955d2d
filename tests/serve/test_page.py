# SPDX-License-Identifier: MIT
"""The page in a real browser: marking, streams, Influence, other strengths, errors, history."""

import contextlib
import copy
import importlib.util
import io
import json
import math
import random
import shlex
import sys
import time
from pathlib import Path

import browser
import pytest
from serving import MODEL, held, running, until

from guide_ext.integration.model.verify import UnsupportedModelError
from guide_ext.marking.spans import parse
from guide_ext.serve import guide_routes, measuring
from guide_ext.serve.settings import Settings

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        browser.executable() is None, reason=f"none of {', '.join(browser.NAMES)} on PATH"
    ),
]
RULE = "Summarize in French"
TEXT = f"{RULE}\nYesterday, the old baker hides the key in the barn. Anna likes the salt."
ALT, CONTROL, SHIFT = 1, 2, 8
IDLE = "document.querySelector('#stop').disabled"


@pytest.fixture
def show(server, tmp_path):
    """Return a function that opens the page of a server, and waits until it knows the model."""
    with browser.opener() as opened:

        def opens(where=server, **options):
            page = opened(f"{where.address}/", **options)
            page.until("document.querySelector('#model').textContent === 'embedded'")
            return page

        opens.raw = opened
        yield opens


def text(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


def value(page, selector, new=None):
    """Return the value of a field; set it first, as a user does."""
    if new is not None:
        page.run(
            f"(e => {{ e.value = {json.dumps(new)}; e.dispatchEvent(new Event('input')); "
            f"e.dispatchEvent(new Event('change')) }})(document.querySelector('{selector}'))"
        )
    return page.run(f"document.querySelector('{selector}').value")


def write(page, prompt=TEXT):
    page.run("document.querySelector('#prompt').focus()")
    page.type(prompt)


def select(page, start, end):
    page.run(
        f"(f => {{ f.focus(); f.setSelectionRange({start}, {end}) }})"
        "(document.querySelector('#prompt'))"
    )


def mark(page, start, end, nats="2"):
    select(page, 0, 0)
    value(page, "#strength", nats)
    select(page, start, end)
    page.press("KeyM", held=ALT)


def answer(page):
    page.run("document.querySelector('#prompt').focus()")
    page.press("Enter", held=CONTROL)
    page.until(f"{IDLE} && !document.querySelector('#answers').hidden")


def tokens(page, place):
    return page.run(f"[...document.querySelectorAll('#{place} .tok')].map(e => e.textContent)")


def numbers(page, place):
    return page.run(f"[...document.querySelectorAll('#{place} .tok')].map(e => e.dataset.number)")


def posts(page):
    """Return address and body of every request that had one."""
    return [pair for pair in zip(page.requests, page.bodies, strict=True) if pair[1]]


def complaints(page):
    return page.run(
        "Object.fromEntries([...document.querySelectorAll('.error')].filter(e => "
        "e.checkVisibility()).map(e => [e.id, e.textContent]))"
    )


def asked(http, spans, **change):
    """Answer as the API does."""
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": TEXT}], "temperature": 0,
        "max_tokens": 60, "guide": {"spans": spans}, **change,
    }  # fmt: skip
    return http.post("/v1/chat/completions", json=body).json()["choices"][0]


class TestMarks:
    def test_tags_are_read_as_the_same_spans(self, show):
        """As the server reads them: nothing of what is typed acts, and every mark does."""
        draw = random.Random(5)
        pieces = [
            "<!->", "<-!>", "<!!->", "<!2-", ">", "<", "!", "-", "\\", "\\\\", "<?rule->",
            "<-?rule>", "<!--", "-->", "word", " ", "\n", "é", "😀", "<!x->", "<!\x85->",
            "<?\xa0->", "<!\ufeff->", "<-!2>", "<!1e999->", "<?😀->", "<!\x1c->", "\u2028",
            "<!-+->",
        ]  # fmt: skip
        cases = []
        for _ in range(600):
            whole = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 14)))
            ends = sorted(draw.sample(range(len(whole) + 1), min(4, len(whole) + 1)))
            ranges = zip(ends[::2], ends[1::2], strict=False)
            inside = [(a, b) for a, b in ranges if whole[a:b].strip() == whole[a:b] != ""]
            inside = [(a, b) for a, b in inside if whole[a:b].split()]
            cases.append((whole, [(a, b, draw.choice([2, -1.5, 0.25])) for a, b in inside]))
        units = [
            [
                whole,
                [
                    {"start": _units(whole[:a]), "end": _units(whole[:b]), "nats": nats}
                    for a, b, nats in marks
                ],
            ]
            for whole, marks in cases
        ]
        page = show()
        found = page.run(
            "import('/assets/marks.js').then(m => " + json.dumps(units) + ".map(([text, marks]) => "
            "[m.tagged(text, marks), m.spans(text, marks)]))"
        )
        for (whole, marks), (tags, spans) in zip(cases, found, strict=True):
            read = parse(tags)
            assert read.text == whole, tags
            assert [(s.start, s.end, s.delta) for s in read.spans] == marks, tags
            assert [(s["start"], s["end"], s["delta"]) for s in spans] == marks
        assert sum(bool(marks) for _, marks in cases) > 200

    def test_by_keyboard(self, show):
        page = show()
        page.press("Tab", "Tab")
        assert page.run("document.activeElement.id") == "prompt"
        page.type("Be 😀 brief, not <!->long.")
        page.press("Home")
        page.press(*["ArrowRight"] * 5)
        page.press(*["ArrowRight"] * 3, held=SHIFT)
        page.press("KeyM", held=ALT)
        # The caret alone marks the word that it is in; the slider then changes this mark.
        page.press("End", "ArrowLeft", "ArrowLeft")
        page.press("KeyM", held=ALT)
        page.press("Tab")
        assert page.run("document.activeElement.id") == "strength"
        page.press("ArrowLeft", "ArrowLeft")
        assert value(page, "#tagged") == r"Be 😀 <!2->brief<-!>, not \<!-><!1.5->long<-!>."
        page.run("document.querySelector('#as-colours').focus()")
        page.press("ArrowRight")
        assert page.run("document.querySelector('#tagged').checkVisibility()")
        assert not page.run("document.querySelector('#prompt').checkVisibility()")
        # Remove one by its button; the number of the other changes it.
        for _ in range(20):
            page.press("Tab")
            if "Remove the mark of “brief”" in page.run("document.activeElement.ariaLabel ?? ''"):
                break
        page.press("Space")
        value(page, "#marks input", "-3")
        assert value(page, "#tagged") == r"Be 😀 brief, not \<!-><!-3->long<-!>."
        assert page.errors == []

    def test_by_mouse(self, show):
        """Where the colours are is where the letters are."""
        page = show()
        write(page)
        page.click("#brush")
        page.drag(*self._points(page, TEXT.index("old") + 1, TEXT.index("baker") + 3))
        assert value(page, "#tagged") == TEXT.replace("old baker", "<!2->old baker<-!>")
        # A word inside a mark gets a strength of its own, and what is around it keeps the other.
        page.drag(*self._points(page, TEXT.index("key"), TEXT.index("key") + 3))
        select(page, TEXT.index("baker"), TEXT.index("baker") + 5)
        page.click("#mark")
        assert "<!2->old baker<-!>" in value(page, "#tagged")
        page.click("#unmark")
        assert value(page, "#tagged") == TEXT.replace("key", "<!2->key<-!>")
        assert page.run("[...document.querySelectorAll('#backdrop mark')].length") == 1

    def _points(self, page, start, end):
        box = (
            "(() => {{ let n = 0; const w = document.createTreeWalker("
            "document.querySelector('#backdrop'), 4); for (let t; t = w.nextNode();) {{ "
            "if ({at} < n + t.length) {{ const r = document.createRange(); "
            "r.setStart(t, {at} - n); r.setEnd(t, {at} - n + 1); "
            "const b = r.getBoundingClientRect(); return [b.x + 1, b.y + b.height / 2] }} "
            "n += t.length }} }})()"
        )
        return [page.run(box.format(at=at)) for at in (start, end)]

    def test_typing_moves_them(self, show):
        page = show()
        write(page, "aa word bb")
        mark(page, 3, 7)
        for at, typed, wanted in (
            (0, "x ", "x aa <!2->word<-!> bb"),
            (5, "_", "x aa _<!2->word<-!> bb"),
            (8, "r", "x aa _<!2->worrd<-!> bb"),
            (11, "s", "x aa _<!2->worrd<-!>s bb"),
        ):
            select(page, at, at)
            page.type(typed)
            assert value(page, "#tagged") == wanted
        select(page, 0, 9)
        page.press("Delete")
        assert value(page, "#tagged") == "<!2->rd<-!>s bb"
        select(page, 0, 3)
        page.type("new")
        assert value(page, "#tagged") == "new bb"

    @pytest.mark.parametrize(
        ("marked", "at", "typed", "wanted"),
        [
            ((0, 2), 5, " aa", "<!2->aa<-!> aa aa"),
            ((3, 5), 0, "aa ", "aa aa <!2->aa<-!>"),
        ],
    )
    def test_typing_what_is_there_already(self, show, marked, at, typed, wanted):
        page = show()
        write(page, "aa aa")
        mark(page, *marked)
        select(page, at, at)
        page.type(typed)
        assert value(page, "#tagged") == wanted

    def test_what_looks_like_markup_is_text(self, show):
        page = show()
        hostile = "<img src=x onerror=alert(1)> <script>alert(2)</script> <!!->x<-!!>"
        write(page, hostile)
        mark(page, 0, 5)
        answer(page)
        assert page.run("document.querySelectorAll('img, #answers script').length") == 0
        assert "".join(tokens(page, "prompt-plain")).count("<script>") == 1
        assert page.errors == []


class TestAnswers:
    SPANS = [{"start": 0, "end": len(RULE), "delta": 2}]  # noqa: RUF012

    @pytest.fixture
    def answered(self, show):
        page = show()
        write(page)
        mark(page, 0, len(RULE))
        page.run(
            "window.grew = []; new MutationObserver(() => grew.push(document.querySelector("
            "'#answer-guided').children.length)).observe(document.querySelector('#answer-guided'), "
            "{childList: true})"
        )
        answer(page)
        return page

    def test_side_by_side(self, answered, http):
        for name, spans in (("plain", []), ("guided", self.SPANS)):
            shown = "".join(tokens(answered, f"answer-{name}")).removesuffix("</s>")
            assert shown.strip() == asked(http, spans)["message"]["content"].strip()
        assert text(answered, "#end-plain") == "complete"
        assert len(answered.run("[...new Set(grew)]")) > 4  # token by token
        assert complaints(answered) == {}
        assert answered.errors == []
        # One request for both answers and their Influence.
        sent = [(url, json.loads(body)) for url, body in posts(answered)]
        assert [url.rpartition("/v1/")[2] for url, _ in sent] == ["guide/tokens", "guide/influence"]
        assert sent[1][1]["guide"] == {"spans": self.SPANS}
        assert sent[1][1]["stream"]

    def test_colours_come_with_the_tokens(self, show, monkeypatch):
        """While the answers grow, what was read has its number; the newest token has none yet."""
        told = guide_routes.told

        def slowly(step):
            time.sleep(0.1)  # a model that takes longer than the browser between two pictures
            return told(step)

        monkeypatch.setattr(guide_routes, "told", slowly)
        page = show()
        write(page)
        mark(page, 0, len(RULE))
        page.run(
            "window.seen = []; new MutationObserver(() => requestAnimationFrame(() => {"
            "const all = [...document.querySelectorAll('#answer-guided .tok')]"
            ".map(e => e.dataset.number); if (all.length) seen.push(all) }))"
            ".observe(document.querySelector('#answer-guided'), {childList: true})"
        )
        answer(page)
        seen = [one for one in page.run("seen") if one[-1] in ("–", None)]
        lengths = {len(one) for one in seen}
        assert len(lengths) > 3
        for one in seen:
            assert all(number not in ("–", None) for number in one[:-1]), one

    def test_sampled_answers_are_measured_too(self, show, http):
        page = show()
        write(page)
        mark(page, 0, len(RULE))
        value(page, "#temperature", "1.5")
        value(page, "#seed", "11")
        answer(page)
        for name, spans in (("plain", []), ("guided", self.SPANS)):
            shown = "".join(tokens(page, f"answer-{name}")).removesuffix("</s>")
            found = asked(http, spans, temperature=1.5, seed=11)["message"]["content"]
            assert shown.strip() == found.strip()
        assert "–" not in numbers(page, "answer-guided")[:-1]

    @pytest.mark.parametrize("strength", [None, "0"])
    def test_without_a_mark_that_steers(self, show, http, strength):
        """Unmarked: two streams of answers. Only measured: one answer, shown as both."""
        page = show()
        write(page)
        if strength is not None:
            mark(page, 0, len(RULE), strength)
        answer(page)
        wanted = asked(http, [])["message"]["content"].strip()
        for name in ("plain", "guided"):
            shown = "".join(tokens(page, f"answer-{name}")).removesuffix("</s>").strip()
            assert shown == wanted
            assert text(page, f"#end-{name}") == "complete"
        note = "Mark some words" if strength is None else "No mark steers"
        assert text(page, "#influence-note").startswith(note)
        sent = {url.rpartition("/v1/")[2] for url, _ in posts(page)}
        assert sent - {"guide/tokens"} == (
            {"chat/completions"} if strength is None else {"guide/influence"}
        )
        assert complaints(page) == {}

    def test_answers_come_though_influence_cannot_be_measured(self, show, loaded, monkeypatch):
        def refuse(*_, **__):
            raise UnsupportedModelError("this model cannot be measured")

        monkeypatch.setattr(measuring, "measure_side_by_side", refuse)
        page = show()
        write(page)
        mark(page, 0, len(RULE))
        answer(page)
        assert complaints(page) == {"influence-error": "this model cannot be measured"}
        assert text(page, "#end-guided") == text(page, "#end-plain") == "complete"
        # Their tokens have no ids, so nothing is known of where they come from.
        page.click("#answer-guided .tok:nth-child(2)")
        page.until("document.querySelector('#sources-error').checkVisibility()")
        assert "answer with Influence" in complaints(page)["sources-error"]

    def test_nothing_comes_from_elsewhere(self, answered, server):
        assert all(url.startswith((server.address, "data:")) for url in answered.requests)

    def test_influence(self, answered, http):
        record = http.post(
            "/v1/guide/influence",
            json={
                "model": MODEL, "messages": [{"role": "user", "content": TEXT}],
                "max_tokens": 60, "guide": {"spans": self.SPANS},
            },
        ).json()  # fmt: skip
        count = len(record["prompt"]["tokens"])
        for level in (4, 2):
            value(answered, "#layer", str(level))
            for run in record["runs"]:
                shown = numbers(answered, f"prompt-{run['name']}")
                shown += numbers(answered, f"answer-{run['name']}")
                wanted = run["values"][0][level]
                assert len(shown) == len(wanted)
                assert shown == ["–" if one is None else _number(one) for one in wanted]
                assert run["values"][0][level][count] is not None
        assert text(answered, "#layer-name") == "2 of 4"
        steered = answered.run(
            "[...document.querySelectorAll('#prompt-guided .steered')].map(e => e.textContent)"
        )
        assert "".join(steered).strip() == RULE
        assert answered.run("document.querySelectorAll('#prompt-plain .steered').length") == 0

    def test_walking_along_an_answer(self, answered):
        answered.run("document.querySelector('#answer-guided .tok').focus()")
        answered.press("ArrowRight", "ArrowDown")
        assert text(answered, "#layer-name") == "3 of 4"
        number = answered.run("document.activeElement.dataset.number")
        assert f"guided {number}" in text(answered, "#readout")
        assert "probability 0." in text(answered, "#readout")
        assert answered.run("document.querySelector('#readout').checkVisibility()")

    def test_history_survives(self, answered):
        shown = {name: tokens(answered, f"answer-{name}") for name in ("plain", "guided")}
        answered.reload()
        answered.until("document.querySelectorAll('#history button').length === 1")
        answered.click("#history button")
        assert value(answered, "#tagged") == TEXT.replace(RULE, f"<!2->{RULE}<-!>")
        assert {name: tokens(answered, f"answer-{name}") for name in shown} == shown
        answered.click("#clear")
        answered.reload()
        answered.until("document.querySelector('#model').textContent === 'embedded'")
        assert answered.run("document.querySelectorAll('#history button').length") == 0
        assert answered.run("localStorage.length") == 0

    def test_what_cannot_be_read_in_the_history(self, show):
        page = show()
        for wrong in ("{", "[1, null, {}]", '{"a": 1}'):
            page.run(f"localStorage.setItem('guide-ext history', {json.dumps(wrong)})")
            page.reload()
            page.until("document.querySelector('#model').textContent === 'embedded'")
        assert page.errors == []

    def test_copies(self, answered, http):
        wanted = asked(http, self.SPANS)["message"]["content"]
        for name in ("tags", "curl", "python"):
            answered.click(f"#copy-{name}")
            answered.until("!document.querySelector('#copied').hidden")
            copied = value(answered, "#copied")
            if name == "tags":
                assert parse(copied).text == TEXT
            elif name == "curl":
                words = shlex.split(copied, comments=True)
                body = json.loads(words[words.index("-d") + 1])
                found = http.post("/v1/chat/completions", json=body).json()
                assert found["choices"][0]["message"]["content"] == wanted
            else:
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(copied, {})
                assert printed.getvalue().rstrip("\n") == wanted

    def test_copies_of_quotes(self, show):
        page = show()
        write(page, """Don't say "\\$HOME" é""")
        page.click("#copy-curl")
        page.until("!document.querySelector('#copied').hidden")
        words = shlex.split(value(page, "#copied"), comments=True)
        body = json.loads(words[words.index("-d") + 1])
        assert body["messages"][0]["content"] == """Don't say "\\$HOME" é"""

    def test_files(self, answered):
        answered.run(
            "window.saved = []; URL.createObjectURL = blob => { saved.push(blob); return '#' }"
        )
        for count, name in enumerate(("json", "html", "png"), 1):
            answered.click(f"#save-{name}")
            answered.until(f"saved.length === {count}")
        found = json.loads(answered.run("saved[0].text()"))
        assert found["prompt"]["marks"] == [{"start": 0, "end": len(RULE), "nats": 2}]
        assert found["record"]["kind"] == "guide_ext influence"
        page = answered.run("saved[1].text()")
        assert "default-src 'none'" in page
        assert "<script" not in page
        assert "--v:" in page
        assert answered.run("saved[2].type") == "image/png"
        data = answered.run(
            "saved[2].arrayBuffer().then(b => Array.from(new Uint8Array(b)))",
        )
        assert browser.pixels(bytes(data)).std() > 0.02
        assert complaints(answered) == {}
        assert answered.errors == []

    def test_sweep(self, answered, http):
        for name, new in (("from", "-1"), ("to", "3"), ("steps", "3")):
            value(answered, f"#sweep-{name}", new)
        first = tokens(answered, "answer-guided")[0].strip()
        value(answered, "#word", first)
        answered.click("#sweep-run")
        answered.until(f"document.querySelector('#chart svg') && {IDLE}")
        cards = answered.run(
            "[...document.querySelectorAll('.multiples .run')].map(e => [...e.children].map("
            "c => c.textContent))"
        )
        for (title, shown, number), delta in zip(cards, (-1, 1, 3), strict=True):
            spans = [{**self.SPANS[0], "delta": delta}]
            found = asked(http, spans, logprobs=True, top_logprobs=20)
            assert title == f"Δ = {delta:+d}".replace("-", "−")
            assert shown == found["message"]["content"]
            tops = found["logprobs"]["content"][0]["top_logprobs"]
            likely = [math.exp(one["logprob"]) for one in tops if one["token"].strip() == first]
            assert float(number.rpartition("= ")[2].replace("−", "-")) == pytest.approx(
                math.log(sum(likely)), abs=6e-4
            )
        assert complaints(answered) == {}

    def test_sweep_of_an_unlikely_word(self, answered, http):
        """Any text has a probability, however unlikely; marks keep their proportions."""
        mark(answered, TEXT.index("old"), TEXT.index("old") + 3, "-1")
        value(answered, "#marks input", "2")  # the slider changed it, as the caret was in it
        for name, new in (("from", "-2"), ("to", "2"), ("steps", "2")):
            value(answered, f"#sweep-{name}", new)
        value(answered, "#word", "nowhere else")
        answered.click("#sweep-run")
        answered.until(f"document.querySelector('#chart svg') && {IDLE}")
        shown = answered.run(
            "[...document.querySelectorAll('.multiples .hint')].map(e => e.textContent)"
        )
        start = TEXT.index("old")
        for said, delta in zip(shown, (-2, 2), strict=True):
            body = {
                "model": MODEL, "messages": [{"role": "user", "content": TEXT}],
                "answers": ["nowhere else"], "factors": [1.0],
                "guide": {"spans": [
                    {**self.SPANS[0], "delta": delta},
                    {"start": start, "end": start + 3, "delta": -delta / 2},
                ]},
            }  # fmt: skip
            (wanted,) = http.post("/v1/guide/score", json=body).json()["logprobs"]
            assert said.startswith("log p(“nowhere else”) = ")
            found = float(said.rpartition("= ")[2].replace("−", "-"))
            assert found == pytest.approx(wanted, abs=1e-3)
            assert wanted < -5
        assert complaints(answered) == {}

    def test_sweep_without_sense(self, answered):
        value(answered, "#sweep-from", "9")
        answered.click("#sweep-run")
        answered.until(f"document.querySelector('#sweep-error').checkVisibility() && {IDLE}")
        assert "first Δ must be below the last" in complaints(answered)["sweep-error"]

    def test_calibration(self, show, http):
        answered = show()
        write(answered, f"{RULE}\nThe cat sleeps.")
        mark(answered, 0, len(RULE))
        answered.click("#calibrate")
        answered.until(f"document.querySelector('#calibrated').textContent && {IDLE}")
        assert complaints(answered) == {}
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"<!!->{RULE}<-!!>\nThe cat sleeps."}],
        }
        wanted = round(http.post("/v1/guide/calibrate", json=body).json()["delta"], 2)
        assert f"Δ = {wanted:.2f} nats" in text(answered, "#calibrated")
        answered.click("#calibrated button")
        assert value(answered, "#tagged").startswith(f"<!{wanted:g}->{RULE}<-!>")


class TestSources:
    """Where a token comes from, beside the route of the server."""

    @pytest.fixture
    def answered(self, show):
        page = show()
        write(page)
        mark(page, 0, len(RULE))
        answer(page)
        return page

    def pick(self, page, name="guided", at=1, part="answer"):
        page.run(f"document.querySelectorAll('#{part}-{name} .tok')[{at}].focus()")
        page.press("Enter")
        page.until(
            f"document.querySelectorAll('#{part}-{name} .tok')[{at}].classList.contains('picked')"
        )

    def wanted(self, http, *, enabled=True, **change):
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": TEXT}],
            "guide": {"spans": TestAnswers.SPANS, "enabled": enabled}, **change,
        }  # fmt: skip
        return http.post("/v1/guide/sources", json=body).json()

    def ids(self, http, name):
        record = http.post(
            "/v1/guide/influence",
            json={
                "model": MODEL, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 60,
                "guide": {"spans": TestAnswers.SPANS},
            },
        ).json()  # fmt: skip
        (run,) = [one for one in record["runs"] if one["name"] == name]
        return [token["id"] for token in run["tokens"]]

    def shown(self, page, name):
        return numbers(page, f"prompt-{name}") + numbers(page, f"answer-{name}")

    def strongest(self, page):
        return page.run(
            "[...document.querySelectorAll('#strongest li')].map("
            "e => [...e.children].map(c => c.textContent))"
        )

    def assert_shown(self, page, name, row):
        found = self.shown(page, name)
        assert found[: len(row)] == [_number(one) for one in row]
        assert set(found[len(row) :]) == {"–"}
        best = sorted(range(len(row)), key=lambda at: -row[at])[:10]
        listed = self.strongest(page)
        assert [float(one[2]) for one in listed] == pytest.approx(
            [row[at] for at in best], abs=1e-4
        )
        texts = tokens(page, f"prompt-{name}") + tokens(page, f"answer-{name}")
        prompt = len(tokens(page, f"prompt-{name}"))
        for (text_, where, _), at in zip(listed[:3], best, strict=False):
            assert texts[at].strip() in text_
            assert where == f"{'prompt' if at < prompt else 'answer'} {at}"

    @pytest.mark.parametrize("name", ["plain", "guided"])
    def test_by_layer_and_head(self, answered, http, name):
        self.pick(answered, name)
        ids = self.ids(http, name)[:2]
        enabled = name == "guided"
        wanted = self.wanted(http, enabled=enabled, answer=ids, layers=[0, 1, 2, 3])
        row = wanted["mean"]
        other = "plain" if enabled else "guided"
        for layer in (4, 1):
            value(answered, "#layer", str(layer))
            self.assert_shown(answered, name, row[layer - 1])
            assert set(self.shown(answered, other)) == {"–"}
        assert text(answered, "#layer-name") == "1 of 4"
        value(answered, "#head", "3")
        head = wanted["heads"]["0"][2]
        answered.until(
            f"document.querySelectorAll('#prompt-{name} .tok')[1].dataset.number === "
            f"'{_number(head[1])}'"
        )
        self.assert_shown(answered, name, head)
        assert text(answered, "#sources-what") == "Attention, layer 1, head 3"
        assert answered.run("document.querySelector('#read').open")
        value(answered, "#layer", "0")
        mean = [sum(column) / 4 for column in zip(*row, strict=True)]
        assert [float(one[2]) for one in self.strongest(answered)] == pytest.approx(
            sorted(mean, reverse=True)[:10], abs=1e-4
        )
        assert answered.run("document.querySelector('#head').disabled")
        assert complaints(answered) == {}
        assert answered.errors == []

    def test_by_keyboard_there_and_back(self, answered):
        before = self.shown(answered, "guided")
        self.pick(answered)
        assert self.shown(answered, "guided") != before
        said = text(answered, "#status")
        assert said.startswith("Where “boulanger” comes from (guided): most from “")
        assert text(answered, "#sources-title") == "Where “boulanger” comes from (guided)"
        where = "document.activeElement.textContent"
        assert answered.run(where).strip() == "boulanger"
        assert answered.run("document.activeElement.ariaCurrent") == "true"
        # ↓ changes the layer, the colours and the list; → only walks.
        first = self.strongest(answered)
        answered.press("ArrowDown")
        assert text(answered, "#layer-name") == "3 of 4"
        assert self.strongest(answered) != first
        third = self.shown(answered, "guided")
        answered.press("ArrowRight")
        assert self.shown(answered, "guided") == third
        assert "layer 3, mean of all heads" in text(answered, "#readout")
        answered.press("Enter")
        answered.until("document.querySelector('#sources-title').textContent.includes('cache')")
        answered.press("Escape")
        answered.until("document.querySelector('#sources').hidden")
        value(answered, "#layer", "4")
        assert self.shown(answered, "guided") == before
        assert answered.run(where).strip() == "cache"
        assert "after layer 4" in text(answered, "#readout")
        assert not answered.run("document.querySelector('#read').open")
        assert answered.run("document.querySelectorAll('.picked').length") == 0

    def test_by_mouse(self, answered, http):
        answered.click("#answer-guided .tok:nth-child(3)")
        answered.until("!document.querySelector('#sources').hidden")
        wanted = self.wanted(http, answer=self.ids(http, "guided")[:3])
        self.assert_shown(answered, "guided", wanted["mean"][3])
        # A token of the prompt is shown as it is read.
        answered.click("#prompt-guided .tok:nth-child(8)")
        answered.until("document.querySelector('#sources-title').textContent.startsWith('What')")
        self.assert_shown(answered, "guided", self.wanted(http, token=7, of="read")["mean"][3])
        answered.click("#answer-guided .tok:nth-child(3)")
        answered.until("document.querySelector('#sources-title').textContent.startsWith('Where')")
        answered.click("#sources-close")
        assert answered.run("document.querySelector('#sources').hidden")
        where = "document.activeElement === document.querySelectorAll('#answer-guided .tok')[2]"
        assert answered.run(where)

    def test_files_show_influence(self, answered):
        before = self.shown(answered, "guided")
        self.pick(answered)
        answered.run(
            "window.saved = []; URL.createObjectURL = blob => { saved.push(blob); return '#' }"
        )
        answered.click("#save-html")
        answered.until("saved.length === 1")
        page = answered.run("saved[0].text()")
        assert "Where “boulanger”" not in page
        assert all(f'data-number="{number}"' in page for number in before if number != "–")

    def test_a_new_answer_and_the_history_begin_without(self, answered):
        self.pick(answered)
        answer(answered)
        assert answered.run("document.querySelector('#sources').hidden")
        self.pick(answered)
        answered.click("#history button")
        assert answered.run("document.querySelector('#sources').hidden")
        self.pick(answered)  # what was remembered knows its tokens
        assert complaints(answered) == {}

    def test_an_error_is_told(self, answered, server):
        with held(server.engine):
            answered.run("document.querySelectorAll('#answer-guided .tok')[1].focus()")
            answered.run(
                "(f => { window.fetch = (...a) => f(...a).then(() => new Response("
                "JSON.stringify({error: {message: 'it is too long'}}), {status: 400})) })(fetch)"
            )
            answered.press("Enter")
        answered.until("document.querySelector('#sources-error').checkVisibility()")
        assert complaints(answered) == {"sources-error": "it is too long"}
        assert answered.run("document.querySelector('#sources').hidden")


class TestErrors:
    def test_a_prompt_that_is_too_long(self, show):
        page = show()
        value(page, "#prompt", "The cat sleeps. " * 400)
        page.click("#run")
        page.until(f"document.querySelector('#prompt-error').checkVisibility() && {IDLE}")
        (said,) = complaints(page).values()  # once, though both answers were refused
        assert "must have fewer tokens than the 1024 positions" in said

    def test_no_prompt_and_no_number(self, show):
        page = show()
        page.click("#run")
        assert complaints(page) == {"prompt-error": "Write a prompt first."}
        write(page)
        value(page, "#temperature", "-1")
        page.click("#run")
        page.until(IDLE)
        assert complaints(page)["prompt-error"].startswith("Temperature: ")

    def test_calibration_without_marks(self, show):
        page = show()
        write(page)
        page.click("#calibrate")
        page.until(IDLE)
        assert complaints(page) == {"sweep-error": "Mark words with a strength above 0 first."}

    def test_stop(self, show, server):
        page = show()
        write(page)
        with held(server.engine):
            page.click("#run")
            page.until("document.querySelector('#end-guided').textContent.startsWith('waits')")
            page.press("Escape")
            page.until(IDLE)
        assert text(page, "#end-guided") == text(page, "#end-plain") == "stopped by you"
        assert complaints(page) == {}
        answer(page)
        assert text(page, "#end-guided") == "complete"

    def test_an_error_in_a_stream(self, show, loaded):
        with running(*loaded, Settings(MODEL)) as other:
            page = show(other)
            write(page)
            with held(other.engine):
                page.click("#run")
                page.until("document.querySelector('#end-guided').textContent.startsWith('waits')")
                until(lambda: other.engine.waiting == 2)
                other.engine.close(0)
                page.until(f"{IDLE} && document.querySelector('#prompt-error').checkVisibility()")
            assert complaints(page) == {"prompt-error": "the server stops; ask again later"}

    def test_a_server_that_ends(self, show, loaded):
        with running(*loaded, Settings(MODEL)) as other:
            page = show(other)
            write(page)
        page.click("#run")
        page.until("document.querySelector('#prompt-error').checkVisibility()")
        assert complaints(page)["prompt-error"].startswith("The server cannot be reached")

    def test_the_key(self, show, loaded):
        with running(*loaded, Settings(MODEL, api_key="the key")) as other:
            page = show.raw(f"{other.address}/")
            for given, said in (
                ("wrong", "That is not the key of this server."),
                ("ключ", "ASCII"),
            ):
                page.until("document.querySelector('#key-dialog').open")
                assert page.run("document.activeElement.id") == "key"
                page.type(given)
                page.press("Enter")
                page.until("document.querySelector('#key-error').checkVisibility()")
                page.until(f"document.querySelector('#key-error').textContent.includes('{said}')")
            value(page, "#key", "the key")
            page.press("Enter")
            page.until("document.querySelector('#model').textContent === 'embedded'")
            assert page.run("sessionStorage.length") == 1
            assert page.run("localStorage.length + document.cookie.length") == 0
            page.reload()
            page.until("document.querySelector('#model').textContent === 'embedded'")
            assert not page.run("document.querySelector('#key-dialog').open")
            page.run("sessionStorage.clear()")
            write(page)
            page.press("Enter", held=CONTROL)
            page.until("document.querySelector('#key-dialog').open")
            page.press("Escape")
            page.until(IDLE)
            assert "asks for a key, and none was given" in complaints(page)["prompt-error"]


def test_a_model_without_a_chat_template(show, loaded):
    model, tokenizer = loaded[0], copy.deepcopy(loaded[1])
    tokenizer.chat_template = None
    with running(model, tokenizer, Settings(MODEL)) as other, other.http() as http:
        page = show(other)
        write(page)
        mark(page, 0, len(RULE))
        answer(page)
        body = {
            "model": MODEL, "prompt": TEXT, "temperature": 0, "max_tokens": 60,
            "guide": {"spans": TestAnswers.SPANS},
        }  # fmt: skip
        wanted = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert "".join(tokens(page, "answer-guided")).removesuffix("</s>").strip() == wanted.strip()
        assert complaints(page) == {}
        assert page.errors == []


# axe-core as a package brings it; what that asks for is not needed, so it may lie apart.
_AXE = importlib.util.find_spec("axe_playwright_python")
AXE = (
    Path(sys.prefix, "axe", "axe_playwright_python") if _AXE is None else Path(_AXE.origin).parent
) / "axe.min.js"
RUN_AXE = """
; axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(
  one => one.nodes.map(node => `${one.id}: ${node.target} ${node.failureSummary}`)))
"""

# Background under a text, layer on layer, and the contrast of the two (WCAG 2).
CONTRAST = r"""
(() => {
  const parse = (color) => {
    const found = color.match(/[\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const linear = (v) => (v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const light = (c) => c.reduce((s, v, i) => s + linear(v / 255) * [.2126, .7152, .0722][i], 0);
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const isMark = e.matches("#backdrop mark");  // under the letters of the text field
    if (!e.checkVisibility({ opacityProperty: true }) || e.disabled || e.ariaDisabled) continue;
    if (e.matches("#backdrop, [type=range], option, svg, svg *")) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && !e.value) continue;
    const layers = [];
    for (let up = e; up; up = up.parentElement) layers.push(getComputedStyle(up).backgroundColor);
    const back = layers.reverse().reduce((below, one) => over(parse(one), below), [255, 255, 255]);
    const ink = getComputedStyle(isMark ? document.querySelector("#prompt") : e).color;
    const [a, b] = [light(over(parse(ink), back)), light(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push([e.outerHTML.slice(0, 100), ratio.toFixed(2)]);
  }
  return found;
})()
"""


@pytest.mark.parametrize("picks", [False, True])
@pytest.mark.parametrize("options", [{}, {"dark": True}, {"width": 320, "height": 700}])
def test_for_all_readers(show, options, picks):
    """Contrast, names for screen readers, the order of Tab, no scrolling sideways."""
    page = show(**options)
    write(page)
    mark(page, 0, len(RULE), "5")
    mark(page, TEXT.index("old"), TEXT.index("old") + 3, "-5")
    answer(page)
    page.run("document.querySelector('#read').open = true")
    page.click("#run")  # an error as well: it runs already, or it answers again
    page.until(IDLE)
    for start, wanted in (("-1", "#chart svg"), ("9", "#sweep-error")):  # a chart, and an error
        value(page, "#sweep-from", start)
        value(page, "#word", "nowhere")
        page.click("#sweep-run")
        page.until(f"document.querySelector('{wanted}')?.checkVisibility() && {IDLE}")
    if picks:
        page.run("document.querySelectorAll('#answer-guided .tok')[1].focus()")
        page.press("Enter")
        page.until("document.querySelectorAll('#strongest li').length === 10")
    assert page.run(CONTRAST) == []
    assert not page.run("document.documentElement.scrollWidth > innerWidth")
    for checked in ("true", "false"):
        page.run(f"document.querySelector('#show-numbers').checked = {checked}")
        assert not page.run("document.documentElement.scrollWidth > innerWidth")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in ("button", "textbox", "slider", "spinbutton", "checkbox", "radio", "listbox",
                    "option", "image", "region", "form"):  # fmt: skip
            if not node.get("ignored"):
                assert node.get("name", {}).get("value", "").strip(), node
            seen.add(role)
    assert {"button", "textbox", "slider", "spinbutton", "checkbox", "radio", "listbox"} <= seen
    page.run("(h => { h.tabIndex = -1; h.focus() })(document.querySelector('h1'))")
    stops = []
    for _ in range(60):
        page.press("Tab")
        stops.append(
            page.run("document.activeElement.id || document.activeElement.parentElement.id")
        )
    order = ["as-colours", "prompt", "strength", "mark", "run", "layer", "answer-plain",
             "answer-guided", "prompt-guided", "sweep-run", "copy-tags", "clear"]  # fmt: skip
    places = [stops.index(name) for name in order]
    assert places == sorted(places)
    assert page.errors == []
    if AXE.exists():
        assert page.run(AXE.read_text(encoding="utf-8") + RUN_AXE) == []


@pytest.mark.skipif(
    not AXE.exists(), reason="no axe: pip install --no-deps --target .venv/axe --group axe"
)
def test_axe_sees_faults(show):
    """What the test above would say if a button had no name and letters no contrast."""
    page = show()
    page.run(
        "(b => { b.textContent = ''; document.querySelector('.hint').style.color = '#eee' })"
        "(document.querySelector('#run'))"
    )
    found = page.run(AXE.read_text(encoding="utf-8") + RUN_AXE)
    assert {one.partition(":")[0] for one in found} == {"button-name", "color-contrast"}


def test_light_and_dark(show):
    light = browser.pixels(show().screenshot())
    dark = browser.pixels(show(dark=True).screenshot())
    assert light.mean() > 0.85
    assert dark.mean() < 0.25


def _units(piece):
    return len(piece.encode("utf-16-le")) // 2


def _number(one):
    size = f"{abs(one):.4f}"
    if 0 < abs(one) < 0.001:
        size = f"{abs(one):.6f}".rstrip("0")
    return size
