# SPDX-License-Identifier: MIT
"""Tags where none is read: beside the text of messages, and in what a template itself writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guide_ext.marking.tags import Tag, scan
from guide_ext.marking.template_values import strings

# Stands for the "<" of a tag where it is asked what a template writes by itself.
_HIDDEN = "\ue000"


def unread_tags(text: str) -> Iterator[Tag]:
    """Yield the tags of a text that nobody will parse; what could not be read is no tag there."""
    return (tag for tag in scan(text) if not tag.problem)


def refuse_tags_outside_content(message: Mapping[str, Any], where: str) -> None:
    """Templates print other fields too, such as tool calls; a tag there would reach the model."""
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
    """Templates print documents, tools and keywords of their own."""
    for where, text in strings(value, name):
        for tag in unread_tags(text):
            raise tag.error(
                text,
                f"tag {tag.source} in an argument of the chat template, which is never parsed",
                "To mark text here, put a MarkedText in the place of the string, as mark() and "
                "parse() return it; to send the text as it stands, pass untrusted_tags='literal'.",
            ).within(where)


def refuse_tags_of_template(rendered: str) -> None:
    """Refuse what is left where the tags of all texts are hidden: none of them has written it."""
    for tag in unread_tags(rendered):
        raise tag.error(
            rendered,
            f"tag {tag.source} is written by the chat template, where no tag is read",
            "Put tags into messages, not into the template; to send the text as it stands, pass "
            "untrusted_tags='literal'.",
        ).within("the rendered chat")


def without_tags(text: str) -> str:
    """Return a text of the same length in which no tag is left."""
    pieces = []
    cursor = 0
    for tag in unread_tags(text):
        pieces += [text[cursor : tag.position], _HIDDEN]
        cursor = tag.position + 1
    return "".join([*pieces, text[cursor:]])
