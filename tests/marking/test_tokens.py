# SPDX-License-Identifier: MIT
"""From characters to tokens: ids stay as they are, marks cover exactly the marked characters."""

from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marked_documents import check_marks, marked_documents, outcome
from tokenizers_zoo import TOKENIZERS, build

from guide_ext.marking.spans import MarkedText, Span, TagError, mark, parse
from guide_ext.tokens import Encoding, encode, mark_tokens

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
SPECIAL_TEXT = ["<|user|>", "</s>", "French", "é", " ", "\n", "日"]


@pytest.mark.parametrize("name", TOKENIZERS)
@PROPERTY
@given(document=marked_documents())
def test_marks_cover_exactly_the_marked_characters(name, document):
    check_marks(build(name), document)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(PROPERTY, max_examples=25)
@given(document=marked_documents(words=SPECIAL_TEXT))
def test_special_tokens_in_the_text_are_never_marked(name, document):
    check_marks(build(name), document)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(PROPERTY, max_examples=25)
@given(text=st.text(), data=st.data())
def test_any_text_any_range(name, text, data):
    """No text makes offsets look wrong, and a one-character mark finds the token of that one."""
    tokenizer = build(name)
    assert encode(tokenizer, MarkedText(text)).input_ids == tokenizer(text)["input_ids"]
    inked = [place for place, char in enumerate(text) if not char.isspace()]
    if inked:
        place = data.draw(st.sampled_from(inked))
        marked = MarkedText(text, (Span(place, place + 1, delta=1.0),))
        found = tokenizer(text, return_offsets_mapping=True)
        # "<s>" as text becomes the special token; an unknown character is text, whatever its token.
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assume(not tokenizer.unk_token or tokenizer.unk_token not in text)
        expected = [
            float(start <= place < end and token not in special)
            for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)
        ]
        result = outcome(encode, tokenizer, marked)
        if isinstance(result, ValueError):
            assert not any(expected)
        else:
            assert result.nats(1.0) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Summarize <!!->the following<-!!> text", "the following"),
        ("Summarize<!!-> the following <-!!>text", "the following"),
        ("<!!->Summarize<-!!> the following text.", "Summarize"),
        ("Summarize the following <!!->text.<-!!>\n", "text."),
        ("请用<!!->法语<-!!>总结以下文本。", "法语"),
        ("Smile <!!->👨‍👩‍👧‍👦<-!!> and wave", "👨‍👩‍👧‍👦"),
        ("Разметь <!!->важный<-!!> текст", "важный"),
    ],
)
def test_words_between_spaces_share_no_token_with_their_neighbours(name, source, words):
    encoding = encode(build(name), source)
    marked = [pair for pair, nats in zip(encoding.offsets, encoding.nats(1.0), strict=True) if nats]
    start, end = marked[0][0], marked[-1][1]
    if "请" not in source:  # without spaces, a token may well hold a neighbour too
        assert encoding.text[start:end].strip() == words
    assert words in encoding.text[start:end]


def test_neighbours_that_ask_the_same_do_not_count_a_token_twice():
    tokenizer = build("word_piece")
    assert tokenizer.tokenize("French") == ["french"]
    assert encode(tokenizer, "<!2->Fr<-!><!2->ench<-!>").nats(1.0) == [0.0, 2.0, 0.0]
    assert encode(tokenizer, "<!2->Fr<-!><!1->ench<-!>").nats(1.0) == [0.0, 3.0, 0.0]
    assert encode(tokenizer, "<!2-><!2->Fr<-!>ench<-!>").nats(1.0) == [0.0, 4.0, 0.0]
    assert encode(tokenizer, "<!2->F<-!>r<!2->e<-!>n<!2->c<-!>h").nats(1.0) == [0.0, 2.0, 0.0]


