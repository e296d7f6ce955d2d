# SPDX-License-Identifier: MIT
"""What is refused before an image is read: numbers, places, kinds."""

import copy

import models
import pytest
import torch
from image_models import make, picture, tokenizer
from transformers import WhisperFeatureExtractor, WhisperProcessor

import guide_ext.integration as guide
from guide_ext.integration.atman import atman
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.marking.spans import TagError, mark
from guide_ext.marking.tokens import encode_text
from guide_ext.steering.steering import Steering

MODEL, PROCESSOR = make("llava")
guide.enable(MODEL)
IMAGE = {"type": "image"}
TEXT = {"type": "text", "text": "what"}


def encode(prompts, images=None, processor=PROCESSOR, **options):
    return guide.encode(MODEL, processor, prompts, images=images, **options)


def chat(*parts):
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("prompts", "images", "message"),
    [
        ("what", [picture()], r"prompt 0 must have a placeholder '<image>' .* got 0 .* 1 image"),
        ("what <image>", None, r"got 1 placeholder\(s\) and 0 image\(s\); write <image>"),
        ("<image> <image>", [picture()], r"got 2 placeholder\(s\) and 1 image\(s\)"),
        (["<image>", "what"], [[], [picture()]], r"prompt 0 .* got 1 .* and 0 image"),
        (["<image>", "what"], [[picture()], [picture()]], r"prompt 1 .* got 0 .* and 1 image"),
        (["<image>", "what"], [[picture()]], r"the images of each prompt, 2 list\(s\), got 1"),
        (["<image>", "what"], picture(), r"the images of each prompt, 2 list\(s\), got Image"),
        (["<image>"], [picture()], r"images\[0\] must be the list .* got a Image; write \[image\]"),
        ("<image>", ["cat.png"], r"images\[0\] must be one image: .* got a str; addresses"),
        ("<image>", [None], r"images\[0\] must be one image: .* got a NoneType"),
        ("<image>", [torch.zeros(2, 3, 8, 8)], r"must be one image: .* got shape \[2, 3, 8, 8\]"),
        (chat(IMAGE, IMAGE, TEXT), [picture()], r"got 2 placeholder\(s\) and 1 image\(s\)"),
        (chat(TEXT), [picture()], r"got 0 placeholder\(s\) and 1 .*\"type\": \"image\""),
        ([], [], "prompts must be at least one"),
        (7, None, "prompts must be text, chats .* or MarkedText for a processor, .* got int"),
        (encode_text(PROCESSOR.tokenizer, "a"), None, "for a processor, .* got Encoding"),
    ],
)  # fmt: skip
def test_numbers_and_kinds(prompts, images, message):
    with pytest.raises(ValueError, match=message):
        encode(prompts, images)


@pytest.mark.parametrize(
    ("parts", "images", "message"),
    [
        ([{"type": "video"}, TEXT], None, r"\[0\] must be text or an image, got .* 'video'"),
        ([TEXT, {"type": "audio"}], None, r"prompt 0: messages\[0\]\['content'\]\[1\] .* 'audio'"),
        ([{"type": "input_audio"}], None, "no video and no sound"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], None, "'image_url'"),
        ([{**IMAGE, "url": "http://x"}], None, r"must have its image in memory, got url"),
        ([{**IMAGE, "path": "x.png"}], [picture()], r"must have its image in memory, got path"),
        ([{**IMAGE, "image": "x.png"}], None, r"\['image'\] must be one image: .* got a str"),
        ([{**IMAGE, "image": picture()}, IMAGE], None, "got 1 of 2 in its parts and 0 beside"),
        ([{**IMAGE, "image": picture()}], [picture()], "got 1 of 1 in its parts and 1 beside"),
        ([{**IMAGE, "mark": "<!!->"}], [picture()], r"\['mark'\] must be \{'level': 2\}"),
        ([{**IMAGE, "mark": {"strength": 2}}], [picture()], r"one of level, .* got \['strength'\]"),
        ([{**IMAGE, "mark": {}}], [picture()], "exactly one of level, delta and group"),
        ([{**IMAGE, "mark": {"level": 7}}], [picture()], "level must be 1, 2 or 3, got 7"),
        ([{**IMAGE, "mark": {"level": 2}}, {"type": "text", "text": "<image>"}],
         [picture(), picture()], r"got 2 placeholder\(s\) and 1 image part\(s\)"),
    ],
)  # fmt: skip
def test_parts_of_chats(parts, images, message):
    with pytest.raises(ValueError, match=message):
        encode(chat(*parts), images)


@pytest.mark.parametrize("source", ["<!!-><im<-!!>age>", "<im<?->age> what<-?>"])
def test_a_mark_that_cuts_a_placeholder(source):
    for name in ("llava", "paligemma"):
        model, processor = make(name)
        guide.enable(model)
        with pytest.raises(ValueError, match="inside the placeholder '<image>' of image 1"):
            guide.encode(model, processor, source, images=[picture()])


