# SPDX-License-Identifier: MIT
"""Small tokenizers of every common build, trained on the spot, and chat templates good and bad."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<|user|>", "<|end|>")

CORPUS = (
    "Summarize the following text in French, in two short sentences.",
    "You are a helpful assistant. Answer only with a JSON object, nothing else!",
    "The quick brown fox jumps over the lazy dog; the dog does not care (it is lazy).",
    "If x < y and y -> z, then a[i] += 2 * b[i - 1]; // see section 3.14",
    "Où est passée la clé ? Élève naïf, garçon, cœur, façade, déjà-vu.",
    "Разметь важный текст, и модель обратит на него внимание.",
    "请用法语总结以下文本。重要的是说明。 日本語の文章も少しあります。",
    "नमस्ते दुनिया। שלום עולם. مرحبا بالعالم",
    "Smile 😀 and wave 👋🏽 to the family 👨‍👩‍👧‍👦!",
    "  leading spaces,\ttabs\nand\n\nnew lines  ",
)
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
VOCABULARY_SIZE = 700


def _byte_level(*, add_prefix_space: bool, trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim_offsets), _begin()]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer(initial_alphabet=alphabet, **_OPTIONS))
    return tokenizer


def _metaspace_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    _train_on_words(tokenizer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = _begin()
    return tokenizer


def _legacy_llama() -> Tokenizer:
    """The normaliser of Llama 1 and 2: prepend ▁, then every space becomes one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    _train_on_words(tokenizer)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = _begin()
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = [*SPECIAL, *BYTE_TOKENS]
    _train(
        tokenizer,
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=special,
            unk_token="<unk>",
            show_progress=False,
            max_piece_length=8,
        ),
    )
    # The trainer cannot be told about byte fallback, so put its pieces into a model that has it.
    pieces = (tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size()))
    vocabulary = [(piece, -1.0 - index / 50) for index, piece in enumerate(pieces)]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    tokenizer.post_processor = _begin()
    return tokenizer


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=40))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(tokenizer, trainers.WordPieceTrainer(**_OPTIONS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


_OPTIONS: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "special_tokens": list(SPECIAL),
    "show_progress": False,
}
_WITH_BYTES = {**_OPTIONS, "special_tokens": [*SPECIAL, *BYTE_TOKENS]}


def _begin() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])


def _with_ordinary_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Make byte pieces ordinary ones; trainers accept given pieces as special tokens only."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [
        token for token in description["added_tokens"] if token["content"] in SPECIAL
    ]
    return Tokenizer.from_str(json.dumps(description))


def _train_on_words(tokenizer: Tokenizer) -> None:
    """Learn pieces that never reach into the next word, as SentencePiece does."""
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    _train(tokenizer, trainers.BpeTrainer(**_WITH_BYTES))


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    tokenizer.train_from_iterator(CORPUS * 4, trainer)


_BUILDERS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": lambda: _byte_level(add_prefix_space=False, trim_offsets=True),
    "byte_level_untrimmed": lambda: _byte_level(add_prefix_space=False, trim_offsets=False),
    "byte_level_prefix_space": lambda: _byte_level(add_prefix_space=True, trim_offsets=True),
    "byte_level_prefix_untrimmed": lambda: _byte_level(add_prefix_space=True, trim_offsets=False),
    "metaspace_bpe": _metaspace_bpe,
    "legacy_llama": _legacy_llama,
    "unigram": _unigram,
    "word_piece": _word_piece,
}
TOKENIZERS = tuple(_BUILDERS)


@cache
def build(name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of this name, the same object in every test of a session."""
    tokenizer = _with_ordinary_bytes(_BUILDERS[name]())
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|end|>"],
        chat_template=TEMPLATES["plain"],
    )


_LOOP = "{% for message in messages %}"
_HEAD = "<|user|>{{ message['role'] }}\n"
_FOOT = "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"


def _template(content: str) -> str:
    return _LOOP + _HEAD + content + _FOOT


_PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}[image]{% endif %}"
    "{% endfor %}{% endif %}"
)

TEMPLATES = {
    "plain": _template("{{ message['content'] }}"),
    "parts": _template(_PARTS),
    "trim": _template("{{ message['content'] | trim }}"),
    "tojson": "{{ messages | tojson }}",
    "duplicated": _template("{{ message['content'] }}{{ message['content'] }}"),
    "quoted_lines": _template(
        "{% for line in message['content'].split('\\n') %}> {{ line }}\n{% endfor %}"
    ),
    # As Gemma and Mistral do: the system text becomes the start of the first user message.
    "folded_system": (
        "{% set ns = namespace(system='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
        "{% else %}" + _HEAD + "{{ (ns.system + message['content']) | trim }}<|end|>\n"
        "{% set ns.system = '' %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
    ),
    "uppercase": _template("{{ message['content'] | upper }}"),
}

HOSTILE_TEMPLATES = {
    "truncated": _template("{{ message['content'][:12] }}"),
    "capitalized": _template("{{ message['content'] | capitalize }}"),
    "reversed": _template("{{ message['content'] | reverse }}"),
    "sorted_words": _template("{{ message['content'].split(' ') | sort | join(' ') }}"),
    "first_words": _template("{{ message['content'].split(' ')[:2] | join(' ') }}"),
    "length": _template("{{ message['content'] | length }}: {{ message['content'] }}"),
    "dropped": _template("(hidden)"),
    "ascii_json": "{{ messages | tojson(ensure_ascii=True) }}",
    "prefix_test": _template(
        "{% if message['content'].startswith('Answer') %}!{% endif %}{{ message['content'] }}"
    ),
}
