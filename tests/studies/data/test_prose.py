# SPDX-License-Identifier: MIT
"""Prose is found, and everything else is left out."""

import pytest

from guide_ext.studies.data.prose import LONGEST, paragraphs_of

# Long enough on its own, so that what is added decides.
PLAIN = (
    "An object that supports this is asked for its value once and keeps it for as long as the "
    "program runs, unless somebody takes it away."
)


def wrapped(text, indent=""):
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > 70:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(indent + line for line in lines)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (wrapped(PLAIN), [PLAIN]),
        (wrapped(PLAIN, "   "), [PLAIN]),
        (PLAIN.replace(" once", "  once").replace("keeps", "\tkeeps"), [PLAIN]),
        (f"Headings\n********\n\n{PLAIN}\n\nMore\n====\n\nEven more\n---------", [PLAIN]),
        (f"{PLAIN} For example:\n\n   x = 1\n   print(x)\n", [PLAIN]),
        (f"{PLAIN} For example::\n\n   x = 1\n", [PLAIN]),
        (f'{PLAIN} So "a == b" is true.', [PLAIN]),
        (f"{PLAIN} Then f(a, b) is called. It returns.", [PLAIN]),
        (f"{PLAIN} (It is big. It is x=1 too.) And so on.", [PLAIN]),
        (f"{PLAIN} This holds for some, e.g. Numbers, too.", None),
        (f"{PLAIN} This holds for some, e.g. Numbers with x=1.", [PLAIN]),
        (f"{wrapped(PLAIN[:-1])} from\nus. It is so.", None),
        ("\n    ".join(wrapped(f"{PLAIN} {PLAIN}").rsplit("\n", 1)), []),
        (f"{PLAIN} What follows has no end", [PLAIN]),
        (PLAIN.replace("supports", "*supports*"), [PLAIN]),
        (PLAIN.replace("object", "**object**"), [PLAIN]),
        (PLAIN.replace("object", "``object``"), [PLAIN]),
        (PLAIN.replace("object", ":term:`object`"), [PLAIN]),
        (PLAIN.replace("object", ":class:`~object`"), [PLAIN]),
        (PLAIN.replace("object", "`object <https://x.y>`_"), [PLAIN]),
        (PLAIN.replace("value", '"*value*"'), None),
        (PLAIN.replace(" once", " once [3]"), [PLAIN]),
        (PLAIN.replace("for as long", "left-\nhand for as long"), None),
        (PLAIN.replace("for as long", "single-\nor double for as long"), None),
        (f"* {wrapped(PLAIN, '  ')[2:]}\n* {PLAIN[::-1]}", [PLAIN]),
        (f"1. {wrapped(PLAIN, '   ')[3:]}\n\n   {PLAIN.replace('once', 'twice')}",
         [PLAIN, PLAIN.replace("once", "twice")]),
        (f"Term of a list\n{wrapped(PLAIN, '   ')}", [PLAIN]),
        (f"**PEP 3132** - Unpacking\n{wrapped(PLAIN, '   ')}", []),
        (f"Note: {PLAIN}", [PLAIN]),
        (f"Changed in version 3.8: {PLAIN}", []),
        (f"Added in version 3.8: {PLAIN}", []),
        (f"[1] {PLAIN}", []),
        (f"See also: {PLAIN}", []),
        (f"   name ::= {PLAIN}", []),
        (f"   name: {PLAIN}\n         | {PLAIN}", []),  # a grammar as Python 3.14 writes it
        (f"+----+----+\n| {PLAIN} | |\n+----+----+", []),
        (f">>> {PLAIN}\n{PLAIN}", []),
        ("   for x in y:\n       print(x)\n" * 9, []),
        (f"object.__new__(cls[, ...])\n\n{wrapped(PLAIN, '   ')}", [PLAIN]),
        (PLAIN[:90] + ".", []),
        (PLAIN[0].lower() + PLAIN[1:], []),
        ('It is "a b c d e f g" and "h i j k l m n" and "o p q r s t u v w x y z" and "a b c d e" '
         'and "f g h i j k l m n o p q r s t u v w x y z" and no more.', []),
        ("", []),
    ],
)  # fmt: skip
def test_markup(text, found):
    if found is None:
        found = [" ".join(text.replace("left-\n", "left-").split())]
    assert list(paragraphs_of(text)) == found
    assert list(paragraphs_of(f"{text}\n\n{PLAIN} Always.\n\n"))[-1] == f"{PLAIN} Always."


def test_long_paragraphs_end_with_a_sentence():
    text = " ".join([PLAIN] * 20)
    (found,) = paragraphs_of(wrapped(text))
    assert text.startswith(f"{found} ")
    assert found.endswith(PLAIN)
    assert LONGEST - len(PLAIN) < len(found) <= LONGEST