def test_groups_and_nesting():
    encoding = encode(
        build("word_piece"),
        "<?->you <!!->are <!->a<-!><-!!><-?> helpful <?b->assistant<-?b>, <?->answer<-?>",
    )
    assert encoding.nats(2.0) == [0.0, 0.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    marked = [False, True, True, True, False, False, False, True, False]
    named = [False, False, False, False, False, True, False, False, False]
    assert encoding.groups() == {"marked": marked, "b": named}
    assert list(encoding.groups()) == ["marked", "b"]


def test_nothing_is_left_of_a_span_behind_its_end():
    """0.1 + 0.2 − 0.2 − 0.1 is not 0 in floating point."""
    encoding = encode(build("word_piece"), "<!.1->you <!.2->are<-!> a<-!> helpful")
    assert encoding.nats(1.0)[1:] == [0.1, 0.30000000000000004, 0.1, 0.0, 0.0]
    huge = encode(build("word_piece"), "<!1e308->you <!!!->are<-!!!> a<-!> helpful")
    assert huge.nats(-1e308)[1:] == [1e308, float("-inf"), 1e308, 0.0, 0.0]


@PROPERTY
@given(st.data())
def test_sums_are_those_of_the_spans_one_by_one(data):
    tokens = 8
    places = st.integers(0, tokens)
    spans = []
    for first, last in data.draw(st.lists(st.tuples(places, places), max_size=8)):
        if first < last:
            kind = data.draw(st.sampled_from([{"delta": 0.25}, {"level": 3}, {"group": "a"}]))
            spans.append(Span(first, last, **kind))
    encoding = Encoding([0] * tokens, [(0, 0)] * tokens, "", (), tuple(spans))
    expected = [sum(s.nats(1.0) for s in spans if s.start <= i < s.end) for i in range(tokens)]
    assert encoding.nats(1.0) == expected
    held = [any(s.group and s.start <= i < s.end for s in spans) for i in range(tokens)]
    assert encoding.groups() == ({"a": held} if any(held) else {})


@PROPERTY
@given(st.data())
def test_overlapping_tokens_are_found_as_by_definition(data):
    """Any tokens whose starts ascend, any special ones among them, any spans."""
    size = 8
    tokens = st.tuples(st.integers(0, size - 1), st.integers(1, 4))
    drawn = sorted(data.draw(st.lists(tokens, max_size=8)), key=lambda pair: pair[0])
    offsets = [(start, min(size, start + length)) for start, length in drawn]
    special = data.draw(st.sets(st.sampled_from(range(100, 109)), max_size=3))
    cuts = data.draw(st.lists(st.tuples(*[st.integers(0, size - 1)] * 2), max_size=4))
    spans = [Span(min(cut), max(cut) + 1, delta=2.0**i) for i, cut in enumerate(cuts)]
    tokenizer = fake(offsets, all_special_ids=sorted(special))
    textual = [i for i in range(len(offsets)) if 100 + i not in special]
    expected = [
        sum(s.delta for s in spans if i in textual and start < s.end and end > s.start)
        for i, (start, end) in enumerate(offsets)
    ]
    found = outcome(encode, tokenizer, MarkedText("x" * size, tuple(spans)))
    if isinstance(found, ValueError):
        assert "matches no token" in str(found)
    else:
        assert found.nats(1.0) == expected


def test_special_tokens_split_a_span():
    encoding = encode(build("byte_level"), "<!!->in</s>French<-!!>", add_special_tokens=False)
    ends = [index for index, token in enumerate(encoding.input_ids) if token == 2]
    assert len(ends) == 1
    assert encoding.nats(1.0)[ends[0]] == 0.0
    assert len(encoding.token_spans) == 2
    assert len(encoding.spans) == 1


def test_unknown_words_are_marked():
    tokenizer = build("word_piece")
    encoding = encode(tokenizer, "<!!->ξ<-!!> the")
    assert encoding.input_ids[1] == tokenizer.unk_token_id
    assert encoding.nats(1.0)[1] == 1.0


def test_unknown_token_that_is_a_boundary_too_stays_special():
    tokenizer = fake([(0, 2), (2, 3)], input_ids=[7, 8], unk_token_id=7, eos_token_id=7)
    tokenizer.all_special_ids = [7]
    assert encode(tokenizer, "<!!->abc<-!!>").nats(1.0) == [0.0, 1.0]


def test_add_special_tokens():
    tokenizer = build("word_piece")
    assert len(encode(tokenizer, "a").input_ids) == 3
    assert len(encode(tokenizer, "a", add_special_tokens=False).input_ids) == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_truncation_keeps_spans_or_raises(name, side, monkeypatch):
    tokenizer = build(name)
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    source = "The quick brown fox jumps over <!!->the lazy dog<-!!> of the house"
    whole = encode(tokenizer, source)
    kept = 0
    for max_length in range(1, len(whole.input_ids) + 2):
        plain = tokenizer(parse(source).text, truncation=True, max_length=max_length)
        result = outcome(encode, tokenizer, source, max_length=max_length)
        if isinstance(result, ValueError):
            assert f"max_length={max_length} cuts the marked text 'the lazy dog'" in str(result)
            continue
        assert result.input_ids == plain["input_ids"]
        assert sum(result.nats(1.0)) == sum(whole.nats(1.0))
        kept += 1
    assert 1 < kept < len(whole.input_ids)


@pytest.mark.parametrize("max_length", [0, -1, 2.0, True, "5"])
def test_bad_max_length(max_length):
    with pytest.raises(ValueError, match="max_length must be a positive int or None, got"):
        encode(build("unigram"), "a", max_length=max_length)


class FakeTokenizer(SimpleNamespace):
    """A tokenizer that answers with given offsets."""

    is_fast = True

    def __call__(self, text, **options):
        return {"input_ids": self.input_ids, "offset_mapping": self.offset_mapping}


def fake(offsets, input_ids=None, **attributes):
    if input_ids is None:
        input_ids = list(range(100, 100 + len(offsets)))
    return FakeTokenizer(offset_mapping=offsets, input_ids=input_ids, **attributes)


@pytest.mark.parametrize(
    ("offsets", "input_ids", "message"),
    [
        ([(0, 4)], [1], r"token 0 at \(0, 4\) in a text of 3 characters"),
        ([(0, 1), (2, 1)], [1, 2], r"token 1 at \(2, 1\)"),
        ([(-1, 1)], [1], r"token 0 at \(-1, 1\)"),
        ([(2, 3), (0, 1)], [1, 2], r"token 1 at \(0, 1\), before the token that precedes it"),
        ([(0, 1)], [1, 2], "1 offsets for 2 tokens"),
    ],
)
def test_offsets_that_contradict_the_text(offsets, input_ids, message):
    with pytest.raises(ValueError, match=message):
        encode(fake(offsets, input_ids), "<!!->abc<-!!>")


def test_tokenizer_without_real_offsets():
    with pytest.raises(ValueError, match=r"'abc' at characters \[0, 3\) matches no token"):
        encode(fake([(0, 0), (3, 3)]), "<!!->abc<-!!>")


def test_trimmed_prefix_space_behind_its_word():
    assert encode(fake([(0, 2), (3, 3), (2, 3)]), "ab<!!->c<-!!>").nats(1.0) == [0.0, 0.0, 1.0]


def test_long_quotes_are_cut():
    with pytest.raises(ValueError, match=r"'x{59}…' at characters"):
        encode(fake([]), f"<!!->{'x' * 300}<-!!>")


def test_overlapping_tokens():
    """Tokens of one character that a tokenizer splits and joins with others, ends not ascending."""
    encoding = encode(fake([(0, 4), (1, 2), (1, 3), (3, 4)]), "a<!!->b<-!!>cd")
    assert encoding.nats(1.0) == [1.0, 1.0, 1.0, 0.0]
    assert encode(fake([(0, 4), (1, 2), (3, 4)]), "ab<!!->c<-!!>d").nats(1.0) == [1.0, 0.0, 0.0]


def test_slow_tokenizer():
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"must be a fast tokenizer.*tokenizer\.json"):
        encode(slow, "a")
    with pytest.raises(ValueError, match=r"must be a fast tokenizer.*tokenizer\.json"):
        encode(object(), "a")


