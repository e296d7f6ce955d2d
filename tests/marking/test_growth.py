# SPDX-License-Identifier: MIT
"""Time over size: text of others must not stop the reader, nor many marks the user."""

import re
from itertools import product

import pytest
from growth_of_time import SHAPES, grows_linearly
from tokenizers_zoo import build

from guide_ext.marking.chat import encode_chat
from guide_ext.marking.spans import MarkedText, TagError, escape, parse
from guide_ext.tokens import encode


def test_quadratic_time_is_seen():
    splits = re.compile(r"[0-9]+\.?[0-9]*x")
    assert not grows_linearly(splits.match, lambda size: "1" * size, 2000)
    assert grows_linearly(re.compile(r"[0-9]+x").match, lambda size: "1" * size, 2000)


# ---- the grammar: every form, its prefixes, its classes of characters

OPENING = {
    "<!->": "<-!>",
    "<!!->": "<-!!>",
    "<!!!->": "<-!!!>",
    "<!2.5->": "<-!>",
    "<!-.5e-3->": "<-!>",
    "<!+1.e+3->": "<-!>",
    "<?->": "<-?>",
    "<?rule-1.a_b->": "<-?rule-1.a_b>",
}
REFUSED = ["<!2,5->", "<!!2->", "<!!!!->", "<?-a->", "<-!2.5e-3>", "<-!!!!>", "<-?a->"]
LOOKALIKES = ["<!-- -->", "<!DOCTYPE>", "<?php $a->b ?>"]
FORMS = [*OPENING, *dict.fromkeys(OPENING.values()), *REFUSED, *LOOKALIKES]
PREFIXES = sorted({form[:length] for form in FORMS for length in range(1, len(form) + 1)})
CLASSES = ["<", ">", "!", "?", "-", "+", ".", "1", "e", "a", "_", "%", ",", "é", " ", "\n", "\\"]
ENDINGS = ["", ">", "->", "e1>"]


def read(text):
    """Read a text in every way, and the message of an error too."""
    try:
        parse(text)
    except TagError as error:
        str(error)
    escape(text)


def check_reading(patterns):
    """Check texts of two sizes; `patterns` are (first, repeated, last) pieces."""
    for first, repeated, last in patterns:
        length = len(repeated)

        def make(size, parts=(first, repeated, last), length=length):
            return parts[0] + parts[1] * (size // length) + parts[2]

        assert grows_linearly(read, make, 1000), (first, repeated, last)
        assert parse(escape(make(50))) == MarkedText(make(50))


@pytest.mark.parametrize("character", CLASSES)
def test_any_prefix_and_a_run_of_characters(character):
    check_reading(product([*PREFIXES, "\\", "<?a<!1"], [character], ENDINGS))


@pytest.mark.parametrize("character", CLASSES)
def test_runs_of_any_prefix(character):
    check_reading(("", prefix + character, "") for prefix in PREFIXES)


@pytest.mark.parametrize("slashes", ["\\", "\\\\", "\\\\\\"])
def test_escapes(slashes):
    check_reading(product(["", "a"], [slashes + form for form in FORMS], ["", "\\"]))


# Every opening with half of what may be inside, and every inside with half of the openings.
INSIDE = ["", "a", " ", "\n", " a ", "\\", "<!1"]
PAIRS = [
    (opening, inside)
    for i, opening in enumerate(OPENING)
    for j, inside in enumerate(INSIDE)
    if (i + j) % 2 == 0
]


@pytest.mark.parametrize(("opening", "inside"), PAIRS)
def test_nested_neighbouring_and_unbalanced(opening, inside):
    closing = OPENING[opening]
    shapes = {
        "nested": lambda n: (opening + inside) * n + "a" + (inside + closing) * n,
        "neighbours": lambda n: (opening + inside + "a" + closing + inside) * n,
        "one around all": lambda n: "<!->" + (opening + "a" + closing + inside) * n + "<-!>",
        "never closed": lambda n: (opening + inside) * n,
        "never opened": lambda n: opening + "a" + (inside + closing) * n,
        "crossing": lambda n: (opening + "a<!3->") * n + (inside + closing + "<-!>") * n,
    }
    for name, make in shapes.items():
        assert grows_linearly(read, make, 100), name


# ---- marks become tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_text(shape):
    tokenizer = build("byte_level")
    assert grows_linearly(lambda text: encode(tokenizer, text), SHAPES[shape], 250)


def test_a_great_many_marks():
    """Where comparing each mark with every other one, quick as that is, would show."""
    tokenizer = build("byte_level")
    assert grows_linearly(lambda text: encode(tokenizer, text), SHAPES["neighbours"], 2000)


@pytest.mark.parametrize("shape", SHAPES)
def test_chat(shape):
    tokenizer = build("byte_level")
    for make in (
        lambda n: [{"role": "user", "content": SHAPES[shape](n)}],
        lambda n: [{"role": "user", "content": SHAPES[shape](1)}] * n,
    ):
        assert grows_linearly(lambda chat: encode_chat(tokenizer, chat), make, 250)


def test_special_tokens_between_marks():
    tokenizer = build("byte_level")
    special = tokenizer.eos_token
    for make in (
        lambda n: f"<!!->cat {special} dog<-!!> " * n,
        lambda n: "<!!->" + f"cat {special} " * n + "<-!!>",
    ):
        assert grows_linearly(lambda text: encode(tokenizer, text), make, 250)
