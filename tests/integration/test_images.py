# SPDX-License-Identifier: MIT
"""Prompts with images through processors: the processor's tokens, and marks where they belong."""

import copy
from functools import cache

import models
import pytest
import torch
from image_models import make, picture, placeholder

import guide_ext.integration as guide

# What each processor makes of the picture of 12 × 10 pixels behind a space.
OF_ONE_IMAGE = {
    "llava": ["<image>"] * 4,
    "qwen2_5_vl": ["<|image_pad|>"] * 2,
    "gemma3": [
        "ĠĊĊ", "<start_of_image>", *["<image_soft_token>"] * 4, "<end_of_image>", "ĊĊ",
    ],
    "idefics3": [
        "<fake_token_around_image>", "<row_1_col_1>", "<image>",
        "<fake_token_around_image>", "<row_1_col_2>", "<image>", "Ċ",
        "<fake_token_around_image>", "<row_2_col_1>", "<image>",
        "<fake_token_around_image>", "<row_2_col_2>", "<image>", "ĊĊ",
        "<fake_token_around_image>", "<global-img>", "<image>", "<fake_token_around_image>",
    ],
    "paligemma": ["<image>"] * 4,
}  # fmt: skip
WHAT = {"type": "text", "text": "<!!->what<-!!> is it?"}
BESIDE = {
    "llava": {"pixel_values"},
    "qwen2_5_vl": {"pixel_values", "image_grid_thw", "mm_token_type_ids"},
    "gemma3": {"pixel_values", "token_type_ids"},
    "idefics3": {"pixel_values", "pixel_attention_mask"},
    "paligemma": {"pixel_values", "token_type_ids"},
}


@cache
def pair(name):
    """An enabled model and its processor, for tests that leave both as they found them."""
    model, processor = make(name)
    return guide.enable(model), processor


@pytest.fixture(params=OF_ONE_IMAGE)
def name(request):
    return request.param


def encode(name, *args, **options):
    return guide.encode(*pair(name), *args, **options)


def tokens(name, row, flags):
    """The names of the tokens of a row that are flagged."""
    names = pair(name)[1].tokenizer.convert_ids_to_tokens(row.tolist())
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]


def plain(name, texts, images, **options):
    """What the processor makes of texts without tags."""
    return pair(name)[1](
        text=texts, images=images, return_tensors="pt", padding=True, padding_side="left", **options
    )


class TestText:
    def test_everything_is_the_processors(self, name):
        one = placeholder(name)
        texts = [f"What is <!!->{one}<-!!> now?", f"{one} <!->and<-!> {one}"]
        pictures = [[picture()], [picture(30, 12, 1), picture(9, 20, 2)]]
        found = encode(name, texts, images=pictures)
        wanted = plain(name, [f"What is {one} now?", f"{one} and {one}"], pictures)
        assert set(found) == {"input_ids", "attention_mask", "guide_bias", *BESIDE[name]}
        for key in BESIDE[name] | {"input_ids", "attention_mask"}:
            assert torch.equal(found[key], wanted[key]), key

    def test_an_image_is_marked_whole_and_nothing_else(self, name):
        found = encode(name, f"What is <!!->{placeholder(name)}<-!!> the <?->colour<-?>?",
                       images=[picture()], delta=2.0)  # fmt: skip
        ids, bias = found["input_ids"][0], found["guide_bias"][0]
        marked = tokens(name, ids, bias == 2)
        inner = ["<|vision_start|>", *OF_ONE_IMAGE[name], "<|vision_end|>"]
        assert [one for one in marked if not one.startswith("<|vision")] == OF_ONE_IMAGE[name]
        assert name != "qwen2_5_vl" or marked == inner[1:-1]
        assert bias.unique().tolist() == [0, 2]
        assert tokens(name, ids, found["guide_seed"][0, 0]) == ["Ġco", "lo", "ur"]

    def test_marks_on_text_stay_on_it(self, name):
        one = placeholder(name)
        source = f"<!!->What<-!!> is {one}<!->the<-!> colour {one} <!!!->or not<-!!!>?"
        found = encode(name, source, images=[picture(), picture(30, 12)], delta=2.0)
        ids, bias = found["input_ids"][0], found["guide_bias"][0]
        assert tokens(name, ids, bias == 2) == ["Wh", "at"]
        words = pair(name)[1].tokenizer("the", add_special_tokens=False)["input_ids"]
        assert ids[bias == 1].tolist() == words
        assert "".join(tokens(name, ids, bias == 4)) == "Ġor" + "Ġnot"

    def test_a_mark_around_text_and_image(self, name):
        source = f"<!!->What is {placeholder(name)} the<-!!> colour?"
        found = encode(name, source, images=[picture()])
        ids, bias = found["input_ids"][0], found["guide_bias"][0]
        unmarked = tokens(name, ids, bias == 0)
        special = {"<s>", "<|vision_start|>", "<|vision_end|>"}
        assert [one for one in unmarked if one not in special][:3] == ["Ġco", "lo", "ur"]

    def test_the_second_of_two_images(self, name):
        one = placeholder(name)
        text = f"{one} and <!!->{one}<-!!>"
        found = encode(name, text, images=[picture(30, 12, 1), picture()], delta=2.0)
        marked = tokens(name, found["input_ids"][0], found["guide_bias"][0] == 2)
        assert marked == OF_ONE_IMAGE[name]

    def test_text_alone(self):
        found = encode("llava", ["<!!->What<-!!> is it?", "no"])
        assert set(found) == {"input_ids", "attention_mask", "guide_bias"}
        assert tokens("llava", found["input_ids"][0], found["guide_bias"][0]) == ["Wh", "at"]
        wanted = guide.encode(pair("llava")[0], pair("llava")[1].tokenizer, "What is it?")
        assert found["input_ids"][0].tolist() == wanted["input_ids"][0].tolist()

    def test_a_prompt_without_an_image_beside_one_with_it(self):
        for name in ("llava", "qwen2_5_vl", "gemma3", "idefics3"):
            texts = [f"What is {placeholder(name)}", "<!!->not<-!!> it"]
            found = encode(name, texts, images=[[picture()], []])
            assert tokens(name, found["input_ids"][1], found["guide_bias"][1]) == ["no", "t"]
            model = pair(name)[0]
            models.generation(model, found, max_new_tokens=2)

    def test_min_share(self):
        found = encode("llava", "What is <!!-><image><-!!>?", images=picture(), min_share=0.4)
        shares = found["guide_share"][0]
        assert tokens("llava", found["input_ids"][0], shares > 0) == ["<image>"] * 4
        assert models.logits(pair("llava")[0], found).isfinite().all()

    def test_arrays_and_tensors_are_images_too(self):
        pixels = torch.zeros(3, 10, 12, dtype=torch.uint8)
        for image in (pixels, pixels.numpy(), picture()):
            assert encode("llava", "<image>", images=[image])["pixel_values"].shape[0] == 1


