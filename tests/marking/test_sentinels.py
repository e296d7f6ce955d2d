# SPDX-License-Identifier: MIT
"""Sentinels follow marks through chat templates; templates that they cannot pass are refused."""

import pytest
from chats import chat, covered
from hypothesis import settings
from tokenizers_zoo import HOSTILE_TEMPLATES, build

from guide_ext.marking import sentinels
from guide_ext.marking.chat import render_chat
from guide_ext.marking.spans import MarkedText

PROPERTY = settings(derandomize=True, deadline=None, max_examples=25)


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


def test_many_spans_and_used_private_characters():
    content = "".join(map(chr, range(0xE000, 0xF900))) + "<!->a<-!> " * 500
    marked = render_chat(build("unigram"), chat(content))
    assert covered(marked) == ["brief"] + ["a"] * 500


def test_no_private_characters_left(monkeypatch):
    monkeypatch.setattr(sentinels, "_PRIVATE_USE", (range(0xE000, 0xE003),))
    with pytest.raises(ValueError, match="2 marked spans, more than there are unused private-use"):
        render_chat(build("unigram"), chat("<!->a<-!>"))
