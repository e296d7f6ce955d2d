# SPDX-License-Identifier: MIT
"""Make control characters visible, so that a text cannot act on the terminal or page that shows it.

This module alone knows which characters these are.
"""

from __future__ import annotations

import re
import unicodedata

# Characters of the class Cf that scripts need inside words: soft hyphen, joiners.
_HARMLESS = "\u00ad\u200c\u200d"
# What a terminal acts on: controls except newline and tab, including C1 (U+009B begins the same
# sequences as ESC [), line separators, and the bidi controls that reorder the text around them.
# Halves of surrogate pairs cannot be written at all. Marks of direction (U+200E, U+200F, U+061C)
# and joiners stay: Hebrew, Arabic and emoji need them, and they affect only their neighbours.
_ACTS_ON_TERMINAL = re.compile(
    "\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Replace every invisible character by a symbol: controls, bidi overrides, half surrogates.

    So nothing that a model writes can hide from a reader or reorder the text around it. Newlines
    and tabs become symbols, too.

    Example:
        >>> visible("a\nb\x00\u202ec")
        'a↵b␀⟨U+202E⟩c'

    """
    return "".join(map(_visible, text))


def for_terminal(text: str) -> str:
    r"""Replace every character that a terminal acts on by a symbol for it.

    Newlines, tabs and ordinary Unicode stay. Characters that could move the cursor, set colours or
    the title, write to the clipboard or reorder text are replaced.

    Example:
        >>> for_terminal("déjà\tvu\r\n\x1b[2Jrm\b\x9b")
        'déjà\tvu\n␛[2Jrm␈⟨U+009B⟩'

    """
    return _ACTS_ON_TERMINAL.sub(
        lambda found: "\n" if found[0] == "\r\n" else _visible(found[0]), text
    )


class TerminalStream:
    r"""`for_terminal` for text that comes in pieces, which may be cut anywhere.

    Each control character is replaced by itself, so no cut can let a sequence through. A carriage
    return at the end of a piece is held back, because the next piece may begin with its newline.

    Example:
        >>> stream = TerminalStream()
        >>> stream.feed("a\r") + stream.feed("\nb\x1b") + stream.feed("[2J\r") + stream.end()
        'a\nb␛[2J␍'

    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return the text that can be shown now."""
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
