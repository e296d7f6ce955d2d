# SPDX-License-Identifier: MIT
"""What each token adds to a text: of a whole text, or one token after the other."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any

_UNKNOWN = "\ufffd"  # what decoders write for bytes that are no character, or not one yet
_MOST_UNFINISHED = 3  # bytes of a character in UTF-8, of which a decoder may show each
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Tokens of context: a character has at most four bytes and so at most four tokens, and two more
# tokens show what is around it.
_CONTEXT = 6
_BLOCK = 16  # tokens that are decoded together
_MOST_IN_A_BLOCK = 64


class TokenTexts:
    r"""The text of each token as it comes.

    A token gets the characters that it completes. In vocabularies with tokens for single bytes, a
    run of those is text only if all of it is UTF-8, which its end alone tells; a character is told
    with its last byte, as if the run went on well. `token_texts`, which sees the end, differs where
    it does not, and where a text itself holds U+FFFD.

    Args:
        tokenizer: The tokenizer.
        before: Ids of the tokens in front, such as those of a prompt.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> _, tokenizer = load_embedded()
        >>> ids = tokenizer("the cat 🙂", add_special_tokens=False)["input_ids"]
        >>> texts = TokenTexts(tokenizer, ids[:1])
        >>> "".join(texts.take(token) for token in ids[1:])
        ' cat 🙂'

    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._known = ""  # the part of their text that was given out
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._is_in_bytes = False
        for token in before[-_BLOCK:]:
            self.take(token)

    def take(self, token: int, *, is_last: bool = False) -> str:
        """Return what a token adds.

        Args:
            token: Its id.
            is_last: Whether none follows, so that nothing can be completed any more.

        """
        value = _byte(self._tokenizer, token)
        self._ids.append(token)
        if value is not None:
            self._is_in_bytes = True
            try:
                return self._bytes.decode(bytes([value]), final=is_last)
            except UnicodeDecodeError:
                self._bytes.reset()
                return _UNKNOWN
        if self._is_in_bytes:
            self._is_in_bytes = False
            self._bytes.reset()
            self._known = _decode(self._tokenizer, self._ids[:-1])
        now = _decode(self._tokenizer, self._ids)
        whole = now if is_last else _finished(now)
        new = whole[_shared(whole, self._known) :]
        self._known = max(self._known, whole, key=len)
        if len(self._ids) > 2 * _BLOCK and (whole == now or len(self._ids) > _MOST_IN_A_BLOCK):
            del self._ids[:-_BLOCK]
            self._known = _finished(_decode(self._tokenizer, self._ids))
        return new


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text; together, what the tokenizer decodes from all.

    Tokens are decoded in context. Decoded alone, tokens of many vocabularies lose their spaces, and
    a character that several tokens share is lost. Here the last of these tokens gets the character,
    and the others get an empty text.

    Args:
        tokenizer: The tokenizer.
        token_ids: Ids, including those of special tokens.

    Returns:
        One text per token.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> _, tokenizer = load_embedded()
        >>> token_texts(tokenizer, tokenizer("the cat")["input_ids"][-2:])
        ['the', ' cat']

    """
    ids = list(token_ids)
    kinds = {token: _byte(tokenizer, token) for token in set(ids)}
    values = [kinds[token] for token in ids]
    found: list[str] = []
    first = 0
    while first < len(ids):
        start = max(0, first - _CONTEXT)
        last = _end_of_block(tokenizer, ids, values, first)
        found += _in_block(tokenizer, ids[start:last], values[start:last], first - start)
        first = last
    if "".join(found) != _decode(tokenizer, ids):
        # A decoder that looks further than the context: all must be seen at once, which takes long.
        return _in_block(tokenizer, ids, values, 0)
    return found


def _end_of_block(
    tokenizer: Any, ids: Sequence[int], values: Sequence[int | None], first: int
) -> int:
    """Return where a block can end: not in a run of bytes, and in no character."""
    start = max(0, first - _CONTEXT)
    last = min(first + _BLOCK, len(ids))
    while last < len(ids):
        if values[last - 1] is not None and values[last] is not None:
            last += 1
            continue
        text = _decode(tokenizer, ids[start:last])
        is_whole = _decode(tokenizer, ids[start : last + _CONTEXT]).startswith(text)
        if is_whole or last - first > _MOST_IN_A_BLOCK:
            break
        last += 1
    return last


def _in_block(
    tokenizer: Any, ids: Sequence[int], values: Sequence[int | None], first: int
) -> list[str]:
    """Return the texts of all tokens from one on; those in front are its context."""
    text = _decode(tokenizer, ids)
    place = _shared(text, _decode(tokenizer, ids[:first]))
    found: list[str] = []
    while first < len(ids):
        last = first + 1
        while values[first] is not None and last < len(ids) and values[last] is not None:
            last += 1
        # All that the tokens so far agree on with the whole is theirs.
        end = len(text)
        if last < len(ids):
            end = _shared(text, _decode(tokenizer, ids[:last]))
        end = max(end, place)
        run = bytes(value for value in values[first:last] if value is not None)
        found += _of_bytes(run, text[place:end]) if run else [text[place:end]]
        first, place = last, end
    return found


def _of_bytes(run: bytes, text: str) -> list[str]:
    r"""Return which part of the text of a run each of its bytes adds.

    Example:
        >>> _of_bytes("aé".encode(), "aé"), _of_bytes(b"a\xc3", "\ufffd\ufffd") == ["\ufffd"] * 2
        (['a', '', 'é'], True)

    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(bytes([value])) for value in run]
    if "".join(texts) == text:
        return texts
    if len(text) == len(run):
        return list(text)
    # Some decoders take a space away at the beginning.
    return [""] * (len(run) - 1) + [text]


def _byte(tokenizer: Any, token: int) -> int | None:
    """Return the byte that a token stands for, if it is one for a single byte."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    found = _BYTE.fullmatch(name)
    # Without a decoder for bytes, it is a word like others.
    return int(found[1], 16) if found and _decode(tokenizer, [token]) != name else None


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _finished(text: str) -> str:
    """Return a text without what may be the first bytes of a character at its end."""
    return text[: max(len(text.rstrip(_UNKNOWN)), len(text) - _MOST_UNFINISHED)]


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
