# SPDX-License-Identifier: MIT
"""Time over size: text of others must not be able to stop the reader, nor many marks the user.

Every input is measured at two sizes, eight times apart: linear work takes eight times as long,
quadratic work 64 times. What is asserted is the ratio of CPU times, half-way between.
"""

import re
import time
from itertools import product

import pytest
from tokenizers_zoo import build

from guide_ext.marking.chat import encode_chat
from guide_ext.marking.spans import MarkedText, Span, TagError, escape, mark, parse
from guide_ext.steering.batch import collate
from guide_ext.steering.steering import Steering
from guide_ext.tokens import encode

FACTOR = 8
LIMIT = 24
# Below this, a clock says little: a millisecond is some 10,000 steps of the slowest reader here.
LEAST_SECONDS = 1e-3


def grows_linearly(run, make, size):
    """Tell whether `run(make(8 · size))` takes about 8 times as long as `run(make(size))`."""

    def seconds(value):
        start = time.process_time()
        run(value)
        return time.process_time() - start

    small, large = make(size), make(FACTOR * size)
    for _attempt in range(3):  # a disturbed measurement is repeated
        taken = seconds(large)
        if taken <= LIMIT * LEAST_SECONDS or taken <= LIMIT * seconds(small):
            return True
    return False


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


@pytest.mark.parametrize("inside", ["", "a", " ", "\n", " a ", "\\", "<!1"])
@pytest.mark.parametrize("opening", OPENING)
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

SHAPES = {
    "neighbours": lambda n: "The cat <!!->sleeps<-!!> in the barn. " * n,
    "several kinds": lambda n: "<!->The<-!> <!!->cat<-!!> <!2.5->sleeps<-!> <?a->here<-?a>. " * n,
    "inside words": lambda n: "un<!!->believ<-!!><!!->ably<-!!> " * n,
    "nested": lambda n: "<!->" * n + "a cat" + "<-!>" * n,
    "nested, with text": lambda n: "<!0.01->a cat " * n + "<-!>" * n,
    "nested, with space": lambda n: "<!0.01-> " * n + "a" + " <-!>" * n,
    "one around all": lambda n: "<?->" + "<!!->cat<-!!> " * n + "<-?>",
    "crossing": lambda n: MarkedText(
        "cat " * 2 * n, tuple(Span(4 * i, 4 * (i + n), delta=0.01) for i in range(n))
    ),
    "by substring": lambda n: mark("cat and dog " * n, substring="cat", level=2),
}


def steered(encoding):
    """Turn marks into numbers in every way."""
    for steering in (Steering.guide(2.0), Steering.pasta(0.01), Steering.instaboost(5.0)):
        collate([encoding], steering, num_layers=1, num_heads=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_text(shape):
    tokenizer = build("byte_level")
    assert grows_linearly(lambda text: steered(encode(tokenizer, text)), SHAPES[shape], 250)


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
        assert grows_linearly(lambda chat: steered(encode_chat(tokenizer, chat)), make, 250)


def test_special_tokens_between_marks():
    tokenizer = build("byte_level")
    special = tokenizer.eos_token
    for make in (
        lambda n: f"<!!->cat {special} dog<-!!> " * n,
        lambda n: "<!!->" + f"cat {special} " * n + "<-!!>",
    ):
        assert grows_linearly(lambda text: steered(encode(tokenizer, text)), make, 250)