class TestChats:
    def chat(self, *parts, **message):
        return [{"role": "user", "content": list(parts), **message}]

    def test_everything_is_the_processors(self, name):
        found = encode(name, self.chat({"type": "image"}, WHAT), images=[picture()])
        bare = self.chat({"type": "image", "image": picture()}, {**WHAT, "text": "what is it?"})
        wanted = pair(name)[1].apply_chat_template(
            bare, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        assert set(wanted) - set(found) <= {"labels"}
        for key, value in wanted.items():
            assert key == "labels" or torch.equal(found[key], value), key
        marked = tokens(name, found["input_ids"][0], found["guide_bias"][0])
        assert "".join(marked) == "what"

    def test_images_in_the_parts(self, name):
        beside = encode(name, self.chat({"type": "image"}, WHAT), images=[picture()])
        within = encode(name, self.chat({"type": "image", "image": picture()}, WHAT))
        assert beside.keys() == within.keys()
        assert all(torch.equal(beside[key], within[key]) for key in beside)

    def test_marked_images(self, name):
        marks = [{"level": 3}, {"group": "second"}]
        chat = self.chat(
            {"type": "image"}, {"type": "text", "text": " and "}, {"type": "image", "mark": marks},
            {"type": "text", "text": "<!->it<-!>"}, {"type": "image", "mark": {"delta": -1.0}},
        )  # fmt: skip
        before = copy.deepcopy(chat)
        found = encode(name, chat, images=[picture(30, 12, 1), picture(), picture(9, 20, 2)])
        assert chat == before
        ids, bias = found["input_ids"][0], found["guide_bias"][0]
        second = tokens(name, ids, bias == 2)
        of_image = [one for one in OF_ONE_IMAGE[name] if "Ċ" not in one]
        assert [one for one in second if "Ċ" not in one] == of_image
        assert tokens(name, ids, found["guide_seed"][0, 0]) == second
        assert found.groups == ("second",)
        assert "".join(tokens(name, ids, bias == 0.5)) == "it"
        of_second, of_third = ((bias == nats).nonzero().flatten() for nats in (2, -1))
        assert of_second.max() < of_third.min()
        assert len(of_third) > 1
        assert not bias[: int(of_second.min())].any()

    def test_a_template_that_writes_the_first_token(self):
        processor = copy.copy(pair("llava")[1])
        processor.chat_template = "{{ bos_token }}" + processor.chat_template
        model, chat = pair("llava")[0], self.chat({"type": "image"}, WHAT)
        found = guide.encode(model, processor, chat, images=[picture()])
        ids = found["input_ids"][0].tolist()
        assert ids.count(processor.tokenizer.bos_token_id) == 1
        with pytest.raises(ValueError, match="encode them one by one"):
            guide.encode(model, processor, [chat, "what"], images=[[picture()], []])


class TestMaxLength:
    def test_text_is_cut(self, name):
        text = f"<!!->What<-!!> {placeholder(name)} is the colour of the other one?"
        whole = encode(name, text, images=[picture()])
        tokens = whole["input_ids"].shape[1]
        cut = encode(name, text, images=[picture()], max_length=tokens - 2)
        assert cut["input_ids"].tolist() == whole["input_ids"][:, : tokens - 2].tolist()
        for key in ("token_type_ids", "mm_token_type_ids", "guide_bias"):
            assert key not in cut or cut[key].shape == (1, tokens - 2)
        assert encode(name, text, images=[picture()], max_length=tokens).keys() == whole.keys()

    def test_no_image_is(self, name):
        with pytest.raises(ValueError, match=r"max_length=9 cuts image 1: \d of its \d+ tokens"):
            encode(
                name, f"What is the colour {placeholder(name)}", images=[picture()], max_length=9
            )

    @pytest.mark.parametrize("wrong", [0, -3, 2.5, True])
    def test_no_number(self, wrong):
        with pytest.raises(ValueError, match="max_length must be a positive int"):
            encode("llava", "<image>", images=[picture()], max_length=wrong)


class TestProcessorsThatAreNotUnderstood:
    """Processors that do other things than they report: real ones with one method changed."""

    def refused(self, name, message, **methods):
        model, processor = pair(name)
        changed = copy.copy(processor)
        changed.__class__ = type("Other", (type(processor),), methods)
        with pytest.raises(ValueError, match=message):
            guide.encode(model, changed, f"What {placeholder(name)} is", images=[picture()])

    def test_other_tokens(self):
        def call(self, **options):
            made = super(type(self), self).__call__(**options)
            made["input_ids"][0, -1] += 1
            return made

        self.refused("llava", r"makes other tokens .*: at token \d+ \[", __call__=call)

    def test_another_number_of_tokens(self):
        def call(self, **options):
            return super(type(self), self).__call__(
                **{**options, "text": [options["text"][0] + "!"]}
            )

        self.refused("llava", "makes other tokens than its tokenizer", __call__=call)

    def test_no_report(self):
        def call(self, return_text_replacement_offsets, **options):
            return super(type(self), self).__call__(**options)

        self.refused("llava", "must report the text that it writes for an image", __call__=call)
        with pytest.raises(ValueError, match=r"got a MllamaProcessor, .* no tokens of the text"):
            encode("mllama", "What <|image|> is", images=[picture()])

    def test_images_that_are_no_tokens(self):
        def call(self, **options):
            made = super(type(self), self).__call__(**options)
            return {**made, "cross_attention_mask": torch.ones(1)}

        self.refused("llava", "whose images are no tokens of the text", __call__=call)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda report: report.clear(), "reports 0 of 1 images, in prompt 0"),
            (lambda report: report.append(report[0]), "reports 2 of 1 images"),
            (lambda report: report[0].update(type="video"), r"reports video at characters \[5, 12"),
            (lambda report: report[0].update(span=(4, 11)), r"reports image at characters \[4, 11"),
        ],
    )
    def test_another_report(self, change, message):
        def call(self, **options):
            made = super(type(self), self).__call__(**options)
            change(made["text_replacement_offsets"][0])
            return made

        self.refused("llava", message, __call__=call)

    def test_text_that_depends_on_the_marks(self):
        def prepare(self, images=None, text=None, **options):
            layout = super(type(self), self).prepare_inputs_layout(images=images, text=text)
            return (layout[0], [f"{len(one)} {one}" for one in layout[1]], *layout[2:])

        model, processor = pair("llava")
        changed = copy.copy(processor)
        changed.__class__ = type("Other", (type(processor),), {"prepare_inputs_layout": prepare})
        with pytest.raises(ValueError, match="the processor changes text depending on"):
            guide.encode(model, changed, "<!!->What<-!!> <image>", images=[picture()])

    def test_padding_elsewhere(self):
        model, processor = pair("llava")

        def call(self, padding_side, **options):
            return super(type(self), self).__call__(padding_side="right", **options)

        changed = copy.copy(processor)
        changed.__class__ = type("Other", (type(processor),), {"__call__": call})
        with pytest.raises(ValueError, match="must pad on the left"):
            guide.encode(model, changed, ["What <image>", "a"], images=[[picture()], []])

    def test_no_token_to_pad_with(self):
        model, processor = make("llava")
        guide.enable(model)
        processor.tokenizer.pad_token = None
        with pytest.raises(ValueError, match=r"pad_token = processor\.tokenizer\.eos_token"):
            guide.encode(model, processor, ["What <image>", "a"], images=[[picture()], []])
        assert guide.encode(model, processor, "What <image>", images=[picture()])

    def test_what_is_no_tensor(self):
        def call(self, **options):
            made = super(type(self), self).__call__(**options)
            return {**made, "sizes": ["large"]}

        self.refused("llava", "must return tensors, got sizes as a list of str", __call__=call)


def test_an_encoder_decoder(monkeypatch):
    from encoder_decoders import make as make_two_texts

    model = guide.enable(make_two_texts("bart"))
    with pytest.raises(ValueError, match="must be the tokenizer of an encoder–decoder"):
        guide.encode(model, pair("llava")[1], "<image>", images=[picture()])
