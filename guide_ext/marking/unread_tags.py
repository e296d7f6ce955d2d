# SPDX-License-Identifier: MIT
"""Refuse tags in places where no tag is parsed.

These places are the fields of a message other than its content, arguments of the chat template, and
the template itself. A tag there would reach the model as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guide_ext.marking.tags import Tag, scan
from guide_ext.marking.template_values import strings

# Replaces the "<" of tags, so that any tag in the rendering was written by the template itself.
_HIDDEN = "\ue000"


def unread_tags(text: str) -> Iterator[Tag]:
    """Yield the well-formed tags of a text that will not be parsed; the others are plain text."""
    return (tag for tag in scan(text) if not tag.problem)


def refuse_tags_outside_content(message: Mapping[str, Any], where: str) -> None:
    """Raise TagError for a tag in a message whose texts in the content have been blanked.

    Templates print other fields too, such as tool calls.
    """
    for name, field in message.items():
        if name == "content":
            place = "a part of the content that is no text"
        else:
            place = f"the field {name!r}"
        for _, text in strings({name: field}, where):
            for tag in unread_tags(text):
                raise tag.error(
                    text,
                    f"tag {tag.source} in {place}, which is never parsed",
                    "Only text of the content is. Mark text there, put a MarkedText here, or take "
                    "the tag out of this field.",
                ).within(where)


def refuse_tags_in_argument(value: object, name: str) -> None:
    """Raise TagError for a tag in an argument of the chat template: documents, tools, keywords."""
    for where, text in strings(value, name):
        for tag in unread_tags(text):
            raise tag.error(
                text,
                f"tag {tag.source} in an argument of the chat template, which is never parsed",
                "To mark text here, put a MarkedText in the place of the string, as mark() and "
                "parse() return it; to send the text as it stands, pass untrusted_tags='literal'.",
            ).within(where)


def refuse_tags_of_template(rendered: str) -> None:
    """Raise TagError for a tag in a rendering of texts without tags: the template wrote it."""
    for tag in unread_tags(rendered):
        raise tag.error(
            rendered,
            f"tag {tag.source} is written by the chat template, where no tag is read",
            "Put tags into messages, not into the template; to send the text as it stands, pass "
            "untrusted_tags='literal'.",
        ).within("the rendered chat")


def without_tags(text: str) -> str:
    """Return a text of the same length in which no tag is left: each loses its "<"."""
    pieces = []
    cursor = 0
    for tag in unread_tags(text):
        pieces += [text[cursor : tag.position], _HIDDEN]
        cursor = tag.position + 1
    return "".join([*pieces, text[cursor:]])
