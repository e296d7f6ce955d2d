# SPDX-License-Identifier: MIT
"""Read prompts with images: which images belong to which prompt, and where their placeholders are.

Everything is checked here, before an image is processed, so that errors name prompts and numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from transformers import ProcessorMixin
from transformers.image_utils import is_valid_image

from guide_ext.marking.chat import Chat, render_chat
from guide_ext.marking.marked_text import MarkedText, Span
from guide_ext.marking.placeholders import places_of, refuse_cut_placeholders
from guide_ext.marking.spans import parse

_IMAGE, _MARK = "image", "mark"
# Parts of a content that are something else, under all names that templates and APIs have for them.
_OTHER_PARTS = (
    "video",
    "video_url",
    "audio",
    "audio_url",
    "input_audio",
    "image_url",
    "input_image",
)
# Where a part of a chat says from where an image is to be loaded.
_SOURCES = ("url", "path", "base64")
_OTHER_MEDIA = ("video", "videos", "audio", "audios")
# Arguments of processors that hold arguments of their parts.
_OF_PARTS = ("processor_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs")


@dataclass(frozen=True)
class ImagePrompt:
    """One prompt for a processor.

    Attributes:
        marked: Its clean text, one placeholder for each image, and the marks.
        images: Its images, in the order of the placeholders.
        begins: Whether the text says itself how it begins, as chats of some templates do, so that
            no special tokens may be added.

    """

    marked: MarkedText
    images: list[Any]
    begins: bool


def is_chat(prompt: object) -> TypeGuard[Chat]:
    """Return whether a prompt is a list of messages."""
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def is_processor(tokenizer: object) -> bool:
    """Return whether what is handed over as a tokenizer is a processor of transformers."""
    return isinstance(tokenizer, ProcessorMixin)


def refuse_images(tokenizer: object, prompt: object, images: object) -> None:
    """Refuse images where there is a tokenizer alone, which knows nothing of them.

    Args:
        tokenizer: A tokenizer.
        prompt: A prompt of any kind.
        images: What was given as images.

    Raises:
        ValueError: If there are images, or a chat has a part that is one.

    """
    if images is not None or _has_image(prompt):
        raise ValueError(
            "tokenizer must be the model's processor where prompts have images, got a "
            f"{type(tokenizer).__name__}; load it with AutoProcessor.from_pretrained() and hand it "
            "over in the place of the tokenizer"
        )


def require_text(
    caller: str, tokenizer: object, prompt: object = "", images: object = None
) -> None:
    """Refuse a processor, and images, where only text is read.

    Args:
        caller: Who reads it, for the error.
        tokenizer: What was given as a tokenizer.
        prompt: A prompt of any kind.
        images: What was given as images.

    Raises:
        ValueError: If there is one.

    """
    got = f"a {type(tokenizer).__name__}" if is_processor(tokenizer) else "images"
    if is_processor(tokenizer) or images is not None or _has_image(prompt):
        raise ValueError(
            f"{caller} must have a tokenizer and text alone, got {got}; for text, pass "
            "processor.tokenizer; prompts with images go through encode(), to generate() or "
            "influence()"
        )


def placeholder_of(processor: Any) -> str:
    """Return what stands for an image in a text for this processor.

    Raises:
        ValueError: If it does not say, reads no images, or has no fast tokenizer.

    """
    name = type(processor).__name__
    words = getattr(processor, "tokenizer", None)
    if words is None or getattr(processor, "image_processor", None) is None:
        raise ValueError(
            f"tokenizer must be a tokenizer, or a processor of images and text, got a {name}; for "
            "text alone, pass its tokenizer, processor.tokenizer"
        )
    if not getattr(words, "is_fast", False):
        raise ValueError(
            f"the processor must have a fast tokenizer, got a {type(words).__name__} in a {name}: "
            "marks become tokens by character offsets, which only fast tokenizers report; load it "
            "from a folder that has a tokenizer.json"
        )
    for attribute in ("image_placeholder_token", "image_token"):
        token = getattr(processor, attribute, None)
        if token:
            return str(token)
    raise ValueError(
        f"the processor must name the placeholder of an image as its image_token, got a {name} "
        "without one, of which nothing tells where its images are; for text alone, pass "
        "processor.tokenizer"
    )


def read_prompts(
    processor: Any,
    prompts: Sequence[Any],
    images: Any,
    *,
    is_single: bool,
    trusted_roles: Collection[str],
    template_kwargs: Mapping[str, Any],
) -> list[ImagePrompt]:
    """Render chats, read tags, and give every prompt its images.

    Args:
        processor: A processor of images and text with a fast tokenizer.
        prompts: Texts with tags, `MarkedText` or chats.
        images: See `guide_ext.integration.encode`.
        is_single: Whether there is one prompt that did not come in a list.
        trusted_roles: Roles of a chat whose tags act.
        template_kwargs: Passed on to the chat template.

    Raises:
        TagError: If a tag cannot be read, or stands where none is read.
        ValueError: If images and placeholders do not fit, something is neither text nor an image,
            or a mark cuts a placeholder.

    """
    placeholder = placeholder_of(processor)
    _refuse_options(processor, template_kwargs)
    rows = _images_of_rows(images, len(prompts), is_single=is_single)
    found = []
    for index, (prompt, own) in enumerate(zip(prompts, rows, strict=True)):
        where = f"prompt {index}"
        marks: list[list[Span]] = []
        if is_chat(prompt):
            chat, own, marks = _without_images(prompt, own, where)
            marked = render_chat(processor, chat, trusted_roles=trusted_roles, **template_kwargs)
        else:
            marked = _text(prompt, template_kwargs)
        _refuse_other_media(processor, marked.text, where)
        places = places_of(marked.text, placeholder)
        if len(places) != len(own or []):
            raise ValueError(
                f"{where} must have a placeholder {placeholder!r} for each of its images, got "
                f"{len(places)} placeholder(s) and {len(own or [])} image(s); write {placeholder} "
                'into the text, or a part {"type": "image"} into the chat, where an image belongs, '
                "and pass each in images=[...]"
            )
        refuse_cut_placeholders(marked, places)
        if any(marks):
            marked = _with_marks(marked, places, marks, where)
        # As processors do: their templates need not write the token that texts begin with.
        first = processor.tokenizer.bos_token
        begins = is_chat(prompt) and first is not None and marked.text.startswith(first)
        found.append(ImagePrompt(marked, own or [], begins))
    return found


def _text(prompt: Any, template_kwargs: Mapping[str, Any]) -> MarkedText:
    """Return a prompt that is no chat."""
    if not isinstance(prompt, str | MarkedText):
        raise ValueError(
            "prompts must be text, chats (lists of messages) or MarkedText for a processor, or a "
            f"list of such, got {type(prompt).__name__}"
        )
    if template_kwargs:
        raise ValueError(
            f"{', '.join(template_kwargs)} must go with a chat, whose template takes it, got text"
        )
    return prompt if isinstance(prompt, MarkedText) else parse(prompt)


def _refuse_options(processor: Any, options: Mapping[str, Any]) -> None:
    """Refuse arguments of the processor among those of the template, which would drop them."""
    takes = getattr(processor.image_processor, "valid_kwargs", None)
    of_images = getattr(takes, "__annotations__", {})
    for name in options:
        if name in _OTHER_MEDIA:
            raise ValueError(f"{name} must be left out: encode() takes text and images, no {name}")
        if name in _OF_PARTS or name in of_images:
            raise ValueError(
                f"{name} must be left out: what goes with a chat goes to its template; set it on "
                "processor.image_processor"
            )


def _refuse_other_media(processor: Any, text: str, where: str) -> None:
    for kind in ("video", "audio"):
        token = getattr(processor, f"{kind}_token", None)
        if token and token in text:
            raise ValueError(
                f"{where} must have text and images alone, got the placeholder {token!r} of "
                f"{kind}, which encode() does not take"
            )


def _images_of_rows(images: Any, rows: int, *, is_single: bool) -> list[list[Any] | None]:
    """Return the images of each prompt; None where nothing was given."""
    if images is None:
        return [None] * rows
    if is_single:
        return [_checked(images if isinstance(images, list | tuple) else [images], "images")]
    if not isinstance(images, list | tuple) or len(images) != rows:
        got = f"{len(images)}" if isinstance(images, list | tuple) else type(images).__name__
        raise ValueError(
            f"images must be a list with the images of each prompt, {rows} list(s), got {got}"
        )
    found: list[list[Any] | None] = []
    for row, own in enumerate(images):
        if own is not None and not isinstance(own, list | tuple):
            raise ValueError(
                f"images[{row}] must be the list of the images of prompt {row}, got a "
                f"{type(own).__name__}; write [image], or [] for none"
            )
        found.append(None if own is None else _checked(own, f"images[{row}]"))
    return found


def _checked(images: Sequence[Any], where: str) -> list[Any]:
    for index, image in enumerate(images):
        _check_image(image, f"{where}[{index}]")
    return list(images)


def _check_image(image: Any, where: str) -> None:
    if not is_valid_image(image) or getattr(image, "ndim", 3) > 3:
        shape = getattr(image, "shape", None)
        got = f"a {type(image).__name__}" if shape is None else f"shape {list(shape)}"
        raise ValueError(
            f"{where} must be one image: of Pillow, or an array or a tensor of its pixels, got "
            f"{got}; addresses and paths are not loaded here: use "
            "transformers.image_utils.load_image()"
        )


def _without_images(
    chat: Chat, given: list[Any] | None, where: str
) -> tuple[list[dict[str, Any]], list[Any] | None, list[list[Span]]]:
    """Take the images, and the marks on them, out of the parts of a chat.

    Returns:
        The chat for the template, the images, and the marks on each part that is an image.

    Raises:
        ValueError: If a part is no text and no image, an image is not a picture in memory, or there
            are images both in the chat and beside it.

    """
    pictures: list[Any] = []
    marks: list[list[Span]] = []

    def taken(part: Any, place: str) -> Any:
        if not isinstance(part, Mapping):
            return part
        kind = part.get("type")
        if kind in _OTHER_PARTS:
            raise ValueError(
                f"{place} must be text or an image, got a part of type {kind!r}; encode() takes no "
                'video and no sound, and images as {"type": "image"} with images=[...]'
            )
        if kind != _IMAGE:
            return part
        for name in _SOURCES:
            if part.get(name) is not None:
                raise ValueError(
                    f"{place} must have its image in memory, got {name}; load it with "
                    "transformers.image_utils.load_image() and pass it in images=[...]"
                )
        if part.get(_IMAGE) is not None:
            _check_image(part[_IMAGE], f"{place}['image']")
            pictures.append(part[_IMAGE])
        marks.append(_spans(part.get(_MARK), place))
        return {name: value for name, value in part.items() if name not in (_IMAGE, _MARK)}

    plain: list[dict[str, Any]] = []
    for index, message in enumerate(chat):
        content = message.get("content")
        if isinstance(content, list | tuple):
            parts = [
                taken(part, f"{where}: messages[{index}]['content'][{number}]")
                for number, part in enumerate(content)
            ]
            plain.append({**message, "content": parts})
        else:
            plain.append(dict(message))
    if not pictures:
        return plain, given, marks
    if given is not None or len(pictures) != len(marks):
        raise ValueError(
            f"{where} must have all images in its parts or all in images=[...], got "
            f"{len(pictures)} of {len(marks)} in its parts and {len(given or [])} beside"
        )
    return plain, pictures, marks


def _spans(mark: Any, place: str) -> list[Span]:
    """Return the marks that a part of a chat asks for, on characters that are not known yet."""
    if mark is None:
        return []
    wanted = [mark] if isinstance(mark, Mapping) else mark
    if not isinstance(wanted, list | tuple) or not all(isinstance(one, Mapping) for one in wanted):
        raise ValueError(
            f"{place}['mark'] must be {{'level': 2}}, {{'delta': nats}} or {{'group': name}}, or a "
            f"list of such, got {mark!r}"
        )
    for one in wanted:
        if unknown := set(one) - {"level", "delta", "group"}:
            raise ValueError(
                f"{place}['mark'] must have one of level, delta and group, got {sorted(unknown)}"
            )
    return [Span(0, 1, **one) for one in wanted]


def _with_marks(
    marked: MarkedText, places: Sequence[tuple[int, int]], marks: list[list[Span]], where: str
) -> MarkedText:
    """Add the marks of a chat's images: image by image, in the order of the placeholders."""
    if len(marks) != len(places):
        raise ValueError(
            f"{where} must have placeholders from its image parts alone where these have a 'mark', "
            f"got {len(places)} placeholder(s) and {len(marks)} image part(s); put the tags of "
            "those in the text around them"
        )
    spans = [span.at(*place) for place, own in zip(places, marks, strict=True) for span in own]
    return MarkedText(marked.text, (*marked.spans, *spans))


def _has_image(prompt: object) -> bool:
    """Return whether a prompt is a chat with a part that is an image."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return False
    contents = (message.get("content") for message in prompt if isinstance(message, Mapping))
    return any(
        isinstance(part, Mapping) and part.get("type") == _IMAGE
        for content in contents
        if isinstance(content, list | tuple)
        for part in content
    )
