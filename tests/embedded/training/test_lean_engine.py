# SPDX-License-Identifier: MIT
"""The engine that answers without transformers: padding, cache and marks."""

import torch
from embedded_cases import case_of

from guide_ext.embedded import evaluate
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.embedded.training.tokenizer import EOS_ID

DECODING_DELTA = 5.0


class TestEngine:
    def test_batching_with_padding_changes_nothing(self, engine):
        cases = evaluate.make_cases(CaseKind.JSON, 6, 8, tokenizer=engine.tokenizer)
        prompts = [case.prompt for case in cases]
        alone = [engine([prompt], 2.0)[0] for prompt in prompts]
        assert engine(prompts, 2.0) == alone
        torch.testing.assert_close(
            engine.next_token_probabilities(prompts, 2.0),
            torch.cat([engine.next_token_probabilities([prompt], 2.0) for prompt in prompts]),
        )

    def test_decoding_with_a_cache_equals_decoding_without(self, engine):
        """At a delta that changes words in the middle of the answer."""
        prompt = case_of(CaseKind.JSON, 9, engine.tokenizer).prompt
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
        case = case_of(CaseKind.FRENCH, 10, engine.tokenizer)
        plain = case.before + case.marked + case.after
        assert torch.equal(
            engine.next_token_probabilities([case.prompt], 0.0),
            engine.next_token_probabilities([plain], 2.0),
        )
