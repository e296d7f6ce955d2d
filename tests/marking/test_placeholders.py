# SPDX-License-Identifier: MIT
"""Placeholders and what replaces them: marks move, images are marked whole."""

import pytest
from tokenizers_zoo import TOKENIZERS, build

from guide_ext.marking.placeholders import Expansion, encode_expanded, places_of
from guide_ext.marking.spans import mark, parse

PICTURE = "<picture>"


def expansions(text, *texts):
    return [
        Expansion(*place, new) for place, new in zip(places_of(text, PICTURE), texts, strict=True)
    ]


def encode(name, source, *texts, **options):
    marked = parse(source)
    return encode_expanded(build(name), marked, expansions(marked.text, *texts), **options)


def marked_text(encoding):
    """The characters of all tokens with a bias."""
    places = [
        place for place, nats in zip(encoding.offsets, encoding.nats(1.0), strict=True) if nats
    ]
    return "".join(encoding.text[start:end] for start, end in places)


@pytest.mark.parametrize("name", TOKENIZERS)
class TestEveryTokenizer:
    def test_tokens_are_those_of_the_expanded_text(self, name):
        source = f"<!->Summarize<-!> {PICTURE} and <!!->{PICTURE}<-!!>, <!!!->please<-!!!>"
        found = encode(name, source, "<|user|><|user|>", "<|user|>x<|end|>")
        text = "Summarize <|user|><|user|> and <|user|>x<|end|>, please"
        assert found.text == text
        assert found.input_ids == build(name)(text)["input_ids"]
        assert found.nats(1.0) == _expected(found)

    def test_marks_on_text_stay_on_it(self, name):
        source = f"<!!->Summarize<-!!> {PICTURE} the <!!->text<-!!>"
        found = encode(name, source, "<|user|>" * 5)
        plain = encode(name, "<!!->Summarize<-!!> <|user|> the <!!->text<-!!>")
        assert sum(map(bool, found.nats(1.0))) == sum(map(bool, plain.nats(1.0)))
        ((start, end),) = found.images
        assert end - start == 5
        assert not any(found.nats(1.0)[start:end])


def _expected(encoding):
    """Return the bias of each token, by the characters that it stands for."""
    parts = {"Summarize": 0.5, "<|user|>x<|end|>": 1.0, "please": 2.0}
    places = [(encoding.text.index(part), len(part), nats) for part, nats in parts.items()]
    return [
        # With start == end inside: a space that the tokenizer puts in front of a word.
        sum(nats for first, long, nats in places if start < first + long and end > first)
        for start, end in encoding.offsets
    ]


def test_an_image_is_all_that_replaces_its_placeholder():
    found = encode("byte_level", f"see {PICTURE} now", "\n\n<|user|> a <|end|>\n\n")
    ((start, end),) = found.images
    first, last = found.offsets[start], found.offsets[end - 1]
    assert found.text[first[0] : last[1]].strip() == "<|user|> a <|end|>"
    assert first[0] <= 4 + 1
    assert last[1] >= found.text.index(" now")
    whole = encode("byte_level", f"see <!!->{PICTURE}<-!!> now", "\n\n<|user|> a <|end|>\n\n")
    assert [index for index, nats in enumerate(whole.nats(1.0)) if nats] == [*range(start, end)]


def test_two_images_side_by_side_are_two():
    found = encode("byte_level", f"{PICTURE}<!!->{PICTURE}<-!!>", "<|user|>" * 2, "<|user|>" * 3)
    assert found.images == ((1, 3), (3, 6))
    assert found.nats(1.0) == [0, 0, 0, 1, 1, 1]


def test_groups_and_nested_marks():
    found = encode("byte_level", f"<?all->a <?one->{PICTURE}<-?one> b<-?all> c", "<|user|>" * 2)
    ((start, end),) = found.images
    tokens = range(len(found.input_ids))
    assert found.groups()["one"] == [start <= index < end for index in tokens]
    assert all(found.groups()["all"][start:end])
    assert not found.groups()["all"][-1]


@pytest.mark.parametrize(
    ("source", "verb"),
    [(f"<!!->see {PICTURE[:4]}<-!!>{PICTURE[4:]}", "ends"),
     (f"{PICTURE[:4]}<!!->{PICTURE[4:]} now<-!!>", "begins"),
     (f"{PICTURE[:2]}<?->{PICTURE[2:5]}<-?>{PICTURE[5:]}", "begins")],
)  # fmt: skip
def test_a_mark_that_cuts_a_placeholder(source, verb):
    message = rf"{verb} inside the placeholder '<picture>' of image 1; .* around the placeholder"
    with pytest.raises(ValueError, match=message):
        encode("byte_level", source, "<|user|>")


def test_an_image_of_nothing():
    with pytest.raises(ValueError, match="puts nothing in the place of image 2"):
        encode("byte_level", f"{PICTURE} and {PICTURE}", "<|user|>", "")


@pytest.mark.parametrize("places", [[(4, 2)], [(3, 6), (5, 8)], [(3, 3)], [(90, 99)]])
def test_places_that_are_none(places):
    with pytest.raises(ValueError, match="expansions must be in order and inside the text"):
        encode_expanded(
            build("byte_level"), mark("a text of words", level=2, substring="text"),
            [Expansion(*place, "x") for place in places],
        )  # fmt: skip


class TestMaxLength:
    SOURCE = f"<!!->see<-!!> {PICTURE} now and then and now"

    def test_text_behind_images_may_be_cut(self):
        whole = encode("byte_level", self.SOURCE, "<|user|>" * 4)
        last = whole.images[0][1]
        cut = encode("byte_level", self.SOURCE, "<|user|>" * 4, max_length=last)
        assert cut.input_ids == whole.input_ids[:last]
        assert cut.images == whole.images

    @pytest.mark.parametrize("left", [0, 1, 3])
    def test_no_image_may_be(self, left):
        first = encode("byte_level", self.SOURCE, "<|user|>" * 4).images[0][0]
        message = f"cuts image 1: {left} of its 4 tokens are left"
        with pytest.raises(ValueError, match=message):
            encode("byte_level", self.SOURCE, "<|user|>" * 4, max_length=first + left)
