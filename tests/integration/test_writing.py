# SPDX-License-Identifier: MIT
"""Text that is written a token at a time is the text of all tokens, whatever the tokenizer does."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from guide_ext.integration.writing import Text, UntilStop, Writer

SAMPLES = (
    "Le café où naît l'été 😀😀 ends.",
    "  spaces   and\n\n\ttabs, 漢字かな交じり文, ﷽ and 👩‍👩‍👧‍👦!",
    "plain words " * 20,
    "",
)


def trained(model, before, after):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = before, after
    kind = trainers.BpeTrainer if isinstance(model, models.BPE) else trainers.WordPieceTrainer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["plain words in the house ends"] * 9,
        kind(vocab_size=400, special_tokens=["<s>", "[UNK]"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="[UNK]")


def of_bytes():
    """Words, and bytes for all else, as Llama 2 and Gemma have them."""
    pieces = [
        "<s>",
        "▁",
        "a",
        "▁a",
        "p",
        "l",
        "i",
        "n",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: place for place, piece in enumerate(pieces)}, [("▁", "a")], byte_fallback=True
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def cleaned():
    """Decoding takes spaces away once it knows what stands behind them."""
    tokenizer = TOKENIZERS["pieces of words"]()
    tokenizer.clean_up_tokenization_spaces = True
    return tokenizer


TOKENIZERS = {
    "pieces of words, cleaned up": cleaned,
    "words, and bytes for the rest": of_bytes,
    "bytes": lambda: trained(
        models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ),
    "a space in front that decoding drops": lambda: trained(
        models.BPE(unk_token="[UNK]"), pre_tokenizers.Metaspace(), decoders.Metaspace()
    ),
    "pieces of words": lambda: trained(
        models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def written(tokenizer, ids):
    text = Text(tokenizer)
    return "".join([*map(text.take, ids), text.rest()])


@pytest.mark.parametrize("sample", SAMPLES)
def test_of_texts(tokenizer, sample):
    ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
    assert written(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("seed", range(40))
def test_of_any_tokens(tokenizer, seed):
    """Bytes that are no characters, special tokens within characters: as a hot model writes."""
    draw = random.Random(seed)
    ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 80))]
    # Punctuation and letters come often enough to meet.
    few = tokenizer("it ' s . n ' t é", add_special_tokens=False)["input_ids"]
    ids = [draw.choice(few) if draw.random() < 0.3 else token for token in ids]
    assert written(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_bytes_are_given_out_when_their_run_ends():
    """The last one decides whether the others are text; a special token does not end a run."""
    tokenizer = TOKENIZERS["words, and bytes for the rest"]()
    first, second = (tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "é".encode())
    a, special = tokenizer.convert_tokens_to_ids("a"), tokenizer.bos_token_id
    text = Text(tokenizer)
    assert [text.take(token) for token in (a, first, special, second, a)] == ["a", "", "", "", "éa"]
    text = Text(tokenizer)
    pieces = [text.take(token) for token in (first, second, first, a)]
    assert pieces == ["", "", "", "\ufffd" * 3 + "a"]
    assert text.rest() == ""


def test_tokens_without_text_are_not_decoded_for_ever():
    tokenizer = TOKENIZERS["bytes"]()
    decoded, text = [], Text(tokenizer)
    decode = tokenizer.decode
    tokenizer.decode = lambda ids, **how: (decoded.append(len(ids)), decode(ids, **how))[1]
    for _ in range(200):
        text.take(tokenizer.bos_token_id)
    assert max(decoded) < 60


def test_no_half_characters_on_the_way():
    tokenizer = TOKENIZERS["bytes"]()
    text = Text(tokenizer)
    ids = tokenizer("é😀", add_special_tokens=False)["input_ids"]
    pieces = [piece for piece in map(text.take, ids) if piece]
    assert (pieces, len(ids)) == (["é", "😀"], 6)


@pytest.mark.parametrize("stops", [("END",), ("ENDE", "DX"), ("aa", "b"), ()])
def test_what_ends_a_text(stops):
    """Whatever the pieces: the text up to the first of the stops, and no more is ever given out."""
    draw = random.Random(1)
    for _ in range(200):
        text = "".join(draw.choice("ENDXab") for _ in range(12))
        until, given, place = UntilStop(stops), "", 0
        ends = [text.find(stop) for stop in stops if stop in text]
        while place < len(text):
            size = draw.randint(1, 4)
            given += until.take(text[place : place + size])
            place += size
            assert not any(stop in given for stop in stops)
            if until.stopped:
                break
        if until.stopped:
            seen = text[:place]
            assert given == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
        else:
            assert not ends
            assert given + until.rest() == text


class TestWriter:
    def write(self, ids, most=99, ends=(), stops=()):
        tokenizer, found = TOKENIZERS["bytes"](), []
        writer = Writer(
            tokenizer, most, ends, stops, lambda text, details: found.append((text, details))
        )
        for place, token in enumerate(tokenizer(ids, add_special_tokens=False)["input_ids"]):
            writer.take(token, place)
        return (
            writer,
            "".join(text for text, _ in found),
            [one for _, details in found for one in details],
        )

    def test_ends(self):
        tokenizer = TOKENIZERS["bytes"]()
        dot = tokenizer.convert_tokens_to_ids(".")
        for options, reason, text in (
            ({"ends": [dot]}, "stop", "ab"), ({"most": 1}, "length", "a"), ({}, None, "ab.c"),
            ({"stops": ["b."]}, "stop", "a"), ({"most": 3, "stops": ["."]}, "stop", "ab"),
        ):  # fmt: skip
            writer, found, _ = self.write("ab.c", **options)
            assert (writer.reason, found) == (reason, text)

    def test_what_is_known_of_tokens_comes_with_their_text(self):
        """None is lost, in order, also where the text of a token is held back."""
        writer, _, details = self.write("aé END", most=6, stops=["END!"])
        assert writer.reason == "length"
        assert details == list(range(6))

    def test_what_is_known_of_tokens_without_text(self):
        """A special token at the end has none, and half a character ends as what decoders show."""
        tokenizer, found = TOKENIZERS["bytes"](), []
        ids = tokenizer("aé", add_special_tokens=False)["input_ids"]
        for tokens, stops, reason in (
            ([ids[0], tokenizer.bos_token_id], (), "length"), ([ids[1]], ("\ufffd",), "stop"),
        ):  # fmt: skip
            found.clear()
            writer = Writer(
                tokenizer, len(tokens), (), stops, lambda _, details: found.extend(details)
            )
            for place, token in enumerate(tokens):
                writer.take(token, place)
            assert (writer.reason, found) == (reason, list(range(len(tokens))))
