# SPDX-License-Identifier: MIT
"""What the embedded model is trained on: lessons, and the gap among them."""

import collections
import random

from embedded_cases import PROPERTY, SEEDS
from hypothesis import given
from hypothesis import strategies as st

from guide_ext.embedded import world
from guide_ext.embedded.evaluate import Rate
from guide_ext.embedded.training import curriculum
from guide_ext.embedded.world import Style


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
