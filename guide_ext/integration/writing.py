# SPDX-License-Identifier: MIT
"""From the tokens of an answer to its text, while they come."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character
_MOST_UNFINISHED = 3  # bytes of a character in UTF-8, of which a decoder may show each
_MOST_CONTEXT = 16  # tokens that are decoded again
# A token for one byte, beside tokens for texts.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# What transformers' clean_up_tokenization() writes without its first space.
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Text:
    """The text of tokens, a piece at a time; the pieces together are the text of all.

    Args:
        tokenizer: The model's tokenizer.

    Example:
        >>> from guide_ext import integration as guide
        >>> _, tokenizer = guide.load_embedded()
        >>> text = Text(tokenizer)
        >>> ids = tokenizer("Le chat dort.", add_special_tokens=False)["input_ids"]
        >>> "".join([*map(text.take, ids), text.rest()])
        'Le chat dort.'

    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # What is decoded again at each token: some whose text was given out, because some
        # tokenizers join neighbours, and those that are not a whole character yet.
        self._ids: list[int] = []
        self._given = 0  # of these tokens, how many were whole at the last cut
        self._known = ""  # the part of their text that was given out
        self._in_bytes = False
        self._later = _CLEANED if _is_cleaned(tokenizer) else ()

    def take(self, token: int) -> str:
        """Return what a token adds; nothing while later tokens may change it."""
        self._ids.append(token)
        if self._goes_on_in_bytes(token):
            return ""
        now = self._decoded(self._ids)
        kept = now.rstrip(_UNFINISHED)
        # The last of them may be the first bytes of one character, and become it.
        whole = now[: max(len(kept), len(now) - _MOST_UNFINISHED)]
        whole = whole[: len(whole) - max((overlap(whole, one) for one in self._later), default=0)]
        new, self._known = whole[len(self._known) :], max(self._known, whole, key=len)
        # What is cleaned up depends on all that stands before it.
        if whole == now and not self._later and (new or len(self._ids) > 2 * _MOST_CONTEXT):
            if len(self._ids) > _MOST_CONTEXT:
                del self._ids[: self._given]
                self._known = self._decoded(self._ids)
            self._given = len(self._ids)
        return new

    def rest(self) -> str:
        """Return what is left at the end of an answer."""
        known, self._known = self._known, self._decoded(self._ids)
        return self._known[len(known) :]

    def _goes_on_in_bytes(self, token: int) -> bool:
        """Return whether a run of tokens for single bytes has not ended.

        Decoders write a run as text if all of it is UTF-8; one byte that is not makes every byte of
        the run U+FFFD. So nothing is known of it before its end. Tokens without text do not end it:
        special ones are left out before a text is decoded.
        """
        is_byte = _BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))) is not None
        self._in_bytes = is_byte or (self._in_bytes and not self._decoded([token]))
        return self._in_bytes

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def _is_cleaned(tokenizer: Any) -> bool:
    """Return whether decoding takes spaces away, which it does not where the model is a BPE."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    wanted = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return type(model).__name__ != "BPE" or bool(getattr(tokenizer, wanted, False))


class UntilStop:
    """Passes text on until one of some texts comes, and holds back what may be its beginning.

    Example:
        >>> until = UntilStop(("END",))
        >>> [until.take(piece) for piece in ("a E", "Nd", " b EN", "D c")], until.stopped
        (['a ', 'ENd', ' b ', ''], True)

    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def take(self, piece: str) -> str:
        """Return what can be given out now."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        kept = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Return what was held back, at the end of an answer."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are a beginning of another."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0


class Writer:
    """Follows one answer: tokens in, pieces of text out, until something ends it.

    Args:
        tokenizer: The model's tokenizer.
        most: Most tokens.
        ends: Tokens that end a text.
        stops: Texts that end it; they are not given out.
        push: Called with each piece and what is known of its tokens.

    Attributes:
        reason: Why it ended: ``"stop"`` or ``"length"``; None while it goes on.
        tokens: Number of tokens so far, that of the end included.

    """

    def __init__(
        self,
        tokenizer: Any,
        most: int,
        ends: Sequence[int],
        stops: Sequence[str],
        push: Callable[[str, list[Any]], None],
    ) -> None:
        self._text, self._until = Text(tokenizer), UntilStop(stops)
        self._most, self._ends, self._push = most, frozenset(ends), push
        self._details: list[Any] = []
        self.reason: str | None = None
        self.tokens = 0

    def take(self, token: int, detail: Any = None) -> None:
        """Take the next token, and what is known of it, if anything is asked for."""
        if self.reason is not None:
            return
        self.tokens += 1
        if token in self._ends:
            self._finish("stop")
            return
        if detail is not None:
            self._details.append(detail)
        self._give(self._until.take(self._text.take(token)))
        if self._until.stopped:
            self._finish("stop")
        elif self.tokens == self._most:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        if not self._until.stopped:
            piece = self._until.take(self._text.rest())
            # The last characters may bring what was waited for.
            reason = "stop" if self._until.stopped else reason
            self._give(piece + self._until.rest(), last=True)
        elif self._details:
            self._give("", last=True)
        self.reason = reason

    def _give(self, piece: str, *, last: bool = False) -> None:
        if piece or (last and self._details):
            details, self._details = self._details, []
            self._push(piece, details)