def test_tags_act_where_they_are_trusted():
    with pytest.raises(TagError):
        encode("<!!->what <image>", [picture()])
    parts = [IMAGE, {"type": "text", "text": "<!!->what<-!!>"}]
    with pytest.raises(TagError, match="a role that is not trusted"):
        encode([{"role": "assistant", "content": parts}], [picture()])
    with pytest.raises(TagError, match="a part of the content that is no text"):
        encode(chat({**IMAGE, "title": "<!!->what<-!!>"}), [picture()])
    literal = encode(mark("<!-> <image>", level=2, substring="<image>"), [picture()])
    assert "<!->" in PROCESSOR.tokenizer.decode(literal["input_ids"][0])
    assert (literal["guide_bias"] > 0).sum() == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("videos", "encode.. takes text and images, no videos"),
        ("audio", "encode.. takes text and images, no audio"),
        ("images_kwargs", "what goes with a chat goes to its template"),
        ("do_resize", r"set it on processor\.image_processor"),
        ("size", r"set it on processor\.image_processor"),
    ],
)
def test_arguments_that_a_template_would_drop(name, message):
    with pytest.raises(ValueError, match=message):
        encode(chat(IMAGE), [picture()], **{name: None})


def test_template_arguments():
    with pytest.raises(ValueError, match=r"tools must go with a chat, .* got text"):
        encode("<image>", [picture()], tools=[])
    assert encode(chat(IMAGE), [picture()], add_generation_prompt=False)


def test_videos_in_the_text():
    model, processor = make("qwen2_5_vl")
    guide.enable(model)
    with pytest.raises(ValueError, match=r"got the placeholder '<\|video_pad\|>' of video"):
        guide.encode(model, processor, "what <|video_pad|>")


def test_a_tokenizer():
    words = PROCESSOR.tokenizer
    message = "must be the model's processor .* hand it over in the place of the tokenizer"
    with pytest.raises(ValueError, match=message):
        encode("<image>", [picture()], processor=words)
    words = copy.copy(words)
    words.chat_template = PROCESSOR.chat_template
    with pytest.raises(ValueError, match=message):
        encode(chat(IMAGE, TEXT), processor=words)
    assert encode(chat(TEXT), processor=words)


def test_a_processor_of_sound():
    sound = WhisperProcessor(WhisperFeatureExtractor(), tokenizer())
    with pytest.raises(ValueError, match=r"got a WhisperProcessor; .* processor\.tokenizer"):
        encode("what", processor=sound)


def test_a_processor_without_a_fast_tokenizer():
    slow = copy.copy(PROCESSOR)
    slow.tokenizer = copy.copy(slow.tokenizer)
    slow.tokenizer.__class__ = type("Slow", (type(slow.tokenizer),), {"is_fast": False})
    with pytest.raises(ValueError, match="must have a fast tokenizer, got a Slow in a LlavaProc"):
        encode("<image>", [picture()], processor=slow)


def test_a_processor_that_names_no_placeholder():
    unknown = copy.copy(PROCESSOR)
    unknown.image_token = None
    with pytest.raises(ValueError, match="must name the placeholder of an image as its image_tok"):
        encode("<image>", [picture()], processor=unknown)


class TestWhatReadsTextAlone:
    @pytest.mark.parametrize("prompt", ["what", chat(IMAGE)])
    def test_complete(self, prompt):
        with pytest.raises(ValueError, match=r"complete\(\) must have a tokenizer and text alone"):
            guide.complete(MODEL, PROCESSOR, [prompt])

    def test_complete_with_a_tokenizer(self):
        words = copy.copy(PROCESSOR.tokenizer)
        words.chat_template = PROCESSOR.chat_template
        with pytest.raises(ValueError, match="must be the model's processor"):
            guide.complete(MODEL, words, [chat(IMAGE)])

    def test_calibrate(self):
        message = r"calibrate\(\) must have a tokenizer and text alone, got"
        with pytest.raises(ValueError, match=f"{message} a LlavaProcessor"):
            guide.calibrate(MODEL, PROCESSOR, "<!!->what<-!!> is it")
        for given in ({"images": [picture()]}, {}):
            with pytest.raises(ValueError, match=f"{message} images"):
                guide.calibrate(MODEL, PROCESSOR.tokenizer, chat(IMAGE, TEXT), **given)

    @pytest.mark.parametrize(
        "call",
        [
            lambda text: atman(MODEL, PROCESSOR, text, "it"),
            lambda text: guide.highlight(MODEL, PROCESSOR, [text], max_new_tokens=2),
            lambda text: log_likelihoods(MODEL, PROCESSOR, text, ["it"], [Steering.guide(1.0)]),
            lambda text: guide.profile_heads(MODEL, PROCESSOR, [guide.Example(text, ["it"])]),
            lambda text: measure_prompt(MODEL, PROCESSOR, text),
            lambda text: measure_prompt(MODEL, PROCESSOR.tokenizer, chat(IMAGE, TEXT)),
        ],
        ids=["atman", "highlight", "likelihood", "profile", "record", "record of a chat"],
    )
    def test_others(self, call):
        with pytest.raises(ValueError, match=r"\(\) must have a tokenizer and text alone, got"):
            call("<!!->what<-!!> is it")


def test_a_model_that_is_not_enabled():
    with pytest.raises(ValueError, match="model must be enabled"):
        guide.encode(models.make("llama"), PROCESSOR, "<image>", images=[picture()])
