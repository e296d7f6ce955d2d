# SPDX-License-Identifier: MIT
"""Marked text in the values that a chat template is given."""

import pytest
from chats import Note, chat, covered
from hypothesis import settings
from tokenizers_zoo import build

from guide_ext.marking.chat import render_chat
from guide_ext.marking.spans import mark

PROPERTY = settings(derandomize=True, deadline=None, max_examples=25)


def test_marked_text_acts_in_arguments_and_fields():
    a, b, c = (mark(f"{name} <!-> it", substring=name, group=name) for name in "abc")
    documents = [{"text": a}, {"text": "plain"}]
    messages = [{"role": "user", "content": "<!!->Go<-!!>", "tool_calls": [{"q": b}]}]
    options = {
        "documents": iter(documents),
        "note": (Note("title", c), ["same"]),
        "chat_template": "{% for d in documents %}{{ d.text }}|{% endfor %}{{ note[0].text }}|"
        "{{ messages[0].tool_calls[0].q }}|{{ messages[0].content }}",
    }
    marked = render_chat(build("unigram"), messages, **options)
    assert marked.text == "a <!-> it|plain|c <!-> it|b <!-> it|Go"
    assert covered(marked) == ["a", "c", "b", "Go"]
    assert documents[0]["text"] is a
    with pytest.raises(ValueError, match=r"documents: the chat template leaves out .* 'a'"):
        render_chat(
            build("unigram"), messages, documents=documents,
            chat_template="{{ messages[0].tool_calls[0].q }}{{ messages[0].content }}",
        )  # fmt: skip


@pytest.mark.parametrize("value", [{mark("a", level=1): 1}, [{mark("a", level=1)}]])
def test_marked_text_that_cannot_be_followed_is_refused(value):
    with pytest.raises(TypeError, match="note must have MarkedText in lists or as values only"):
        render_chat(build("unigram"), chat("a"), note=value)
