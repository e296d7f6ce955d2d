# SPDX-License-Identifier: MIT
"""For tests of the embedded model: a tiny network, one case, settings of hypothesis."""

from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guide_ext.embedded import evaluate
from guide_ext.embedded.evaluate import Case, CaseKind
from guide_ext.embedded.training import network

PROPERTY = settings(derandomize=True, deadline=None, max_examples=50)
SEEDS = st.integers(0, 2**32 - 1)
TINY = network.NetworkConfig(
    hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=24
)


def case_of(task: CaseKind, seed: int, tokenizer: Tokenizer) -> Case:
    return evaluate.make_cases(task, 1, seed, tokenizer=tokenizer)[0]
