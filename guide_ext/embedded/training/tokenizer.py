# SPDX-License-Identifier: MIT
"""The tokenizer of the embedded model: byte-level BPE, trained on the constructed world.

Its corpus has a fixed seed, not the training seed, so that all training runs share the tokenizer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from guide_ext.embedded.training.curriculum import KINDS, make_example
from guide_ext.support.files import write_text

VOCAB_SIZE = 1504
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]")
BOS_ID, EOS_ID, PAD_ID = 1, 2, 3
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
_CORPUS_SEED = 0
_CORPUS_EXAMPLES = 40_000
_MAX_SENTENCES = 10


def chat(prompt: str) -> str:
    """Return one user message as ``CHAT_TEMPLATE`` writes it; a space and the answer follow.

    Example:
        >>> chat("Summarize")
        '<s>[INST] Summarize [/INST]'

    """
    return f"<s>[INST] {prompt} [/INST]"


def _corpus(num_examples: int) -> Iterator[str]:
    rng = random.Random(_CORPUS_SEED)
    for _ in range(num_examples):
        example = make_example(rng, rng.choice(KINDS), rng.randint(1, _MAX_SENTENCES))
        yield " " + example.prompt
        yield " " + example.answer


def train_tokenizer(num_examples: int = _CORPUS_EXAMPLES) -> Tokenizer:
    """Train the tokenizer; the same call gives the same tokenizer everywhere.

    Args:
        num_examples: Size of the corpus; the shipped tokenizer was trained with the default.

    Returns:
        A tokenizer that starts every text with ``<s>`` unless ``add_special_tokens=False``.

    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(num_examples), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["[INST]", "[/INST]"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    text = json.dumps(config, indent=2) + "\n"
    write_text(folder / "tokenizer_config.json", text)
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
