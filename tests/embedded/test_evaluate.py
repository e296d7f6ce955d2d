# SPDX-License-Identifier: MIT
"""The embedded model's cases, judges and rates."""

import collections
import json
import random

import pytest
from embedded_cases import PROPERTY, SEEDS, case_of
from hypothesis import given
from hypothesis import strategies as st

from guide_ext.embedded import evaluate, world
from guide_ext.embedded.evaluate import CaseKind, Rate
from guide_ext.embedded.training import network
from guide_ext.embedded.training.tokenizer import chat
from guide_ext.embedded.world import Style
from guide_ext.marking.spans import parse


class TestCases:
    @PROPERTY
    @given(seed=SEEDS, task=st.sampled_from(CaseKind))
    def test_the_marked_part_is_what_the_tags_mark(self, tokenizer, seed, task):
        for case in evaluate.make_cases(task, 6, seed, tokenizer=tokenizer):
            marked = parse(case.prompt)
            assert marked.text == case.before + case.marked + case.after
            (span,) = marked.spans
            assert marked.text[span.start : span.end] == case.marked
            assert span.nats(2.0) == 2.0
            assert parse(case.styled(Style.UPPER)).text == (
                case.before + case.marked.upper() + case.after
            )
            assert evaluate.judge(case, f" {case.answer}").success

    def test_lengths_fill_the_buckets(self, tokenizer):
        cases = evaluate.make_cases(CaseKind.FRENCH, 24, 5, 384, tokenizer=tokenizer)
        assert [case.bucket for case in cases] == sorted(case.bucket for case in cases)
        assert collections.Counter(case.bucket for case in cases) == dict.fromkeys(range(6), 4)
        for case in cases:
            length = len(tokenizer.encode(case.after.strip(), add_special_tokens=False))
            assert case.context_tokens == length
            assert 64 * case.bucket < length <= 64 * (case.bucket + 1)

    def test_same_seed_same_cases(self, tokenizer):
        first, again, other = (
            evaluate.make_cases(CaseKind.JSON, 7, seed, tokenizer=tokenizer) for seed in (1, 1, 2)
        )
        assert first == again
        assert not {case.after for case in first} & {case.after for case in other}

    def test_count_must_be_positive(self, tokenizer):
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            evaluate.make_cases(CaseKind.JSON, 0, 1, tokenizer=tokenizer)

    @pytest.mark.parametrize("max_tokens", [191, 897])
    def test_max_tokens_must_fit(self, tokenizer, max_tokens):
        with pytest.raises(ValueError, match=f"from 192 to 896, got {max_tokens}"):
            evaluate.make_cases(CaseKind.JSON, 1, 1, max_tokens, tokenizer=tokenizer)

    def test_the_longest_context_leaves_room_for_the_answer(self, tokenizer):
        cases = evaluate.make_cases(CaseKind.JSON, 6, 1, 896, tokenizer=tokenizer)
        length = len(tokenizer.encode(chat(cases[-1].prompt)))
        assert length + 40 < network.NetworkConfig().max_positions


