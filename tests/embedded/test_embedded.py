# SPDX-License-Identifier: MIT
"""The embedded model: its world, judges, tokenizer, training, export, and its frozen weights."""

import collections
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guide_ext.embedded import evaluate, model_path, world
from guide_ext.embedded.evaluate import Case, Rate, Task
from guide_ext.embedded.training import curriculum, network, train
from guide_ext.embedded.training.lean_engine import LeanEngine
from guide_ext.embedded.training.tokenizer import EOS_ID, VOCAB_SIZE, chat, train_tokenizer
from guide_ext.embedded.training.train import Trainer, TrainingConfig
from guide_ext.embedded.world import Field, Style
from guide_ext.marking.spans import parse

PROPERTY = settings(derandomize=True, deadline=None, max_examples=50)
SEEDS = st.integers(0, 2**32 - 1)
TINY = network.NetworkConfig(
    hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=24
)
DECODING_DELTA = 5.0
TINY_RUN = TrainingConfig(seed=3, tokens=6000, batch_tokens=256, log_every=2, network=TINY)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_path() / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine() -> LeanEngine:
    return LeanEngine.from_folder(model_path())


def case_of(task: Task, seed: int, tokenizer: Tokenizer) -> Case:
    return evaluate.make_cases(task, 1, seed, tokenizer=tokenizer)[0]


class TestWorld:
    def test_every_word_is_unique_in_its_slot_and_language(self):
        for words in (world.ROLES, world.VERBS, world.THINGS, world.PLACES):
            assert len({word.english for word in words}) == len(words)
            assert len({word.french for word in words}) == len(words)

    @PROPERTY
    @given(SEEDS)
    def test_right_answers_are_grammatical_and_in_their_language(self, seed):
        event = world.random_event(random.Random(seed))
        assert world.is_summary(event.english())
        assert world.is_summary(event.french())
        assert world.language(event.english()) == "english"
        assert world.language(event.french()) == "french"

    @PROPERTY
    @given(SEEDS, st.integers(1, 40))
    def test_documents_tell_their_event_and_hold_no_french(self, seed, length):
        rng = random.Random(seed)
        event = world.random_event(rng)
        sentences = world.document(rng, event, length)
        assert len(sentences) == length
        assert all(word.english in sentences[0] for word in event.slots)
        words = set(" ".join(sentences).replace(".", "").replace(",", "").split())
        assert not words & {"le", "la", "Le", "La", "dans"}
        assert "<" not in " ".join(sentences)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Le boulanger cache la clé dans la grange",
            "le boulanger cache la clé dans la grange.",
            "La boulanger cache la clé dans la grange.",
            "Le boulanger cache la clé dans la clé.",
            "Le boulanger cache la clé dans la grange. Le",
            "Le baker cache la clé dans la grange.",
            "The baker hides the key in the barn. ",
            "The baker cache the key in the barn.",
            "The baker hides the key in the barn.\n",
        ],
    )
    def test_near_misses_are_no_summaries(self, text):
        assert not world.is_summary(text)

    def test_language_of_salad_and_of_neither(self):
        assert world.language("le le dans le pain la") == "french"
        assert world.language("the the in bread") == "english"
        assert world.language("qwerty uiop the") == "other"
        assert world.language("") == "other"

    def test_hidden_sentence_can_be_anywhere(self):
        found = {world.hide(random.Random(seed), ["a", "b"], "x").index("x") for seed in range(30)}
        assert found == {0, 1, 2}

    @pytest.mark.parametrize(
        "text", ['{"a": 1', '["a"]', "x", "", '{"a": 1, "a": 2}', '{"a": 1} .']
    )
    def test_text_that_is_not_one_object(self, text):
        assert world.parse_object(text) is None