def test_processor_instead_of_tokenizer():
    processor = SimpleNamespace(tokenizer=build("unigram"))
    with pytest.raises(ValueError, match=r"processor\.tokenizer"):
        encode(processor, "a")


def test_bad_text():
    with pytest.raises(TagError):
        encode(build("unigram"), "<!->a")
    with pytest.raises(TypeError, match="must be a str, got list"):
        encode(build("unigram"), ["a"])


def test_marked_text_is_not_parsed_again():
    encoding = encode(build("byte_level"), mark("a <!-> b", substring="b", level=2))
    assert encoding.text == "a <!-> b"
    assert sum(encoding.nats(1.0)) == 1.0


def test_mark_tokens():
    encoding = encode(build("word_piece"), "<!!->you<-!!> are")
    changed = mark_tokens(encoding, 0, 2, delta=0.5)
    assert changed.nats(1.0) == [0.5, 1.5, 0.0, 0.0]
    assert encoding.nats(1.0) == [0.0, 1.0, 0.0, 0.0]
    assert mark_tokens(encoding, 3, 4, group="end").groups() == {"end": [False, False, False, True]}
    with pytest.raises(ValueError, match="end must be at most 4 tokens, got 5"):
        mark_tokens(encoding, 3, 5, level=1)
    with pytest.raises(ValueError, match="0 <= start < end"):
        mark_tokens(encoding, 3, 3, level=1)
    with pytest.raises(ValueError, match="exactly one of level, delta and group"):
        mark_tokens(encoding, 2, 3)
    with pytest.raises(ValueError, match="delta_mid must be a finite number"):
        encoding.nats(float("nan"))