class TestJudge:
    def test_french(self, tokenizer):
        case = case_of(CaseKind.FRENCH, 1, tokenizer)
        event = world.random_event(random.Random(99))
        right, english, wrong, salad, twice = (
            evaluate.judge(case, text)
            for text in (
                f" {case.answer}",
                event.english(),
                event.french(),
                "dans le dans la grange",
                f"{case.answer} {case.answer}",
            )
        )
        assert (right.success, right.well_formed, right.followed) == (True, True, True)
        assert (english.success, english.well_formed, english.followed) == (False, True, False)
        assert (wrong.success, wrong.well_formed, wrong.followed) == (False, True, True)
        assert (salad.success, salad.well_formed, salad.followed) == (False, False, True)
        assert not twice.success
        assert not twice.well_formed

    def test_json(self, tokenizer):
        case = case_of(CaseKind.JSON, 2, tokenizer)
        answer = json.loads(case.answer)
        assert tuple(answer) == case.keys
        key = case.keys[0]
        texts = {
            "right": case.answer,
            "other order": json.dumps(dict(reversed(answer.items()))),
            "wrong value": json.dumps(answer | {key: "nonsense"}),
            "not a string": json.dumps(answer | {key: 1}),
            "extra key": json.dumps(answer | {"more": "bread"}),
            "missing key": json.dumps({k: v for k, v in answer.items() if k != key}),
            "torn": case.answer[:-1],
            "repeated key": case.answer[:-1] + f', "{key}": "{answer[key]}"}}',
            "summary": world.random_event(random.Random(0)).english(),
        }
        found = {
            name: (j.success, j.well_formed, j.followed)
            for name, j in ((n, evaluate.judge(case, text)) for n, text in texts.items())
        }
        assert found == {
            "right": (True, True, True),
            "other order": (True, True, True),
            "wrong value": (False, True, True),
            "not a string": (False, True, True),
            "extra key": (False, True, False),
            "missing key": (False, True, False),
            "torn": (False, False, False),
            "repeated key": (False, False, False),
            "summary": (False, True, False),
        }

    def test_needle(self, tokenizer):
        case = case_of(CaseKind.NEEDLE, 3, tokenizer)
        secret = next(food for food in world.FOODS if food not in case.answer)
        name = next(n for n in world.NAMES if n in case.answer)
        wrong = evaluate.judge(case, world.needle_sentence(name, secret))
        assert evaluate.judge(case, case.answer).success
        assert (wrong.success, wrong.well_formed) == (False, True)
        assert not evaluate.judge(case, "The secret word of Rosa is dans.").well_formed

    def test_run_cases_keeps_order_and_passes_settings(self, tokenizer):
        cases = evaluate.make_cases(CaseKind.ENGLISH, 5, 4, tokenizer=tokenizer)
        calls = []

        def generate(prompts, delta):
            calls.append((len(prompts), delta))
            return [cases[2].answer for _ in prompts]

        outcomes = list(
            evaluate.run_cases(cases, generate, delta=1.5, style=Style.UPPER, batch_size=2)
        )
        assert calls == [(2, 1.5), (2, 1.5), (1, 1.5)]
        assert [outcome.case for outcome in outcomes] == cases
        assert {(outcome.delta, outcome.style) for outcome in outcomes} == {(1.5, Style.UPPER)}
        summary = evaluate.summarize(outcomes)
        assert summary.success == Rate(1, 5)
        assert summary.well_formed == summary.followed == Rate(5, 5)

    def test_an_engine_that_loses_answers_is_refused(self, tokenizer):
        cases = evaluate.make_cases(CaseKind.ENGLISH, 2, 4, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=r"one completion per prompt \(2\), got 1"):
            list(evaluate.run_cases(cases, lambda prompts, delta: [""]))


class TestRate:
    @pytest.mark.parametrize(
        ("successes", "trials", "low", "high"),
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_published_intervals(self, successes, trials, low, high):
        found = Rate(successes, trials).interval(0.95)
        assert (round(found[0], 4), round(found[1], 4)) == (low, high)

    def test_extremes(self):
        assert Rate(20, 20).interval()[1] == 1.0
        assert Rate(0, 0).interval() == (0.0, 1.0)
        assert Rate(0, 0).value != Rate(0, 0).value

    def test_more_confidence_is_wider(self):
        inner, outer = Rate(5, 9).interval(0.8), Rate(5, 9).interval(0.99)
        assert outer[0] < inner[0] < inner[1] < outer[1]

    @pytest.mark.parametrize("confidence", [0, 1, 95])
    def test_confidence_must_be_a_share(self, confidence):
        with pytest.raises(ValueError, match=f"between 0 and 1, got {confidence}"):
            Rate(1, 2).interval(confidence)
