# SPDX-License-Identifier: MIT
"""Tags in chats: through every template or refused, never in text of others."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_documents import TAG_SOUP, marked_documents, outcome
from tokenizers_zoo import HOSTILE_TEMPLATES, TEMPLATES, TOKENIZERS, build

from guide_ext.marking import sentinels
from guide_ext.marking.chat import encode_chat, mark_message, render_chat
from guide_ext.marking.spans import MarkedText, TagError, escape, mark, parse

PROPERTY = settings(derandomize=True, deadline=None, max_examples=25)
PRINTABLE = ["French", "in", "é", "日本", "👨‍👩‍👧", "{", '"', "x", " ", "\n", "\ue000", "\ue001"]


def chat(user, system="You are <?rule->brief<-?rule>.", role="user"):
    return [{"role": "system", "content": system}, {"role": role, "content": user}]


def covered(marked):
    return [marked.text[span.start : span.end] for span in marked.spans]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates(template):
    tokenizer = build("byte_level")
    source = chat("  Answer <!!->in\nFrench<-!!> un<!2->believ<-!>ably <!->well<-!>  ")
    clean = chat("  Answer in\nFrench unbelievably well  ", system="You are brief.")
    marked = render_chat(tokenizer, source, chat_template=TEMPLATES[template])
    assert marked.text == tokenizer.apply_chat_template(
        clean, tokenize=False, add_generation_prompt=True, chat_template=TEMPLATES[template]
    )
    expected = ["brief", "in\nFrench", "believ", "well"]
    match template:
        case "duplicated":
            expected = [*expected[:1] * 2, *expected[1:] * 2]
        case "uppercase":
            expected = [text.upper() for text in expected]
        case "tojson":
            expected[1] = "in\\nFrench"
        case "quoted_lines":
            expected[1] = "in\n> French"
    assert covered(marked) == expected
    encoding = encode_chat(tokenizer, source, chat_template=TEMPLATES[template])
    assert encoding.input_ids == tokenizer(marked.text, add_special_tokens=False)["input_ids"]
    assert encoding.spans == marked.spans


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["trim", "folded_system", "tojson"])
@PROPERTY
@given(system=marked_documents(words=PRINTABLE), user=marked_documents(words=PRINTABLE))
def test_ids_are_those_of_the_chat_without_tags(name, template, system, user):
    tokenizer = build(name)
    options = {"chat_template": TEMPLATES[template], "add_generation_prompt": True}
    clean = chat(user.text, system=system.text)
    expected = tokenizer.apply_chat_template(clean, return_dict=False, **options)
    source = chat(user.source, system=system.source)
    encoding = outcome(encode_chat, tokenizer, source, **options)
    if isinstance(encoding, ValueError):
        assert "matches no token" in str(encoding)
        return
    assert encoding.input_ids == expected
    deltas = [delta for document in (system, user) for delta, _ in document.marks]
    assert sorted(span.delta for span in encoding.spans) == sorted(deltas)


@PROPERTY
@given(document=marked_documents(words=PRINTABLE))
def test_spans_in_the_rendered_text_are_the_marked_text(document):
    marked = render_chat(build("unigram"), chat(document.source, system="x"))
    assert covered(marked) == covered(parse(document.source))
    twice = render_chat(
        build("unigram"), chat(document.source), chat_template=TEMPLATES["duplicated"]
    )
    assert sorted(covered(twice)) == sorted(["brief", *covered(parse(document.source))] * 2)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("truncated", "changes text depending on the characters"),
        ("capitalized", "changes text depending on the characters"),
        ("reversed", "cuts or reorders the marked text"),
        ("sorted_words", "changes text depending on the characters"),
        ("first_words", "cuts or reorders the marked text 'are'"),
        ("length", "changes text depending on the characters"),
        ("dropped", r"messages\[0\] \(role 'system'\): the chat template leaves out the marked"),
        ("ascii_json", "changes text depending on the characters"),
        ("prefix_test", "changes text depending on the characters"),
    ],
)
def test_hostile_templates_are_refused(template, message):
    source = chat("<!!->Answer in French<-!!>", system="you <!->are<-!> brief, <!->please<-!>")
    if template == "first_words":
        source[0]["content"] = "you <!->are brief<-!>"
        message = message.replace("'are'", "'are brief'")
    with pytest.raises(ValueError, match=message):
        render_chat(build("unigram"), source, chat_template=HOSTILE_TEMPLATES[template])


def test_difference_is_shown():
    with pytest.raises(ValueError, match=r"at character 15 it renders .*You.* without and .*you"):
        render_chat(
            build("unigram"),
            chat("a", system="<!->you<-!> are"),
            chat_template=HOSTILE_TEMPLATES["capitalized"],
        )


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES)
def test_hostile_templates_are_fine_without_marks(template):
    tokenizer = build("unigram")
    plain = chat("Answer", system="Be brief")
    options = {"chat_template": HOSTILE_TEMPLATES[template], "add_generation_prompt": True}
    assert render_chat(tokenizer, plain, **options) == MarkedText(
        tokenizer.apply_chat_template(plain, tokenize=False, **options)
    )


def test_a_token_that_two_copies_share_counts_once():
    tokenizer = build("word_piece")
    template = "{{ messages[0].content }}{{ messages[0].content }}"
    messages = [{"role": "user", "content": "<!2->ξ<-!>"}]
    encoding = encode_chat(tokenizer, messages, chat_template=template)
    assert (len(encoding.spans), len(encoding.input_ids)) == (2, 1)
    assert encoding.nats(1.0) == [2.0]


def test_parts():
    tokenizer = build("unigram")
    image = {"type": "image", "url": "<!-- x"}
    parts = [{"type": "text", "text": "Look <!->here<-!>: "}, image, "<!!->and there<-!!>"]
    template = TEMPLATES["parts"].replace(
        "{% if part['type'] == 'text' %}",
        "{% if part is string %}{{ part }}{% elif part['type'] == 'text' %}",
    )
    marked = render_chat(tokenizer, chat(parts, system=None), chat_template=template)
    assert "Look here: [image]and there" in marked.text
    assert covered(marked) == ["here", "and there"]
    assert parts[0]["text"] == "Look <!->here<-!>: "


def test_messages_are_not_changed():
    messages = chat("<!->a<-!>")
    before = [dict(message) for message in messages]
    encode_chat(build("unigram"), messages)
    assert messages == before


@given(text=TAG_SOUP)
@PROPERTY
def test_literal_text_of_others_arrives_unchanged(text):
    messages = [{"role": "tool", "content": text}]
    tokenizer = build("byte_level")
    marked = render_chat(tokenizer, messages, untrusted_tags="literal")
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert marked == MarkedText(expected)
    escaped = [{"role": "user", "content": escape(text)}]
    assert render_chat(tokenizer, escaped).text == expected.replace("tool", "user", 1)


@pytest.mark.parametrize("text", ["<!->a<-!>", r"\<!->a", "a <?q->", "a\n\n<-!!!>", "<!2->"])
def test_tags_of_others_are_refused(text):
    messages = [*chat("<!->a<-!>"), {"role": "tool", "content": [{"type": "text", "text": text}]}]
    with pytest.raises(TagError) as caught:
        render_chat(build("unigram"), messages, chat_template=TEMPLATES["parts"])
    error = caught.value
    assert error.position == text.index("<")
    message = str(error)
    assert message.startswith("messages[2] (role 'tool'): tag <")
    assert f"line {error.line}, column {error.column} (position {error.position})" in message
    for way in ("trusted_roles", "untrusted_tags='literal'", "MarkedText(text)"):
        assert way in message


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


@dataclass
class Note:
    title: str
    text: object


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


def test_lookalikes_of_others_are_fine():
    messages = [{"role": "tool", "content": "<!-- x --> a->b <!loud-> <-!!!!>"}]
    assert "<!loud->" in render_chat(build("unigram"), messages).text


def test_roles_can_be_trusted():
    messages = chat("<!->a<-!>", system="x", role="tool")
    assert covered(render_chat(build("unigram"), messages, trusted_roles={"tool"})) == ["a"]
    with pytest.raises(TagError, match="role 'user'"):
        render_chat(build("unigram"), chat("<!->a<-!>", system="x"), trusted_roles=["system"])


def test_marked_text_acts_in_any_role_and_is_not_parsed():
    content = mark("an <!-> answer", substring="answer", level=2)
    marked = render_chat(build("unigram"), chat(content, role="assistant"))
    assert covered(marked) == ["brief", "answer"]
    assert "an <!-> answer" in marked.text


def test_bad_tag_names_its_message():
    with pytest.raises(TagError, match=r"^messages\[1\] \(role 'user'\): tag <!-> is never closed"):
        render_chat(build("unigram"), chat("a <!-> b"))


def test_continue_final_message():
    tokenizer = build("unigram")
    messages = [*chat("<!->a<-!>"), {"role": "assistant", "content": "Voici la"}]
    marked = render_chat(tokenizer, messages, continue_final_message=True)
    assert marked.text.endswith("assistant\nVoici la")
    assert covered(marked) == ["brief", "a"]
    trusted = render_chat(
        tokenizer, chat("b <!->a<-!> "), continue_final_message=True,
        chat_template=TEMPLATES["trim"],
    )  # fmt: skip
    assert trusted.text.endswith("b a")
    assert covered(trusted) == ["brief", "a"]


def test_generation_prompt():
    tokenizer = build("unigram")
    assert render_chat(tokenizer, chat("a")).text.endswith("<|user|>assistant\n")
    closed = render_chat(tokenizer, chat("a"), add_generation_prompt=False)
    assert closed.text.endswith("a<|end|>\n")


def test_template_arguments_are_passed_on():
    template = "{{ documents[0].title }}{{ style }}{{ messages[0].content }}"
    options = {"documents": [{"title": "T", "text": "x"}], "style": "S"}
    messages = [{"role": "user", "content": "<!->a<-!>"}]
    marked = render_chat(build("unigram"), messages, chat_template=template, **options)
    assert marked.text == "TSa"


def test_no_second_set_of_special_tokens():
    encoding = encode_chat(build("byte_level"), chat("a"))
    assert build("byte_level").bos_token_id not in encoding.input_ids


def test_truncation():
    tokenizer = build("byte_level")
    whole = encode_chat(tokenizer, chat("a <!!->b<-!!> c"))
    assert encode_chat(tokenizer, chat("a <!!->b<-!!> c"), max_length=500) == whole
    with pytest.raises(ValueError, match="max_length=5 cuts the marked text"):
        encode_chat(tokenizer, chat("a <!!->b<-!!> c"), max_length=5)


def test_many_spans_and_used_private_characters():
    content = "".join(map(chr, range(0xE000, 0xF900))) + "<!->a<-!> " * 500
    marked = render_chat(build("unigram"), chat(content))
    assert covered(marked) == ["brief"] + ["a"] * 500


def test_no_private_characters_left(monkeypatch):
    monkeypatch.setattr(sentinels, "_PRIVATE_USE", (range(0xE000, 0xE003),))
    with pytest.raises(ValueError, match="2 marked spans, more than there are unused private-use"):
        render_chat(build("unigram"), chat("<!->a<-!>"))


@pytest.mark.parametrize(
    ("messages", "options", "error", "message"),
    [
        ("hello", {}, TypeError, "messages must be a list of messages, got str"),
        ({"role": "user"}, {}, TypeError, "messages must be a list of messages, got dict"),
        ([chat("a")], {}, TypeError, r"messages\[0\] must be a mapping .* one chat at a time"),
        ([{"content": "a"}], {}, ValueError, r"messages\[0\] must have a role"),
        (chat("a"), {"trusted_roles": "user"}, TypeError, r"write \['user'\]"),
        (chat("a"), {"untrusted_tags": "ignore"}, ValueError, "must be 'error' or 'literal'"),
        (chat("a"), {"tokenize": True}, ValueError, "tokenize cannot be passed on"),
        (chat("a"), {"truncation": True}, ValueError, "truncation cannot be passed on"),
        (chat("a"), {"return_tensors": "pt"}, ValueError, "return_tensors cannot be passed on"),
    ],
)
def test_bad_arguments(messages, options, error, message):
    with pytest.raises(error, match=message):
        encode_chat(build("unigram"), messages, **options)


def test_mark_message():
    messages = chat([{"type": "text", "text": "a <!-> b"}, {"type": "image"}, " "])
    changed = mark_message(messages, -1, level=2)
    assert changed[1]["content"][0]["text"] == mark("a <!-> b", level=2)
    assert changed[1]["content"][2] == MarkedText(" ")
    assert messages[1]["content"][0]["text"] == "a <!-> b"
    whole = mark_message(chat("a b"), 1, delta=-1.0)
    assert covered(render_chat(build("unigram"), whole)) == ["brief", "a b"]
    both = mark_message(mark_message(chat(parse("<!->a<-!> b")), 1, level=2), 1, group="g")
    assert [span.kind for span in both[1]["content"].spans] == [
        (2, None, None), (None, None, "g"), (1, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("index", "content", "message"),
    [
        (2, "a", "index must be one of 2 messages, got 2"),
        (-3, "a", "index must be one of 2 messages, got -3"),
        (1, None, r"messages\[1\] has no text to mark"),
        (1, " \n", r"messages\[1\] has no text to mark"),
        (1, [{"type": "image"}], r"messages\[1\] has no text to mark"),
    ],
)
def test_mark_message_refuses(index, content, message):
    with pytest.raises(ValueError, match=message):
        mark_message(chat(content), index, level=1)


@given(data=st.data())
@PROPERTY
def test_programmatic_marks_equal_tags(data):
    document = data.draw(marked_documents(words=PRINTABLE))
    twin = MarkedText(document.text)
    for delta, inked in document.marks:
        twin = mark(twin, range=(min(inked), max(inked) + 1), delta=delta)
    tokenizer = build("byte_level_untrimmed")
    assert encode_chat(tokenizer, chat(twin)) == encode_chat(tokenizer, chat(document.source))
