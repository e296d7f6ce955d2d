# SPDX-License-Identifier: MIT
"""Tags in chats: through every template, and only where somebody may write them."""

import pytest
from chats import chat, covered
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_documents import TAG_SOUP, marked_documents, outcome
from tokenizers_zoo import TEMPLATES, TOKENIZERS, build

from guide_ext.marking.chat import encode_chat, mark_message, render_chat
from guide_ext.marking.spans import MarkedText, TagError, escape, mark, parse

PROPERTY = settings(derandomize=True, deadline=None, max_examples=25)
PRINTABLE = ["French", "in", "é", "日本", "👨‍👩‍👧", "{", '"', "x", " ", "\n", "\ue000", "\ue001"]


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
