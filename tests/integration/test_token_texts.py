# SPDX-License-Identifier: MIT
"""The texts of tokens join to what the tokenizer decodes, whatever its vocabulary is."""

import random
from functools import cache

import pytest
import tokenizers_zoo as zoo
from tokenizers import Regex, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import guide_ext.integration as guide
from guide_ext.integration import token_texts as module
from guide_ext.integration.token_texts import TokenTexts, token_texts

BYTE_FALLBACK = ("metaspace_bpe", "legacy_llama", "unigram")
PIECES = ("🙂", "你", "é", "a", " ", "the ", "👩‍🚀", "\n", "Ж", "日本", "\u0301", "e")


@cache
def build(name):
    """Return a tokenizer of the zoo that decodes as its kind does."""
    if name not in BYTE_FALLBACK:
        return zoo.build(name)
    inner = Tokenizer.from_str(zoo.build(name).backend_tokenizer.to_str())
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(params=[*zoo.TOKENIZERS, "embedded"])
def tokenizer(request):
    if request.param == "embedded":
        return guide.load_embedded()[1]
    return build(request.param)


def whole(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def tokens_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def byte_tokens(tokenizer):
    found = [tokenizer.convert_ids_to_tokens(token) for token in range(len(tokenizer))]
    named = [token for token, name in enumerate(found) if name in zoo.BYTE_TOKENS]
    return named or range(len(tokenizer))


def of_words(chance, tokenizer):
    text = "".join(chance.choice((*PIECES, "\ufffd")) for _ in range(chance.randint(1, 60)))
    return tokens_of(tokenizer, text)


def of_tokens(chance, tokenizer):
    return [chance.randrange(len(tokenizer)) for _ in range(chance.randint(1, 80))]


def of_broken_runs(chance, tokenizer):
    """Whole characters, with bytes in between that are none."""
    wild = byte_tokens(tokenizer)
    found = []
    for _ in range(chance.randint(1, 20)):
        found += tokens_of(tokenizer, chance.choice(PIECES))
        found += [chance.choice(wild) for _ in range(chance.randint(0, 3))]
    return found


@pytest.mark.parametrize("ids_of", [of_words, of_tokens, of_broken_runs])
def test_they_join_to_the_text(tokenizer, ids_of):
    for seed in range(100):
        ids = ids_of(random.Random(seed), tokenizer)
        texts = token_texts(tokenizer, ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == whole(tokenizer, ids), (seed, ids)


def test_one_at_a_time(tokenizer):
    """As of all at once, and the last token gets what is left."""
    for seed in range(100):
        chance = random.Random(seed)
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(2, 60)))
        ids = tokens_of(tokenizer, text)
        if "\ufffd" in whole(tokenizer, ids) or not ids:
            continue
        first = chance.randrange(len(ids))
        texts = TokenTexts(tokenizer, ids[:first])
        found = [texts.take(token) for token in ids[first:-1]]
        found.append(texts.take(ids[-1], is_last=True))
        assert found == token_texts(tokenizer, ids)[first:], (seed, first)


@pytest.mark.parametrize("name", BYTE_FALLBACK)
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("🙂你", ["", "", "", "🙂", "", "", "你"]),
        ("🙂🙂🙂", ["", "", "", "🙂"] * 3),
        ("🙂\x07你", ["", "", "", "🙂", "\x07", "", "", "你"]),
    ],
)
def test_a_character_is_of_the_token_that_completes_it(name, text, wanted):
    tokenizer = build(name)
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
    before = tokens_of(tokenizer, "the text")
    ids = [*before, *ids, *before]
    middle = slice(len(before), len(ids) - len(before))
    assert token_texts(tokenizer, ids)[middle] == wanted
    texts = TokenTexts(tokenizer, ids[: middle.start + 2])
    assert [texts.take(token) for token in ids[middle.start + 2 : middle.stop]] == wanted[2:]


def test_characters_of_several_tokens_of_a_byte_level_vocabulary():
    tokenizer = build("byte_level")
    for seed in range(50):
        ids = of_words(random.Random(seed), tokenizer)
        if "\ufffd" in whole(tokenizer, ids):
            continue
        so_far = ""
        for index, text in enumerate(token_texts(tokenizer, ids)):
            so_far += text
            assert so_far == whole(tokenizer, ids[: index + 1]).rstrip("\ufffd")


def test_bytes_that_are_no_text():
    """One that is not makes all of the run U+FFFD, each byte one."""
    tokenizer = build("legacy_llama")
    values = [*"🙂".encode(), 0xFF, *"é".encode()]
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{value:02X}>") for value in values]
    assert token_texts(tokenizer, ids) == ["\ufffd"] * 7
    texts = TokenTexts(tokenizer)
    assert [texts.take(token) for token in ids] == ["", "", "", "🙂", "\ufffd", "", "é"]


def test_names_like_bytes_are_words_where_nothing_decodes_them():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "<0x41>": 1, "b": 2}, "[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert token_texts(tokenizer, [1, 1, 2]) == ["<0x41>", " <0x41>", " b"]


def test_the_last_gets_what_is_left():
    tokenizer = build("byte_level")
    ids = tokens_of(tokenizer, "the 🙂")[:-1]
    texts = TokenTexts(tokenizer)
    found = [texts.take(token) for token in ids[:-1]]
    assert "".join(found) == "the "
    assert texts.take(ids[-1], is_last=True) == "\ufffd"


def test_a_decoder_that_looks_further_than_the_context():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "(": 1, "b": 2, ")": 3}, "[UNK]"))
    words.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(r"\([^)]*\)"), "X")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    ids = [2, 1, *[2] * 80, 3, 2]
    assert whole(tokenizer, ids) == "bXb"
    assert "".join(token_texts(tokenizer, ids)) == "bXb"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("legacy_llama", "🙂你" * 900),
        ("legacy_llama", ("🙂" * 20 + " the ") * 200),
        ("byte_level", "\ufffd🙂" * 900),
    ],
)
def test_long_texts_take_time_by_their_length(monkeypatch, name, text):
    """The tokens that are decoded, together, are a small multiple of those that there are."""
    tokenizer = build(name)
    ids = tokens_of(tokenizer, text)
    decoded, decode = [], module._decode
    monkeypatch.setattr(
        module, "_decode", lambda one, part: (decoded.append(len(part)), decode(one, part))[1]
    )
    assert "".join(token_texts(tokenizer, ids)) == whole(tokenizer, ids)
    assert sum(decoded) < 100 * len(ids)
    decoded.clear()
    texts = TokenTexts(tokenizer)
    for token in ids:
        texts.take(token)
    assert sum(decoded) < 100 * len(ids)
