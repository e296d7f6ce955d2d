# SPDX-License-Identifier: MIT
"""Turn prompts with tags into the keyword arguments of `generate()`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guide_ext.integration.call.arguments import DECODER_BIAS, DECODER_SEED
from guide_ext.integration.image_prompts import (
    is_chat,
    is_processor,
    read_prompts,
    refuse_images,
)
from guide_ext.integration.images import encode_images
from guide_ext.integration.model.state import (
    refuse_two_texts,
    state_of,
    strength_size,
    table_size,
)
from guide_ext.integration.modes import first_token
from guide_ext.marking.chat import Chat, encode_chat
from guide_ext.marking.spans import MarkedText
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.steering.batch import collate, group_names, seed_of
from guide_ext.steering.steering import Steering
from guide_ext.support.values import as_float

Prompt: TypeAlias = str | MarkedText | Encoding | Chat


class Inputs(dict[str, Tensor]):
    """Keyword arguments of `generate()` and `forward()`.

    Attributes:
        groups: Names of the groups of ``guide_seed``; empty without it.

    """

    groups: tuple[str, ...] = ()


def encode(
    model: nn.Module,
    tokenizer: Any,
    prompts: Prompt | Sequence[Prompt],
    *,
    images: Any = None,
    delta: float | None = None,
    steering: Steering | Sequence[Steering] | None = None,
    min_share: float | None = None,
    trusted_roles: Collection[str] = ("system", "user"),
    max_length: int | None = None,
    decoder_prompts: str | MarkedText | Sequence[str | MarkedText] | None = None,
    **template_kwargs: Any,
) -> Inputs:
    """Tokenise prompts with tags into what `generate()` and `forward()` of an enabled model take.

    Args:
        model: An enabled model; decides the device and the number of layers and heads.
        tokenizer: Its fast tokenizer; or its processor, for prompts with images.
        prompts: A text with tags, a chat (list of messages, rendered with the tokenizer's template
            and a generation prompt), a `MarkedText` or an `Encoding`; or a list of these, which
            becomes a batch: padded on the left, and on the right for models whose tokens see all
            others (encoders, also those in front of a decoder). For a processor, no `Encoding`, and
            a placeholder where each image belongs: as text, which can be marked like any other; or
            in a chat as a part ``{"type": "image"}``, whose ``"mark"`` may be ``{"level": 2}``,
            ``{"delta": nats}`` or ``{"group": name}``, or a list of such. A mark counts on all
            tokens of its image.
        images: With a processor: the images of the prompt, or a list with those of each prompt, as
            pictures of Pillow or arrays of pixels. A chat may have them in its parts instead, as
            ``{"type": "image", "image": picture}``.
        delta: Δ of a level-2 mark, nats; short for ``steering=Steering.guide(delta)``. Without
            `delta`, `steering` and `min_share` it is 1.
        steering: What marks mean, one for all prompts or one per prompt.
        min_share: Instead of `delta` or `steering`: the minimum share of the attention, from 0 to
            below 1, that the marked tokens of a prompt get together, in every row of every head.
            All marks count alike, whatever level or Δ they state.
        trusted_roles: Roles of a chat whose tags act.
        max_length: Longest prompt, in tokens; a longer text is truncated. To cut off a marked token
            or a token of an image is an error, and so is an `Encoding` that is longer.
        decoder_prompts: Encoder–decoders only: what the decoder's texts begin with, tags included;
            one for all prompts or one per prompt. They must have as many tokens, because decoders
            count positions with the padding.
        **template_kwargs: Passed on to the chat template; see `guide_ext.chat.encode_chat`.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[batch, tokens]``, and

        * ``guide_bias``, float32 ``[batch, tokens]``, nats; with `min_share` instead
          ``guide_share``, float32 ``[batch, tokens]``, `min_share` on marked tokens;
        * ``guide_strength``, float32 ``[batch, layers, heads]``, unless every layer and head is
          steered;
        * with ``<?->`` tags ``guide_seed``, float32 ``[batch, groups, tokens]``, 1 on the tokens of
          each group; the names of the groups are ``.groups``. Only `influence` and
          `generate_with_influence` use it.
        * with `decoder_prompts` ``decoder_input_ids``, int64, and ``guide_decoder_bias``, float32,
          both ``[batch, tokens]``; the first is the token that the model begins every text with.
          With ``<?->`` tags in either text also ``guide_decoder_seed``, of the same groups as
          ``guide_seed``.
        * with a processor all that it returns beside, such as ``pixel_values``, image sizes and
          types of tokens, but for ``labels``.

    Raises:
        TagError: If tags do not match, or stand where none is read: in a role that is not trusted,
            a field that is not the content, an argument of the chat template.
        ValueError: If the model is not enabled, the tokenizer is not fast, a mark matches no token,
            `delta` is not finite, a layer or head is not in the model, more than one of `delta`,
            `steering` and `min_share` is given, `decoder_prompts` do not fit, images and
            placeholders do not, a mark cuts a placeholder, or a processor makes tokens that cannot
            be followed.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=8, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=2, num_attention_heads=4)
        >>> model = guide.enable(LlamaForCausalLM(config))
        >>> words = Tokenizer(models.WordLevel({"?": 0, "say": 1, "it": 2, "twice": 3}, "?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> inputs = guide.encode(model, tokenizer, "say it <!!->twice<-!!>", delta=2.0)
        >>> inputs["guide_bias"]
        tensor([[0., 0., 2.]])
        >>> model.generate(**inputs, min_new_tokens=2, max_new_tokens=2, pad_token_id=0).shape
        torch.Size([1, 5])

    """
    num_layers, num_heads = table_size(model)
    if delta is not None and steering is not None:
        raise ValueError(
            f"delta must be None when steering is given, got delta={delta!r}; "
            "use steering=Steering.guide(delta, ...)"
        )
    if min_share is not None:
        refuse_two_texts(model, "min_share")
        steering = _marks_alone(min_share, delta, steering)
    elif steering is None:
        steering = Steering.guide(1.0 if delta is None else delta)
    listed = _as_list(prompts)
    padding_side = "right" if state_of(model).findings.pads_right else "left"
    beside: dict[str, Any] = {}
    words = tokenizer
    if is_processor(tokenizer):
        if state_of(model).findings.has_encoder:
            raise ValueError(
                f"tokenizer must be the tokenizer of an encoder–decoder, got a "
                f"{type(tokenizer).__name__}: where the tokens of images are in its source is not "
                "known; for text alone, pass processor.tokenizer"
            )
        found = read_prompts(
            tokenizer, listed, images, is_single=len(listed) == 1 and listed[0] is prompts,
            trusted_roles=trusted_roles, template_kwargs=template_kwargs,
        )  # fmt: skip
        encodings, beside = encode_images(
            tokenizer, found, padding_side=padding_side, max_length=max_length
        )
        words = tokenizer.tokenizer
    else:
        encodings = [
            _encode_one(tokenizer, prompt, images, trusted_roles, max_length, template_kwargs)
            for prompt in listed
        ]
    batch = collate(
        encodings,
        steering,
        num_layers=num_layers,
        num_heads=num_heads,
        pad_token_id=pad_token_id(words),
        padding_side=padding_side,
    )
    tensors = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "guide_bias": batch.bias,
        "guide_strength": batch.strength,
        "guide_seed": batch.seed,
    }
    groups = batch.groups
    if decoder_prompts is not None:
        begins = _decoder_encodings(model, tokenizer, decoder_prompts, len(encodings))
        tensors |= _decoder_inputs(model, begins, steering)
        groups = group_names([*encodings, *begins])
        if groups:
            tensors["guide_seed"] = seed_of(encodings, groups, batch.input_ids.shape[1], "right")
            slots = 1 + len(begins[0].input_ids)
            tensors[DECODER_SEED] = seed_of(begins, groups, slots, "left")
    if min_share is not None:
        tensors |= {"guide_bias": None, "guide_share": min_share * batch.bias}
    if batch.strength is not None:
        strength_size(model)  # raises if some layers or heads of the model are not known here
    device = _input_device(model)
    inputs = Inputs((name, t.to(device)) for name, t in tensors.items() if t is not None)
    inputs.update((name, _moved(value, device)) for name, value in beside.items())
    inputs.groups = groups
    return inputs


def _decoder_encodings(
    model: Any,
    tokenizer: Any,
    prompts: str | MarkedText | Sequence[str | MarkedText],
    rows: int,
) -> list[Encoding]:
    """Tokenise what the texts of a decoder begin with, behind the first token.

    Raises:
        ValueError: If the model has no encoder, or the prompts are not one per row or differ in
            length.

    """
    if not state_of(model).findings.has_encoder:
        raise ValueError(
            f"decoder_prompts must go to an encoder–decoder, got a {type(model).__name__}, which "
            "has one text; write them into the prompts"
        )
    texts = [prompts] * rows if isinstance(prompts, str | MarkedText) else list(prompts)
    if len(texts) != rows:
        raise ValueError(
            f"decoder_prompts must be one, or one per prompt: {rows}, got {len(texts)}"
        )
    encodings = [encode_text(tokenizer, text, add_special_tokens=False) for text in texts]
    lengths = sorted({len(encoding.input_ids) for encoding in encodings})
    if len(lengths) > 1:
        raise ValueError(
            f"decoder_prompts must have as many tokens in every row, got {lengths[0]} and "
            f"{lengths[-1]}; encode those of other lengths in a batch of their own"
        )
    return encodings


def _decoder_inputs(model: Any, encodings: Sequence[Encoding], steering: Any) -> dict[str, Tensor]:
    """Return the ids and the bias of what the texts of a decoder begin with.

    Raises:
        ValueError: If nothing tells what every text begins with.

    """
    start = first_token(model, {})
    if start is None:
        raise ValueError(
            f"decoder_prompts must go to a model with a decoder_start_token_id, got a "
            f"{type(model).__name__} without one; set model.generation_config."
            "decoder_start_token_id"
        )
    each = [steering] * len(encodings) if isinstance(steering, Steering) else steering
    nats = [one.bias(encoding) for one, encoding in zip(each, encodings, strict=True)]
    ids = torch.tensor([[start, *encoding.input_ids] for encoding in encodings])
    return {"decoder_input_ids": ids, DECODER_BIAS: F.pad(torch.stack(nats), (1, 0))}


def _marks_alone(min_share: float, delta: float | None, steering: object) -> Steering:
    """Return a steering whose bias is 1 on every marked token and 0 elsewhere."""
    if delta is not None or steering is not None:
        raise ValueError(
            "min_share must come without delta and steering, which say otherwise how strong a mark "
            f"is, got delta={delta!r} and steering={steering!r}"
        )
    if not 0 <= as_float(min_share) < 1:
        raise ValueError(f"min_share must be a number from 0 to below 1, got {min_share!r}")
    return Steering.instaboost(math.e)


def encoding_of(tokenizer: Any, prompt: Prompt) -> Encoding:
    """Return the tokens of one prompt and their marks, as `encode` reads it by default.

    Raises:
        ValueError: As `encode` does; `TagError` too.

    """
    return _encode_one(tokenizer, prompt, None, ("system", "user"), None, {})


def _encode_one(
    tokenizer: Any,
    prompt: Prompt,
    images: object,
    trusted_roles: Collection[str],
    max_length: int | None,
    template_kwargs: dict[str, Any],
) -> Encoding:
    refuse_images(tokenizer, prompt, images)
    if is_chat(prompt):
        return encode_chat(
            tokenizer, prompt, trusted_roles=trusted_roles, max_length=max_length, **template_kwargs
        )
    if not isinstance(prompt, str | MarkedText | Encoding):
        raise ValueError(
            "prompts must be text, chats (lists of messages), MarkedText or Encoding, "
            f"or a list of such, got {type(prompt).__name__}"
        )
    if template_kwargs:
        raise ValueError(
            f"{', '.join(template_kwargs)} must go with a chat, whose template takes it, got "
            f"{'tokens' if isinstance(prompt, Encoding) else 'text'}"
        )
    if isinstance(prompt, Encoding):
        if max_length is not None and len(prompt.input_ids) > max_length:
            raise ValueError(
                f"max_length must be at least the {len(prompt.input_ids)} tokens of an Encoding, "
                f"which is taken as it is, got {max_length}"
            )
        return prompt
    return encode_text(tokenizer, prompt, max_length=max_length)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    if isinstance(prompts, str | MarkedText | Encoding) or is_chat(prompts):
        return [prompts]
    if not isinstance(prompts, Sequence):
        return [prompts]
    return list(prompts)


def pad_token_id(tokenizer: Any) -> int:
    """Return a token id for padding. Any id will do, because attention never sees it."""
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    return 0


def _input_device(model: Any) -> Any:
    """Return the device of the embedding, where a model that is spread over devices begins."""
    return model.get_input_embeddings().weight.device


def _moved(value: Any, device: Any) -> Any:
    """Move a tensor, or each of a list of tensors."""
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
