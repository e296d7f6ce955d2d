# SPDX-License-Identifier: MIT
"""A tiny input for any model that reads token ids, or, in front of a decoder, sound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Long enough for one row to have padding and several tokens.
_TOKENS = 8
# The input is made longer than windows, chunks, selections and compression of at most this many
# tokens, so that they have an effect; longer ones would need a long input.
_LONGEST_LIMIT = 64
_LIMITS = ("sliding_window", "attention_chunk_size", "index_topk", "indexer_budget",
           "index_block_size", "compress_rates", "keep_window_size")  # fmt: skip
# What configs call the numbers in one frame of sound.
_BINS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
_SAMPLES = 4000  # of sound: a quarter of a second, some ten positions of an encoder


@dataclass(frozen=True)
class Trial:
    """A tiny input of two rows, the first with padding.

    Attributes:
        inputs: Arguments of `forward`.
        mask: Of the text whose logits come out, 1 on tokens and 0 on padding, ``[2, tokens]``.

    """

    inputs: dict[str, Tensor]
    mask: Tensor

    def run(self, model: nn.Module) -> Tensor:
        """Run the model and return what it gives for tokens that are no padding.

        Models that give something for a whole text, such as classes, give it for every row.
        """
        output: Tensor = model(**self.inputs, use_cache=False)[0]
        return output[self.mask.bool()] if output.shape[:2] == self.mask.shape else output

    def without_padding(self) -> Trial:
        """Return the row that has none."""
        return Trial({name: value[1:] for name, value in self.inputs.items()}, self.mask[1:])

    def without_masks(self) -> Trial:
        """Return the same without masks; every token counts then."""
        kept = {name: v for name, v in self.inputs.items() if not name.endswith("attention_mask")}
        return Trial(kept, torch.ones_like(self.mask))

    def twice(self) -> Trial:
        """Return two rows that are both the one without padding, and no masks."""
        kept = {name: v for name, v in self.inputs.items() if not name.endswith("attention_mask")}
        doubled = {name: torch.cat([value[1:]] * 2) for name, value in kept.items()}
        return Trial(doubled, torch.ones_like(self.mask))


def trial_of(model: Any) -> Trial:
    """Make the input.

    Args:
        model: A model of transformers that reads token ids, or an encoder–decoder of text or sound.

    """
    input_ids, attention_mask = tiny_batch(model)
    if not model.config.is_encoder_decoder:
        return Trial({"input_ids": input_ids, "attention_mask": attention_mask}, attention_mask)
    inputs = {"decoder_input_ids": input_ids}
    if "decoder_attention_mask" in inspect.signature(model.forward).parameters:
        inputs["decoder_attention_mask"] = attention_mask
    else:
        attention_mask = torch.ones_like(attention_mask)
    if model.main_input_name == "input_ids":
        # Another text, and longer; an encoder counts positions from the left, padded or not.
        source = (torch.cat([input_ids.flip(1), input_ids[:, :3]], 1) * 3) % _vocabulary(model)
        inputs["input_ids"] = source
        inputs["attention_mask"] = torch.ones_like(source)
        inputs["attention_mask"][0, -2:] = 0
    else:
        inputs[model.main_input_name] = _sound(model).to(input_ids.device)
    return Trial(inputs, attention_mask)


def tiny_run(model: Any) -> Callable[[], None]:
    """Return what runs the model once, in evaluation mode, on a few tokens without padding.

    What the model takes is found out before: that may call its encoder.
    """
    if model.config.is_encoder_decoder:
        trial = trial_of(model).without_padding()
    else:
        ids = tiny_batch(model)[0][1:]
        trial = Trial({"input_ids": ids}, torch.ones_like(ids))

    def run() -> None:
        with evaluation(model), torch.no_grad():
            trial.run(model)

    return run


def tiny_batch(model: Any) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of two rows, the first with left padding."""
    config = model.config.get_text_config()
    tokens = max(_TOKENS, 3 + max(_short_limits(config), default=0))
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), "cpu")
    # Multiples of a prime: all different, and far from the special tokens at the start.
    input_ids = (torch.arange(1, 2 * tokens + 1, device=device) * 7) % config.vocab_size
    attention_mask = torch.ones(2, tokens, dtype=torch.long, device=device)
    attention_mask[0, : tokens // 3] = 0
    return input_ids.view(2, tokens), attention_mask


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside a ``with`` block, then restore its own mode."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _sound(model: Any) -> Tensor:
    """Return two rows of sound in the form that the encoder takes.

    Raises:
        ValueError: If it takes none of the known ones.

    """
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    parts = (model.config, getattr(model.config, "encoder_config", None))
    sizes = [getattr(part, name, None) for part in parts for name in _BINS]
    bins = next((size for size in sizes if size), None)
    positions = getattr(model.config, "max_source_positions", None) or 2 * _TOKENS
    stride = 2  # Whisper: the second of its two convolutions
    shapes = [(2, bins, stride * positions), (2, 4 * _TOKENS, bins)] if bins else []
    reasons = []
    for shape in (*shapes, (2, _SAMPLES)):
        sound = torch.randn(shape, generator=generator).to(weight)
        try:
            with evaluation(model), torch.no_grad():
                model.get_encoder()(sound)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reasons.append(f"{list(shape)}: {error}")
        else:
            return sound
    raise ValueError(f"{model.main_input_name} has none of the known forms ({'; '.join(reasons)})")


def _vocabulary(model: Any) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


def _short_limits(config: Any) -> list[int]:
    """Return the windows and other limits of a config that are few tokens."""
    values = [getattr(config, name, None) for name in _LIMITS]
    values += [v for value in values if isinstance(value, dict) for v in value.values()]
    return [v for v in values if isinstance(v, int) and 0 < v <= _LONGEST_LIMIT]
