# SPDX-License-Identifier: MIT
"""Answers of a batch do not depend on each other."""

import pytest
import torch

from guide_ext import integration
from guide_ext.integration.decoding import RowSampling
from guide_ext.integration.rows import answer_rows
from guide_ext.studies.cells import ANSWER, Cell, Condition
from guide_ext.studies.data.rows import embedded_rows
from guide_ext.studies.french import TASK
from guide_ext.studies.run.engine import marked_prompt


class TestSampling:
    def test_is_multinomial(self):
        logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
        drawn = RowSampling(range(4000), 0.7)(torch.zeros(1, 1), logits.expand(4000, 4))
        counts = drawn.argmax(-1).bincount(minlength=4).float()
        wanted = 4000 * (logits[0] / 0.7).softmax(-1)
        chi_squared = ((counts - wanted) ** 2 / wanted).sum()
        assert chi_squared < 16.3  # 3 degrees of freedom, p = 0.001; the seeds are fixed

    def test_a_row_does_not_depend_on_its_neighbours(self):
        model, tokenizer = integration.load_embedded()
        rows = embedded_rows(TASK, 1, 5, tokenizer=tokenizer)
        asked = [
            [{"role": "user", "content": marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))}]
            for row in rows
        ]
        how = {"max_new_tokens": 40, "temperature": 1.0}
        seeds = list(range(len(asked)))
        together = answer_rows(model, tokenizer, asked, seeds=seeds, **how)
        alone = [
            answer_rows(model, tokenizer, [one], seeds=[seed], **how)[0]
            for one, seed in zip(asked, seeds, strict=True)
        ]
        assert alone == together
        backwards = answer_rows(model, tokenizer, asked[::-1], seeds=seeds[::-1], **how)
        assert backwards[::-1] == together
        others = answer_rows(model, tokenizer, asked, seeds=[s + 99 for s in seeds], **how)
        assert others != together

    def test_new_tokens_count_up_to_the_end(self):
        """The token that ends a text counts, and what a shorter one is padded with does not."""
        model, tokenizer = integration.load_embedded()
        rows = embedded_rows(TASK, 1, 5, tokenizer=tokenizer)[:3]
        asked = [
            [{"role": "user", "content": marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))}]
            for row in rows
        ]
        found = answer_rows(model, tokenizer, asked, seeds=[0] * 3, max_new_tokens=40)
        for text, tokens in found:
            assert tokens == len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        for text, tokens in answer_rows(model, tokenizer, asked, seeds=[0] * 3, max_new_tokens=4):
            assert text
            assert tokens == 4

    def test_the_logits_are_those_of_the_model_alone(self):
        model, tokenizer = integration.load_embedded()
        asked = ["The cat and the cat and the cat and"]
        plain = answer_rows(model, tokenizer, asked, seeds=[1], max_new_tokens=12)
        model.generation_config.repetition_penalty = 5.0
        assert answer_rows(model, tokenizer, asked, seeds=[1], max_new_tokens=12) == plain

    def test_one_seed_for_each_prompt(self):
        model, tokenizer = integration.load_embedded()
        with pytest.raises(ValueError, match="seeds must be one for each of 1 prompts, got 2"):
            answer_rows(model, tokenizer, ["a"], seeds=[1, 2])
