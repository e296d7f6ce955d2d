# SPDX-License-Identifier: MIT
"""Marked chats: tags in messages, followed through the chat template into tokens.

A chat template is a program and may do anything to a message. So the chat is rendered twice, once
clean and once with sentinels, a unique private-use character at each edge of each span. If the
second rendering without sentinels is the first one, they show where the spans went; if not, the
template is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from guide_ext.marking.marked_text import MarkedText
from guide_ext.marking.sentinels import Mark, located, unused, with_edges
from guide_ext.marking.spans import mark, parse
from guide_ext.marking.tags import TagError
from guide_ext.marking.template_values import with_texts
from guide_ext.marking.tokens import Encoding, FastTokenizer, encode_text, mark_tokens
from guide_ext.marking.unread_tags import (
    refuse_tags_in_argument,
    refuse_tags_of_template,
    refuse_tags_outside_content,
    unread_tags,
    without_tags,
)

__all__ = [
    "ChatTokenizer",
    "Encoding",
    "encode_chat",
    "encode_text",
    "mark_message",
    "mark_tokens",
    "render_chat",
]

Message = Mapping[str, Any]
Chat = Sequence[Message]

_UNTRUSTED = ("error", "literal")
# render_chat sets these or relies on their defaults, so a caller must not pass them on.
_RESERVED = ("tokenize", "padding", "truncation", "return_tensors", "return_dict")


class ChatTokenizer(FastTokenizer, Protocol):
    """A fast tokenizer with a chat template."""

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> Any:
        """Render a conversation."""


def encode_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    *,
    trusted_roles: Collection[str] = ("system", "user"),
    untrusted_tags: str = "error",
    add_generation_prompt: bool | None = None,
    max_length: int | None = None,
    **template_kwargs: Any,
) -> Encoding:
    """Render a chat with its template and find the tokens of every marked span.

    Token ids are those of the same chat without tags. A span that the template repeats is marked
    in every copy.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: Messages with ``role`` and ``content``: text with tags, a :class:`MarkedText`, a
            list of parts (``{"type": "text", "text": ...}``; other parts pass untouched) or None.
        trusted_roles: Roles whose tags act. Text of other roles is never parsed, but a
            :class:`MarkedText` acts in any role, because only a program can make one.
        untrusted_tags: What to do about a tag in another role or in an argument of the template:
            ``"error"`` raises, ``"literal"`` leaves it in the text as it stands.
        add_generation_prompt: End with the header of the answer. Default: yes, unless
            ``continue_final_message`` is given.
        max_length: Cut the prompt to this many tokens; None leaves it whole.
        **template_kwargs: Passed on to ``apply_chat_template``: ``tools``, ``documents``,
            ``chat_template``, ``continue_final_message``, whatever the template knows. Strings in
            them are never parsed, but a :class:`MarkedText` acts in them too.

    Returns:
        Ids, offsets, rendered text, spans of characters and of tokens.

    Raises:
        TagError: If a tag cannot be read, or stands where none is read: in a role that is not
            trusted, in a field of a message that is not its content, in an argument of the
            template (docstrings of tools too), in the template itself.
        ValueError: If the template drops, cuts or transforms marked text, or for the reasons of
            :func:`guide_ext.tokens.encode`.
        TypeError: If ``messages`` is not a list of messages.

    Example:
        >>> from transformers import PreTrainedTokenizerFast
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"?": 0, "user": 1, ":": 2, "Hi": 3, "!": 4}, "?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(
        ...     tokenizer_object=words,
        ...     chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}",
        ... )
        >>> encoding = encode_chat(tokenizer, [{"role": "user", "content": "<!!->Hi<-!!>!"}])
        >>> encoding.text, encoding.input_ids, encoding.nats(1.0)
        ('user: Hi!', [1, 2, 3, 4], [0.0, 0.0, 1.0, 0.0])

    """
    rendered = render_chat(
        tokenizer,
        messages,
        trusted_roles=trusted_roles,
        untrusted_tags=untrusted_tags,
        add_generation_prompt=add_generation_prompt,
        **template_kwargs,
    )
    # A template writes its own special tokens; the tokenizer must not add a second set.
    return encode_text(tokenizer, rendered, add_special_tokens=False, max_length=max_length)


def render_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    *,
    trusted_roles: Collection[str] = ("system", "user"),
    untrusted_tags: str = "error",
    add_generation_prompt: bool | None = None,
    **template_kwargs: Any,
) -> MarkedText:
    """Render a chat with its template and follow the marked spans into the rendered text.

    Args:
        tokenizer: A tokenizer with a chat template; need not be fast.
        messages: See :func:`encode_chat`.
        trusted_roles: See :func:`encode_chat`.
        untrusted_tags: See :func:`encode_chat`.
        add_generation_prompt: See :func:`encode_chat`.
        **template_kwargs: See :func:`encode_chat`.

    Returns:
        The rendered prompt, equal to the rendering of the same chat without tags, and its spans.

    Raises:
        TagError: See :func:`encode_chat`.
        ValueError: If the template drops, cuts or transforms marked text.
        TypeError: If ``messages`` is not a list of messages.

    """
    _check_options(trusted_roles, untrusted_tags, template_kwargs)
    if add_generation_prompt is None:
        add_generation_prompt = not template_kwargs.get("continue_final_message")

    # The chat is rendered more than once, so iterators, which can be read only once, become lists.
    arguments = {
        name: list(value) if isinstance(value, Iterator) else value
        for name, value in template_kwargs.items()
    }
    found = _found_texts(_checked(messages), arguments, trusted_roles, untrusted_tags)
    texts = [text for _, text in found]

    def render(plain: Iterable[str]) -> str:
        following = iter(plain)

        def next_text(_: object) -> str:
            return next(following)

        rendered = tokenizer.apply_chat_template(
            [with_texts(_replace_texts(message, next_text), next_text) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **{name: with_texts(value, next_text) for name, value in arguments.items()},
        )
        return str(rendered)

    plain = [text.text for text in texts]
    clean = render(plain)
    if untrusted_tags == "error":
        hidden = [without_tags(text) for text in plain]
        refuse_tags_of_template(clean if hidden == plain else render(hidden))
    marks = [Mark(place, text.text, span) for place, text in found for span in text.spans]
    if not marks:
        return MarkedText(clean)
    sentinels = unused({*clean, *chain.from_iterable(plain)}, len(marks))
    edges = iter(sentinels)
    rendered = render([with_edges(text, edges) for text in texts])
    return located(clean, rendered, marks, sentinels)


def mark_message(
    messages: Sequence[Message],
    index: int,
    *,
    level: int | None = None,
    delta: float | None = None,
    group: str | None = None,
) -> list[Message]:
    """Mark a whole message of a chat, without tags.

    Plain text is taken literally, including tags in it; give the message ``parse(text)`` as content
    to make them act.

    Args:
        messages: The chat; it is not changed.
        index: Which message; negative numbers count from the end.
        level: Emphasis 1, 2 or 3. Exactly one of level, delta and group is needed.
        delta: Bias in nats.
        group: Influence group.

    Returns:
        The chat with every text of that message marked, for :func:`encode_chat`.

    Raises:
        ValueError: If there is no such message, it has no text, or the strength is not valid.
        TypeError: If ``messages`` is not a list of messages.

    Example:
        >>> chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
        >>> mark_message(chat, 0, level=2)[0]["content"].spans
        (Span(start=0, end=9, level=2, delta=None, group=None),)

    """
    marked: list[Message] = [dict(message) for message in _checked(messages)]
    if not -len(marked) <= index < len(marked):
        msg = f"mark_message: index must be one of {len(marked)} messages, got {index}"
        raise ValueError(msg)
    texts = [_literal(text) for text in _texts(marked[index])]
    if not any(text.text.strip() for text in texts):
        msg = f"mark_message: messages[{index}] has no text to mark"
        raise ValueError(msg)
    following = iter(
        mark(text, level=level, delta=delta, group=group) if text.text.strip() else text
        for text in texts
    )
    marked[index] = _replace_texts(marked[index], lambda _: next(following))
    return marked


def with_plain_text(
    messages: Sequence[Message], trusted_roles: Collection[str] = ("system", "user")
) -> list[Message]:
    """Return a chat as the model reads it: without the tags that act.

    Args:
        messages: The chat; it is not changed.
        trusted_roles: Roles whose tags act.

    Raises:
        TagError: If a tag of a trusted role cannot be read.
        TypeError: If ``messages`` is not a list of messages.

    Example:
        >>> with_plain_text([{"role": "user", "content": "Say <!->it<-!>."}])
        [{'role': 'user', 'content': 'Say it.'}]

    """

    def plain(text: str | MarkedText) -> str:
        return text.text if isinstance(text, MarkedText) else parse(text).text

    def literal(text: str | MarkedText) -> str:
        return text.text if isinstance(text, MarkedText) else text

    return [
        _replace_texts(message, plain if message["role"] in trusted_roles else literal)
        for message in _checked(messages)
    ]


def _found_texts(
    messages: Sequence[Message],
    arguments: Mapping[str, Any],
    trusted_roles: Collection[str],
    untrusted_tags: str,
) -> list[tuple[str, MarkedText]]:
    """Return every text that can be marked, with its place, in the order of the rendering.

    Raises:
        TagError: If a tag cannot be read, or is refused at its place.

    """
    found: list[tuple[str, MarkedText]] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}] (role {message['role']!r})"
        is_trusted = message["role"] in trusted_roles
        texts = [
            read_text(text, place, untrusted_tags, is_trusted=is_trusted)
            for text in _texts(message)
        ]
        others = _replace_texts(message, lambda _: "")
        if is_trusted or untrusted_tags == "error":
            refuse_tags_outside_content(others, place)
        texts += _marked_texts(others, place)
        found += [(place, text) for text in texts]
    for name, value in arguments.items():
        if untrusted_tags == "error":
            refuse_tags_in_argument(value, name)
        found += [(name, text) for text in _marked_texts(value, name)]
    return found


def _check_options(
    trusted_roles: Collection[str], untrusted_tags: str, template_kwargs: Mapping[str, Any]
) -> None:
    if isinstance(trusted_roles, str):
        msg = (
            f"trusted_roles must be several names, got the str {trusted_roles!r}; "
            f"write [{trusted_roles!r}]"
        )
        raise TypeError(msg)
    if untrusted_tags not in _UNTRUSTED:
        msg = f"untrusted_tags must be 'error' or 'literal', got {untrusted_tags!r}"
        raise ValueError(msg)
    for name in _RESERVED:
        if name in template_kwargs:
            msg = f"{name} cannot be passed on to the chat template; only max_length changes tokens"
            raise ValueError(msg)


def _checked(messages: Sequence[Message]) -> Sequence[Message]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        msg = f"messages must be a list of messages, got {type(messages).__name__}"
        raise TypeError(msg)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            msg = (
                f"messages[{index}] must be a mapping with role and content, got "
                f"{type(message).__name__}; encode one chat at a time"
            )
            raise TypeError(msg)
        if not isinstance(message.get("role"), str):
            msg = f"messages[{index}] must have a role, got the keys {list(message)}"
            raise ValueError(msg)
    return messages


def _replace_texts(message: Message, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a copy of a message with every text in its content converted, in order."""

    def convert_part(part: Any) -> Any:
        if isinstance(part, str | MarkedText):
            return convert(part)
        if isinstance(part, Mapping) and part.get("type", "text") == "text":
            text = part.get("text")
            if isinstance(text, str | MarkedText):
                return {**part, "text": convert(text)}
        return part

    content = message.get("content")
    if isinstance(content, list | tuple):
        return {**message, "content": [convert_part(part) for part in content]}
    if isinstance(content, str | MarkedText):
        return {**message, "content": convert(content)}
    return dict(message)


