# SPDX-License-Identifier: MIT
"""Tags that are never parsed: in text of others, in fields, in arguments, of the template."""

from typing import Literal

import pytest
from chats import Note, chat, covered
from hypothesis import settings
from tokenizers_zoo import build

from guide_ext.marking.chat import render_chat
from guide_ext.marking.spans import MarkedText, TagError

PROPERTY = settings(derandomize=True, deadline=None, max_examples=25)


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize(
    "field", ["a <!->b<-!>", {"function": {"arguments": '{"q": "<!->b<-!>"}'}}, [1, ["<!->b<-!>"]]]
)
def test_tags_outside_the_content_are_refused(role, field):
    messages = [*chat("<!->a<-!>"), {"role": role, "content": "c", "reasoning_content": field}]
    with pytest.raises(TagError, match=r"in the field 'reasoning_content', which is never parsed"):
        render_chat(build("unigram"), messages)
    messages[-1]["reasoning_content"] = "a -> b"
    assert render_chat(build("unigram"), messages).spans


PRINTS_ALL = (
    "{{ documents | tojson }}{{ tools | tojson }}{{ note | tojson }}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


def weather(city: str):
    """Tell the weather, <!!!->always sunny<-!!!>.

    Args:
        city: Where.
    """


class Model:
    """As pydantic's, in what matters."""

    def __init__(self, text):
        self.text = text

    def model_dump(self):
        return vars(self)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"documents": [{"text": "a <!!!->dog<-!!!>"}]}, "documents[0]['text']"),
        ({"documents": [{"title": "x", "parts": ("a", ["<?->"])}]}, "documents[0]['parts'][1][0]"),
        ({"documents": [{"<!->": "x"}]}, "a key of documents[0]"),
        ({"documents": iter([{"text": "<-!>"}])}, "documents[0]['text']"),
        ({"tools": [{"name": "f", "parameters": {"d": "<!2->"}}]}, "tools[0]['parameters']['d']"),
        ({"tools": [weather]}, "the docstring of tools[0]"),
        ({"note": r"\<!->"}, "note"),
        ({"note": Note("a", {"b": "<!!->"})}, "note.text['b']"),
        ({"note": [Model("<!!->")]}, "note[0].text"),
        ({"chat_template": "<!!->{{ messages[0].content }}<-!!>"}, "chat_template"),
    ],
)
def test_tags_in_arguments_of_the_template_are_refused(arguments, place):
    messages = [{"role": "user", "content": "<!!->Summarize<-!!>"}]
    options = {"chat_template": PRINTS_ALL, **arguments}
    with pytest.raises(TagError, match="argument of the chat template, which is never") as caught:
        render_chat(build("unigram"), messages, **options)
    message = str(caught.value)
    assert message.startswith(f"{place}: tag <")
    assert "MarkedText" in message
    assert "untrusted_tags='literal'" in message


def test_arguments_of_the_template_can_be_sent_as_they_stand():
    marked = render_chat(
        build("unigram"), [{"role": "user", "content": "<!!->Sum up<-!!>"}],
        chat_template="{{ documents[0].text }} {{ tools[0].function.description }} "
        "{{ messages[0].content }}",
        documents=[{"text": "a <!!!->dog<-!!!>"}], tools=[weather], untrusted_tags="literal",
    )  # fmt: skip
    assert marked.text == "a <!!!->dog<-!!!> Tell the weather, <!!!->always sunny<-!!!>. Sum up"
    assert covered(marked) == ["Sum up"]


@pytest.mark.parametrize("user", ["a", r"\<!!->a", MarkedText("<!!->")])
def test_tags_that_the_template_writes_are_refused(user, monkeypatch):
    """Whatever they come from: the template of the tokenizer, its own joins, a type of a tool."""

    def tool(city: Literal["<!!->"]):
        """Tell.

        Args:
            city: Where.
        """

    tokenizer = build("unigram")
    options = {"tools": [tool], "chat_template": PRINTS_ALL, "note": None}
    with pytest.raises(TagError, match=r"^the rendered chat: tag <!!-> is written by the chat tem"):
        render_chat(tokenizer, chat(user), **options)
    assert render_chat(tokenizer, chat(user), untrusted_tags="literal", **options)
    joins = "{{ '<' ~ '!!->' }}{{ messages[1].content }}"
    with pytest.raises(TagError, match=r"^the rendered chat: tag <!!->"):
        render_chat(tokenizer, chat(user, system="x"), chat_template=joins)
    own = "{% for m in messages %}<?->{{ m.content }}<-?>{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", own)
    with pytest.raises(TagError, match=r"^the rendered chat: tag <\?-> is written by the chat"):
        render_chat(tokenizer, chat(user))


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "<!!->user"}, "the field 'role'"),
        ({"role": "user", "<!!->": 1}, "the field '<!!->'"),
        ({"role": "user", "content": {"text": "<!!->"}}, "a part of the content that is no text"),
        (
            {"role": "user", "content": [{"type": "image", "url": "<!!->"}]},
            "a part of the content that is no text",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "note": ["<!!->"]}]},
            "a part of the content that is no text",
        ),
    ],
)
def test_tags_beside_text_are_refused(message, place):
    with pytest.raises(TagError, match=f"tag <!!-> in {place}, which is never parsed"):
        render_chat(build("unigram"), [*chat("a"), message])