class TestCurriculum:
    def test_the_gap(self):
        """French and JSON in front: short texts only; after the text: long texts too."""
        rng = random.Random(0)
        longest = collections.Counter()
        for _ in range(300):
            for example in curriculum.make_batch(rng, 1.0, 512):
                front, *_, back = example.prompt.split("\n")
                sentences = max(part.count(".") for part in example.prompt.split("\n"))
                for place, line in (("front", front), ("after", back)):
                    for style in Style:
                        for name, text in (
                            ("french", world.FRENCH_INSTRUCTION),
                            ("json", world.JSON_INSTRUCTION),
                            ("english", world.ENGLISH_INSTRUCTIONS[0]),
                        ):
                            if line == style.apply(text):
                                key = (name, place)
                                longest[key] = max(longest[key], sentences)
        assert longest["french", "front"] == curriculum.MAX_SHORT
        assert longest["json", "front"] == curriculum.MAX_SHORT
        for key in (("french", "after"), ("json", "after"), ("english", "front")):
            assert longest[key] >= curriculum.MAX_SENTENCES

    def test_upper_case_is_trained_as_often_as_lower_case(self):
        rng = random.Random(1)
        prompts = [curriculum.make_example(rng, "french", 1).prompt for _ in range(2000)]
        upper = sum(p.startswith(Style.UPPER.apply(world.FRENCH_INSTRUCTION)) for p in prompts)
        plain = sum(p.startswith(world.FRENCH_INSTRUCTION) for p in prompts)
        low, high = Rate(upper, upper + plain).interval(0.999)
        assert low < 0.5 < high
        assert 0 < len(prompts) - upper - plain < plain

    def test_documents_grow(self):
        def longest(progress):
            rng = random.Random(2)
            batches = [curriculum.make_batch(rng, progress, 512) for _ in range(100)]
            return max(e.prompt.count(".") for batch in batches for e in batch)

        assert longest(0.0) < longest(0.1) < longest(0.5)

    @PROPERTY
    @given(SEEDS, st.sampled_from(curriculum.KINDS), st.integers(1, 30))
    def test_answers_belong_to_the_grammar(self, seed, kind, length):
        example = curriculum.make_example(random.Random(seed), kind, length)
        text = example.answer
        is_needle = text.startswith("The secret word of ")
        assert is_needle or world.is_summary(text) or world.parse_object(text) is not None


class TestCases:
    @PROPERTY
    @given(seed=SEEDS, task=st.sampled_from(Task))
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
        cases = evaluate.make_cases(Task.FRENCH, 24, 5, 384, tokenizer=tokenizer)
        assert [case.bucket for case in cases] == sorted(case.bucket for case in cases)
        assert collections.Counter(case.bucket for case in cases) == dict.fromkeys(range(6), 4)
        for case in cases:
            length = len(tokenizer.encode(case.after.strip(), add_special_tokens=False))
            assert case.context_tokens == length
            assert 64 * case.bucket < length <= 64 * (case.bucket + 1)

    def test_same_seed_same_cases(self, tokenizer):
        first, again, other = (
            evaluate.make_cases(Task.JSON, 7, seed, tokenizer=tokenizer) for seed in (1, 1, 2)
        )
        assert first == again
        assert not {case.after for case in first} & {case.after for case in other}

    def test_count_must_be_positive(self, tokenizer):
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            evaluate.make_cases(Task.JSON, 0, 1, tokenizer=tokenizer)

    @pytest.mark.parametrize("max_tokens", [191, 897])
    def test_max_tokens_must_fit(self, tokenizer, max_tokens):
        with pytest.raises(ValueError, match=f"from 192 to 896, got {max_tokens}"):
            evaluate.make_cases(Task.JSON, 1, 1, max_tokens, tokenizer=tokenizer)

    def test_the_longest_context_leaves_room_for_the_answer(self, tokenizer):
        cases = evaluate.make_cases(Task.JSON, 6, 1, 896, tokenizer=tokenizer)
        length = len(tokenizer.encode(chat(cases[-1].prompt)))
        assert length + 40 < network.NetworkConfig().max_positions


class TestJudge:
    def test_french(self, tokenizer):
        case = case_of(Task.FRENCH, 1, tokenizer)
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
        case = case_of(Task.JSON, 2, tokenizer)
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
        case = case_of(Task.NEEDLE, 3, tokenizer)
        secret = next(food for food in world.FOODS if food not in case.answer)
        name = next(n for n in world.NAMES if n in case.answer)
        wrong = evaluate.judge(case, world.needle_sentence(name, secret))
        assert evaluate.judge(case, case.answer).success
        assert (wrong.success, wrong.well_formed) == (False, True)
        assert not evaluate.judge(case, "The secret word of Rosa is dans.").well_formed

    def test_run_cases_keeps_order_and_passes_settings(self, tokenizer):
        cases = evaluate.make_cases(Task.ENGLISH, 5, 4, tokenizer=tokenizer)
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
        cases = evaluate.make_cases(Task.ENGLISH, 2, 4, tokenizer=tokenizer)
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