def _texts(message: Message) -> list[str | MarkedText]:
    """Return every text in the content of a message, in order."""
    found: list[str | MarkedText] = []
    _replace_texts(message, found.append)
    return found


def _marked_texts(value: object, where: str) -> list[MarkedText]:
    """Return every marked text inside a value, in order."""
    found: list[MarkedText] = []

    def take(text: MarkedText) -> str:
        found.append(text)
        return ""

    with_texts(value, take, where)
    return found


def _literal(text: str | MarkedText) -> MarkedText:
    return text if isinstance(text, MarkedText) else MarkedText(text)


def read_text(
    text: str | MarkedText, where: str, untrusted_tags: str, *, is_trusted: bool
) -> MarkedText:
    """Parse a text if its role is trusted; refuse or keep its tags if not.

    Args:
        text: The text; a `MarkedText` is returned as it is.
        where: Its place, for the error.
        untrusted_tags: See `encode_chat`.
        is_trusted: Whether its tags act.

    Raises:
        TagError: If a tag cannot be read, or stands where none is read.

    """
    if isinstance(text, MarkedText):
        return text
    if is_trusted:
        try:
            return parse(text)
        except TagError as error:
            raise error.within(where) from None
    if untrusted_tags == "error":
        for tag in unread_tags(text):
            raise tag.error(
                text,
                f"tag {tag.source} in a role that is not trusted",
                "Text of this role is never parsed. Add the role to trusted_roles to let its "
                "tags act; or, to send the text as it stands, pass untrusted_tags='literal' "
                "or MarkedText(text) as content.",
            ).within(where)
    return MarkedText(text)
