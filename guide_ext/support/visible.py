# SPDX-License-Identifier: MIT
"""Characters that act on what shows a text, instead of being shown: one place knows them."""

from __future__ import annotations

import re
import unicodedata

# Characters of the class Cf that scripts need inside words: soft hyphen, joiners.
_HARMLESS = "\u00ad\u200c\u200d"
# What a terminal acts on: controls but newline and tab, C1 among them (U+009B begins the sequences
# that ESC [ begins), line separators, and the bidi controls that turn the text around them. Halves
# of surrogates cannot be written at all. Marks of direction (U+200E, U+200F, U+061C) and joiners
# stay: Hebrew, Arabic and emoji need them, and they reach no further than their neighbours.
_ACTS_ON_TERMINAL = re.compile(
    "\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Return text of which nothing is invisible: controls, bidi overrides, halves of surrogates.

    Whatever a model writes can so neither hide from a reader nor turn the text around it.

    Example:
        >>> visible("a\nb\x00\u202ec")
        'a↵b␀⟨U+202E⟩c'

    """
    return "".join(map(_visible, text))


def for_terminal(text: str) -> str:
    r"""Return text that a terminal shows and does not obey.

    Newlines, tabs and ordinary Unicode stay; what would move the cursor, set colours or the title,
    write to the clipboard or turn the text around becomes a symbol of itself.

    Example:
        >>> for_terminal("déjà\tvu\r\n\x1b[2Jrm\b\x9b")
        'déjà\tvu\n␛[2Jrm␈⟨U+009B⟩'

    """
    return _ACTS_ON_TERMINAL.sub(
        lambda found: "\n" if found[0] == "\r\n" else _visible(found[0]), text
    )


class TerminalStream:
    r"""`for_terminal` for text that comes in pieces, wherever they are cut.

    Every character is made harmless alone, so that no cut can save a sequence; a piece that ends in
    a carriage return waits for the next one, which may begin with its newline.

    Example:
        >>> stream = TerminalStream()
        >>> stream.feed("a\r") + stream.feed("\nb\x1b") + stream.feed("[2J\r") + stream.end()
        'a\nb␛[2J␍'

    """

    def __init__(self) -> None:
        """Begin with nothing held back."""
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what of the text so far can be shown."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return for_terminal(text.removesuffix(self._held))

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return for_terminal(held)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return "↵" if character == "\n" else "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return f"⟨U+{code:04X}⟩" if hidden and character not in _HARMLESS else character