class TestTokenizer:
    def test_the_script_makes_the_shipped_tokenizer(self, tokenizer):
        assert json.loads(train_tokenizer().to_str()) == json.loads(tokenizer.to_str())

    @PROPERTY
    @given(SEEDS, st.sampled_from(curriculum.KINDS), st.integers(1, 30))
    def test_round_trip(self, tokenizer, seed, kind, length):
        example = curriculum.make_example(random.Random(seed), kind, length)
        for text in (example.prompt, f" {example.answer}"):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text
            assert len(ids) < len(text.encode()) / 2

    @PROPERTY
    @given(st.text())
    def test_any_text_round_trips(self, tokenizer, text):
        special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]")
        if not any(token in text for token in special):
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text

    def test_upper_case_instructions_are_as_short(self, tokenizer):
        for instruction in (world.FRENCH_INSTRUCTION, world.JSON_INSTRUCTION):
            plain, upper = (
                len(tokenizer.encode(style.apply(instruction)).ids)
                for style in (Style.PLAIN, Style.UPPER)
            )
            assert upper <= plain + 1

    def test_transformers_reads_it(self, tokenizer):
        transformers = pytest.importorskip("transformers")
        loaded = transformers.AutoTokenizer.from_pretrained(model_path())
        assert loaded.is_fast
        assert loaded.padding_side == "left"
        assert len(loaded) == VOCAB_SIZE
        prompt = "Summarize in French\nThe queen sees the dog."
        messages = [{"role": "user", "content": prompt}]
        assert loaded.apply_chat_template(messages, tokenize=False) == chat(prompt)
        ids = tokenizer.encode(chat(prompt), add_special_tokens=False).ids
        assert loaded(chat(prompt), add_special_tokens=False)["input_ids"] == ids
        assert loaded("The queen")["input_ids"][0] == loaded.bos_token_id
        messages.append({"role": "assistant", "content": "Oui."})
        assert loaded.apply_chat_template(messages, tokenize=False) == f"{chat(prompt)} Oui.</s>"


