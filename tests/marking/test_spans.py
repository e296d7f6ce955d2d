# SPDX-License-Identifier: MIT
"""The tag grammar: what parses, what is refused and where, what passes unchanged."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_documents import TAG_SOUP, marked_documents, outcome

from guide_ext.marking.spans import DEFAULT_GROUP, MarkedText, Span, TagError, escape, mark, parse

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def pieces(marked: MarkedText) -> list[tuple[str, object]]:
    """What is marked, and how: the text of each span with the one value that is set."""
    return [
        (
            marked.text[span.start : span.end],
            next(value for value in span.kind if value is not None),
        )
        for span in marked.spans
    ]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("<!->a<-!>", "a", [("a", 1)]),
        ("<!!->a<-!!>", "a", [("a", 2)]),
        ("<!!!->a<-!!!>", "a", [("a", 3)]),
        ("<!2.5->a<-!>", "a", [("a", 2.5)]),
        ("<!-1.5->a<-!>", "a", [("a", -1.5)]),
        ("<!+2->a<-!>", "a", [("a", 2.0)]),
        ("<!.5->a<-!>", "a", [("a", 0.5)]),
        ("<!2.->a<-!>", "a", [("a", 2.0)]),
        ("<!1e-2->a<-!>", "a", [("a", 0.01)]),
        ("<!0->a<-!>", "a", [("a", 0.0)]),
        ("<?->a<-?>", "a", [("a", DEFAULT_GROUP)]),
        ("<?rule->a<-?rule>", "a", [("a", "rule")]),
        ("<?rule-1.b_2->a<-?rule-1.b_2>", "a", [("a", "rule-1.b_2")]),
        ("<?règle->a<-?règle>", "a", [("a", "règle")]),
        ("<?नियम->a<-?नियम>", "a", [("a", "नियम")]),
        ("x <!-> a b <-!> y", "x  a b  y", [("a b", 1)]),
        ("<!->a\n\nb\r\n<-!>c", "a\n\nb\r\nc", [("a\n\nb", 1)]),
        ("un<!->believ<-!>able", "unbelievable", [("believ", 1)]),
        ("<!->a<-!><!->b<-!>", "ab", [("a", 1), ("b", 1)]),
        ("<!->a <!!->b<-!!> c<-!>", "a b c", [("a b c", 1), ("b", 2)]),
        ("<!-><!->a<-!> b<-!>", "a b", [("a b", 1), ("a", 1)]),
        ("<!-><!3->a<-!><-!>", "a", [("a", 1), ("a", 3.0)]),
        ("<?q-><!!->a<-!!> b<-?q>", "a b", [("a b", "q"), ("a", 2)]),
        ("<?a-><?b->x<-?b><-?a>", "x", [("x", "a"), ("x", "b")]),
        ("<!->👨‍👩‍👧<-!> 日<!!->本<-!!>", "👨‍👩‍👧 日本", [("👨‍👩‍👧", 1), ("本", 2)]),
        ("", "", []),
    ],
)
def test_parse(source, text, expected):
    marked = parse(source)
    assert marked.text == text
    assert pieces(marked) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<- -> <-> <--> --> <=> <!> <?> <!",
        "<!DOCTYPE html><html></html>",
        "<!-- a comment --><!--tight--><!--> <!---> <!--->",
        "<!--[if IE]><!-->text<!--<![endif]-->",
        "<![CDATA[pointer->field]]>",
        "<?xml version='1.0'?> <?php $a->b; ?> <?=$a->b?> <?= f()->g ?>",
        "x <- !y; x<-!y>z; a<-!(b>c); p->q",
        "< !-> <! -> <!- > <! !-> <-! > <- !> <? name-> <?a b->",
        "std::vector<int>::iterator->x, a<b>c, 1 <-1>0",
        "∀x<y → z, ← ↔ ⇐, f: A -> B, a <-> b, <|im_start|>user<|im_end|>",
        "C:\\path\\<dir>\\ \\\\ \\n \\",
        "<<<<<<< HEAD >>>>>>>",
    ],
)
def test_lookalikes_are_text(text):
    assert parse(text) == MarkedText(text)
    assert escape(text) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\<!->", "<!->"),
        (r"\<-!>", "<-!>"),
        (r"\<?name->", "<?name->"),
        (r"\<!abc->", "<!abc->"),
        (r"\<!!!!->", "<!!!!->"),
        (r"\\\<!->", "\\<!->"),
        (r"\\<!->a<-!>", "\\a"),
        (r"a\\b \ \\ <x>", r"a\\b \ \\ <x>"),
        (r"<!->a \<-!> b<-!>", "a <-!> b"),
    ],
)
def test_backslash(source, text):
    assert parse(source).text == text


@pytest.mark.parametrize(
    ("source", "position", "length", "problem", "advice"),
    [
        ("a <!->b", 2, 4, "tag <!-> is never closed", "Close it with <-!>"),
        ("<?q->b", 0, 5, "tag <?q-> is never closed", "Close it with <-?q>"),
        ("<!->a <!2->b<-!>", 0, 4, "tag <!-> is never closed", "Close it with <-!>"),
        ("a<-!!>", 1, 5, "closing tag <-!!> has no opening tag before it", "Open it before"),
        ("a<-?>", 1, 4, "closing tag <-?> has no opening tag before it", "Open it before"),
        ("<!-> a <!!-> b <-!> c <-!!>", 15, 4, "<-!> crosses <!!-> from line 1", "close <!!->"),
        ("<?-> a <!-> b <-?> c <-!>", 14, 4, "<-?> crosses <!-> from line 1", "Tags must nest"),
        ("\n<!->a<-!!>", 6, 5, "does not match <!-> from line 2", "Write <-!> here"),
        ("<?a->x<-?b>", 6, 5, "<-?b> does not match <?a-> from line 1", "Write <-?a> here"),
        ("<?->x<-?marked>", 5, 10, "<-?marked> does not match <?->", "Write <-?> here"),
        ("x<!-><-!>", 1, 4, "<!-> … <-!> marks no text", "Put the text to mark"),
        ("<!-> \n\t\u3000<-!>", 0, 4, "<!-> … <-!> marks no text", "Put the text to mark"),
        ("<!->a<!!-> <-!!><-!>", 5, 5, "<!!-> … <-!!> marks no text", "Put the text"),
        ("<!nan->a<-!>", 0, 7, "'nan' in <!nan-> is not a finite number", "State the bias"),
        ("<!inf->a<-!>", 0, 7, "'inf' in <!inf-> is not a finite number", "State the bias"),
        ("<!-inf->a<-!>", 0, 8, "'-inf' in <!-inf-> is not a finite number", "State the bias"),
        ("<!1e999->a<-!>", 0, 9, "'1e999' in <!1e999-> is not a finite", "State the bias"),
        ("<!2,5->a<-!>", 0, 7, "'2,5' in <!2,5-> is not a finite", "with a point"),
        ("<!1_0->a<-!>", 0, 7, "'1_0' in <!1_0-> is not a finite", "State the bias"),
        ("<!２->a<-!>", 0, 5, "'２' in <!２-> is not a finite", "State the bias"),
        ("<!50%->a<-!>", 0, 7, "'50%' in <!50%-> is not a finite", "State the bias"),
        ("<!1.2.3->a<-!>", 0, 9, "'1.2.3' in <!1.2.3-> is not a finite", "State the bias"),
        ("<!loud->a<-!>", 0, 8, "'loud' in <!loud-> is not a finite", r"write \<!loud->"),
        ("<!!2->a<-!!>", 0, 6, "<!!2-> mixes a level and a number", "<!2-> … <-!>"),
        ("<!!!!->a<-!!!!>", 0, 7, "<!!!!-> has 4 exclamation marks", "Use <!->"),
        ("a<-!!!!>", 1, 7, "<-!!!!> has 4 exclamation marks", "Use <!->"),
        ("<!2->a<-!2>", 6, 5, "a closing tag carries no number", "Close <!number-> with <-!>"),
        ("<?-a->x<-?-a>", 0, 6, "'-a' in <?-a-> is not the name of a group", "letters, digits"),
        ("a<-?.b>", 1, 6, "'.b' in <-?.b> is not the name of a group", "letters, digits"),
    ],
)
def test_bad_tags(source, position, length, problem, advice):
    with pytest.raises(TagError) as caught:
        parse(source)
    error = caught.value
    assert (error.position, error.length) == (position, length)
    assert problem in error.problem
    assert advice in error.advice
    assert source[error.position : error.position + error.length] in str(error)


def test_error_shows_the_place():
    source = "first line\nsecond 日本 é\u0301 <!-> never closed\nthird"
    with pytest.raises(TagError) as caught:
        parse(source)
    error = caught.value
    assert (error.line, error.column) == (2, 14)
    text, caret = error.excerpt.split("\n")
    assert text == "second 日本 é\u0301 <!-> never closed"
    # Wide characters take two columns of a terminal, combining ones none.
    assert caret == " " * 14 + "^^^^"
    assert str(error) == (
        "tag <!-> is never closed, at line 2, column 14 (position 24)\n"
        f"  {text}\n  {caret}\n"
        "Close it with <-!>, or write \\<!-> for the literal text."
    )
    assert str(error.within("messages[3]")).startswith("messages[3]: tag <!-> is never closed, at")


def test_error_excerpt_is_short_and_printable():
    with pytest.raises(TagError) as caught:
        parse("\x1b[31m\t" + "x" * 30 + "<!->" + "y" * 1000)
    text, caret = caught.value.excerpt.split("\n")
    assert text == "�[31m " + "x" * 30 + "<!->" + "y" * 30
    assert caret == " " * 36 + "^^^^"


def test_error_survives_pickle_and_copy():
    with pytest.raises(TagError) as caught:
        parse("a\n<!->")
    for clone in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert str(clone) == str(caught.value)
        assert isinstance(clone, ValueError)


@PROPERTY
@given(st.lists(st.text("<!->?\\a") | st.text(), max_size=6))
def test_strings_added_to_marked_text_are_inert_whatever_their_edges(pieces):
    prompt = sum(pieces, parse("<!->x<-!>\\"))
    assert prompt.text == "x\\" + "".join(pieces)
    assert len(prompt.spans) == 1


@PROPERTY
@given(st.lists(st.text("<!->?\\a") | TAG_SOUP | st.text(), max_size=6), st.sampled_from(" \n\t"))
def test_texts_that_are_escaped_apart_are_inert_with_space_between(pieces, space):
    escaped = space.join(escape(piece) for piece in pieces)
    assert parse(escaped) == MarkedText(space.join(pieces))


@PROPERTY
@given(TAG_SOUP | st.text())
def test_escape_makes_any_text_inert(text):
    assert parse(escape(text)) == MarkedText(text)
    assert parse(escape(escape(text))).text == escape(text)


@PROPERTY
@given(TAG_SOUP, st.text("ab \n", max_size=5))
def test_escaped_text_is_inert_inside_tags_too(text, words):
    source = f"<!!->x{words}<-!!>{escape(text)}"
    assert parse(source).text == f"x{words}{text}"
    assert len(parse(source).spans) == 1


@PROPERTY
@given(TAG_SOUP)
def test_parse_accepts_or_points_at_the_tag(text):
    result = outcome(parse, text)
    if isinstance(result, MarkedText):
        assert all(result.text[span.start : span.end].strip() for span in result.spans)
        return
    assert isinstance(result, TagError)
    assert text[result.position] == "<"
    assert text[result.position + result.length - 1] == ">"
    assert result.excerpt.endswith("^" * result.length)


@PROPERTY
@given(marked_documents())
def test_parse_finds_what_was_marked(document):
    marked = parse(document.source)
    assert marked.text == document.text
    assert [(span.delta, set(range(span.start, span.end))) for span in marked.spans] == [
        (delta, set(range(min(inked), max(inked) + 1))) for delta, inked in document.marks
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0), ValueError, r"0 <= start < end, got \[0, 0\)"),
        ((-1, 2), ValueError, r"0 <= start < end, got \[-1, 2\)"),
        ((0.0, 2), TypeError, "start must be an int, got 0.0"),
        ((0, True), TypeError, "end must be an int, got True"),
        ((0, 1, None), ValueError, "exactly one of level, delta and group"),
        ((0, 1, 1, 2.0), ValueError, "exactly one of level, delta and group"),
        ((0, 1, 4), ValueError, "level must be 1, 2 or 3, got 4"),
        ((0, 1, True), ValueError, "level must be 1, 2 or 3, got True"),
        ((0, 1, None, float("nan")), ValueError, "delta must be a finite number of nats, got nan"),
        ((0, 1, None, float("inf")), ValueError, "delta must be a finite number of nats, got inf"),
        ((0, 1, None, "2"), ValueError, "delta must be a finite number of nats, got '2'"),
        ((0, 1, None, 10**400), ValueError, "delta must be a finite number of nats, got 1000"),
        ((0, 1, None, True), ValueError, "delta must be a finite number of nats, got True"),
        ((0, 1, None, None, ""), ValueError, "group must be a name of letters"),
        ((0, 1, None, None, "a b"), ValueError, "group must be a name of letters"),
        ((0, 1, None, None, 7), ValueError, "group must be a name of letters"),
    ],
)
def test_span_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Span(*arguments)


def test_span_nats():
    assert [Span(0, 1, level=level).nats(3.0) for level in (1, 2, 3)] == [1.5, 3.0, 6.0]
    assert Span(0, 1, delta=-4).nats(3.0) == -4.0
    assert Span(0, 1, group="a").nats(3.0) == 0.0
    for delta_mid in (float("nan"), float("inf"), "1", None):
        with pytest.raises(ValueError, match="delta_mid must be a finite number of nats"):
            Span(0, 1, level=1).nats(delta_mid)


@pytest.mark.parametrize(
    ("text", "spans", "error", "message"),
    [
        (b"abc", (), TypeError, "text must be a str, got bytes"),
        ("abc", ((0, 1),), TypeError, "spans must be Span objects"),
        ("abc", (Span(1, 4, level=1),), ValueError, r"\[1, 4\) leaves the text of 3 characters"),
        ("a  b", (Span(1, 3, level=1),), ValueError, "nothing but white space: '  '"),
    ],
)
def test_marked_text_refuses(text, spans, error, message):
    with pytest.raises(error, match=message):
        MarkedText(text, spans)


def test_joining():
    joined = "a <!-> " + parse("<!!->b<-!!>") + " c" + mark("d", delta=1.0)
    assert joined.text == "a <!-> b cd"
    assert pieces(joined) == [("b", 2), ("d", 1.0)]
    with pytest.raises(TypeError):
        joined + 1


def test_mark():
    text = "aXa Xa"
    everything = [(span.start, span.end) for span in mark(text, substring="a", level=1).spans]
    assert everything == [(0, 1), (2, 3), (5, 6)]
    assert mark(text, substring="a", occurrence="first", level=1).spans == (Span(0, 1, 1),)
    assert mark(text, substring="a", occurrence=3, level=1).spans == (Span(5, 6, 1),)
    assert mark(text, range=(1, 4), delta=2.0).spans == (Span(1, 3, delta=2.0),)
    assert mark(text, group="all").spans == (Span(0, 6, group="all"),)
    assert mark("aaa", substring="aa", level=1).spans == (Span(0, 2, 1),)
    twice = mark(mark(text, level=1), substring="X", occurrence=2, level=3)
    assert pieces(twice) == [("aXa Xa", 1), ("X", 3)]
    assert mark("<!->a", substring="a", level=1).text == "<!->a"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"level": 1, "substring": "z"}, ValueError, "'z' does not occur in the text of 9"),
        ({"level": 1, "substring": " "}, ValueError, "substring must contain more than white"),
        ({"level": 1, "substring": 5}, TypeError, "substring must be a str, got int"),
        ({"level": 1, "substring": "a", "occurrence": 3}, ValueError, "occurs 2 times"),
        ({"level": 1, "substring": "a", "occurrence": 0}, ValueError, "a number from 1, got 0"),
        ({"level": 1, "substring": "a", "occurrence": "last"}, ValueError, "got 'last'"),
        ({"level": 1, "occurrence": 2}, ValueError, "occurrence=2 needs a substring"),
        ({"level": 1, "substring": "a", "range": (0, 1)}, ValueError, "not both"),
        ({"level": 1, "range": (0, 10)}, ValueError, r"0 <= start < end <= 9, got \(0, 10\)"),
        ({"level": 1, "range": (3, 3)}, ValueError, "0 <= start < end <= 9"),
        ({"level": 1, "range": (1.0, 2)}, ValueError, "0 <= start < end <= 9"),
        ({"level": 1, "range": 3}, TypeError, "range must be two numbers"),
        ({"level": 1, "range": (3, 5)}, ValueError, "nothing but white space"),
        ({"substring": "a"}, ValueError, "exactly one of level, delta and group"),
        ({"delta": float("nan")}, ValueError, "delta must be a finite number"),
    ],
)
def test_mark_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        mark("a b  c, a", **arguments)


@pytest.mark.parametrize("function", [parse, escape])
def test_only_text(function):
    with pytest.raises(TypeError, match=r"text must be a str, got NoneType"):
        function(None)