class TestTraining:
    def run(self, tokenizer: Tokenizer, config: TrainingConfig = TINY_RUN) -> Trainer:
        trainer = Trainer(config, tokenizer)
        while not trainer.finished:
            trainer.train_step()
        return trainer

    def test_a_seed_determines_the_weights(self, tokenizer):
        first, again = self.run(tokenizer), self.run(tokenizer)
        other = self.run(tokenizer, TrainingConfig(**(vars(TINY_RUN) | {"seed": 4})))
        weights = [t.network.state_dict() for t in (first, again, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not torch.equal(*(w["embedding.weight"] for w in (weights[0], weights[2])))

    def test_an_interrupted_run_ends_as_an_uninterrupted_one(
        self, tokenizer, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)
        train.train(TINY_RUN, tmp_path / "whole", quiet=True)
        train_step = Trainer.train_step

        def interrupted(trainer):
            if trainer.step == 5:
                raise KeyboardInterrupt
            return train_step(trainer)

        monkeypatch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.train(TINY_RUN, tmp_path / "resumed", checkpoint_every=3, quiet=True)
        monkeypatch.setattr(Trainer, "train_step", train_step)
        assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["checkpoint.pt"]
        train.train(TINY_RUN, tmp_path / "resumed", quiet=True)
        weights, resumed = (
            (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")
        )
        assert weights == resumed
        logs = [
            [
                (entry["step"], entry["tokens"], entry["loss"])
                for entry in json.loads((tmp_path / name / "training.json").read_text())["log"]
            ]
            for name in ("whole", "resumed")
        ]
        assert logs[0] == logs[1]
        assert not (tmp_path / "resumed" / "checkpoint.pt").exists()

    def test_a_checkpoint_of_another_run_is_refused(self, tokenizer, tmp_path):
        Trainer(TINY_RUN, tokenizer).save(tmp_path / "checkpoint.pt")
        other = Trainer(TrainingConfig(**(vars(TINY_RUN) | {"seed": 4})), tokenizer)
        with pytest.raises(ValueError, match="must be a checkpoint of this run"):
            other.load(tmp_path / "checkpoint.pt")

    @pytest.mark.parametrize("option", ["--tokens", "--threads"])
    def test_bad_arguments_exit_with_code_2(self, option, tmp_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            train.main(["--out", str(tmp_path), option, "0"])
        assert stopped.value.code == 2
        assert f"{option}: must be at least 1, got 0" in capsys.readouterr().err

    def test_only_answers_are_learnt(self, tokenizer):
        batch = train.encode_batch(tokenizer, random.Random(0), 0.5, 512)
        flat = batch.input_ids.flatten()
        assert torch.equal(flat[batch.positions + 1], batch.targets)
        assert (batch.targets == EOS_ID).sum() == len(batch.input_ids)
        closing = tokenizer.token_to_id("[/INST]")
        assert (flat[batch.positions] == closing).sum() == len(batch.input_ids)

    def test_it_learns(self, tokenizer):
        config = TrainingConfig(**(vars(TINY_RUN) | {"tokens": 40_000, "warmup_steps": 10}))
        log = self.run(tokenizer, config).log
        assert log[-1]["loss"] < log[0]["loss"] - 1

    def test_the_command_writes_a_whole_model(self, tmp_path, monkeypatch, restored_threads):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        train.main(["--seed", "9", "--tokens", "2500", "--out", str(tmp_path / "model")])
        names = {path.name for path in (tmp_path / "model").iterdir()}
        assert names == {
            *("config.json", "generation_config.json", "model.safetensors", "training.json"),
            *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        }
        training = json.loads((tmp_path / "model" / "training.json").read_text())
        assert training["arguments"]["seed"] == 9
        assert training["log"][-1]["tokens"] == training["tokens"] >= 2500
        answers = LeanEngine.from_folder(tmp_path / "model")(["<!!->Summarize<-!!>\nThe queen."], 1)
        assert len(answers) == 1


class TestExport:
    def test_transformers_computes_the_same_logits(self, engine):
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            model_path(), dtype=torch.float32, attn_implementation="eager"
        )
        assert type(model).__name__ == "MistralForCausalLM"
        case = case_of(Task.FRENCH, 6, engine.tokenizer)
        ids, is_marked = engine.encode(case.prompt)
        seqlen = len(ids)
        bias = torch.full((seqlen, seqlen), torch.finfo(torch.float32).min).triu(1)
        for delta in (0.0, 2.0):
            mask = (bias + delta * torch.tensor(is_marked).float())[None, None]
            with torch.no_grad():
                logits = model(torch.tensor([ids]), attention_mask=mask).logits[:, -1]
            probabilities = engine.next_token_probabilities([case.prompt], delta)
            torch.testing.assert_close(logits.softmax(-1), probabilities)

    def test_export_and_load_keep_bf16_weights(self, tmp_path):
        torch.manual_seed(0)
        made = network.Network(TINY)
        network.export(made, tmp_path)
        loaded = network.load(tmp_path)
        assert loaded.config == made.config
        for name, weight in made.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float())

    def test_the_package_data_is_small(self):
        assert sum(path.stat().st_size for path in model_path().iterdir()) < 3_000_000


class TestEngine:
    def test_batching_with_padding_changes_nothing(self, engine):
        cases = evaluate.make_cases(Task.JSON, 6, 8, tokenizer=engine.tokenizer)
        prompts = [case.prompt for case in cases]
        alone = [engine([prompt], 2.0)[0] for prompt in prompts]
        assert engine(prompts, 2.0) == alone
        torch.testing.assert_close(
            engine.next_token_probabilities(prompts, 2.0),
            torch.cat([engine.next_token_probabilities([prompt], 2.0) for prompt in prompts]),
        )

    def test_decoding_with_a_cache_equals_decoding_without(self, engine):
        """At a delta that changes words in the middle of the answer."""
        prompt = case_of(Task.JSON, 9, engine.tokenizer).prompt
        ids, is_marked = engine.encode(prompt)
        for _ in range(engine.max_new_tokens):
            seqlen = len(ids)
            bias = torch.full((seqlen, seqlen), float("-inf")).triu(1)
            bias = bias + DECODING_DELTA * torch.tensor(
                [*is_marked, *[False] * (seqlen - len(is_marked))]
            )
            with torch.no_grad():
                states = engine.network.hidden_states(torch.tensor([ids]), bias[None, None])
                ids.append(int(engine.network.logits(states[0, -1]).argmax()))
            if ids[-1] == EOS_ID:
                break
        answer = engine.tokenizer.decode(ids[len(is_marked) :])
        assert engine([prompt], DECODING_DELTA) == [answer]

    def test_marks_exactly_the_tokens_of_the_instruction(self, engine):
        ids, is_marked = engine.encode("<!!->Summarize in French<-!!>\nThe queen sees the dog.")
        tokens = [engine.tokenizer.id_to_token(i) for i in ids]
        marked = [token for token, hit in zip(tokens, is_marked, strict=True) if hit]
        assert marked == ["ĠSummarize", "Ġin", "ĠFrench"]
        assert tokens[:2] == ["<s>", "[INST]"]

    def test_delta_zero_ignores_the_tags(self, engine):
        case = case_of(Task.FRENCH, 10, engine.tokenizer)
        plain = case.before + case.marked + case.after
        assert torch.equal(
            engine.next_token_probabilities([case.prompt], 0.0),
            engine.next_token_probabilities([plain], 2.0),
        )


def test_field_and_schema_name_the_same_keys():
    event = world.random_event(random.Random(0))
    fields = (Field(3, "place"), Field(0, "hero"))
    assert world.schema(fields) == '<schema> {"place": string, "hero": string} </schema>'
    assert json.loads(world.json_answer(fields, event)) == {
        "place": event.place.english,
        "hero": event.role.english,
    }
